"""Data sets in Parquet, in a local folder or streamed from the Hub of Hugging Face: clips arrive as encoded bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from esrt.errors import UsageError


def rows(where: str, config: str, split: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a split, `columns` only; sound stays as it is: {bytes, path}, not decoded.

    `where` is a folder or the name of a data set on the Hub. Raises UsageError: wrong_layout and hub_unreachable at
    once, wrong_layout too when a file turns out to be damaged or without a column.
    """
    return _stream(_shards(where, config, split), columns, f"{config} {split}")


def _shards(where: str, config: str, split: str) -> list[str]:
    """The split's files. Data sets with a loading script have theirs on the branch that the Hub converts by itself."""
    patterns = (f"{config}/{split}-*.parquet", f"{config}/{split}/*.parquet")
    if Path(where).is_dir():
        found = [[str(path) for path in sorted(Path(where).glob(pattern))] for pattern in patterns]
    else:
        from huggingface_hub import HfFileSystem

        roots = [f"datasets/{where}", f"datasets/{where}@refs/convert/parquet"]
        try:
            globs = [HfFileSystem().glob(f"{root}/{pattern}") for root in roots for pattern in patterns]
        except Exception as error:  # its HTTP library, and so the errors of a lost connection, differ between versions
            raise UsageError(
                "hub_unreachable",
                f"{where} is no folder here, and the Hub cannot be asked for it ({type(error).__name__}): connect, set "
                "HF_TOKEN if it asks for one, or name a local folder.",
            ) from error
        found = [[f"hf://{path}" for path in sorted(paths)] for paths in globs]
    files = next((paths for paths in found if paths), [])
    if not files:
        raise UsageError("wrong_layout", f"{where} has neither {' nor '.join(patterns)}.")
    return files


def _stream(files: list[str], columns: list[str], title: str) -> Iterator[dict[str, Any]]:
    import datasets

    # What goes wrong is said in our one line.
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    try:
        found = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, columns=columns)
        if "audio" in columns:
            found = found.cast_column("audio", datasets.Audio(decode=False))
        yield from tqdm(found, desc=title, unit="row", disable=None)
    except Exception as error:  # of Arrow, of the file system, of HTTP
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UsageError("wrong_layout", f"Cannot read {', '.join(columns)} of {files[0]}: {reason}.") from error
