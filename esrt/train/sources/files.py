"""Files of data sets: what must be there, tables with tabs, clips to be kept."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esrt.errors import UsageError


def need(path: Path, hint: str) -> Path:
    """`path`, which must exist; else UsageError wrong_layout with the `hint` what to do."""
    if not path.exists():
        raise UsageError("wrong_layout", f"{path} is not there: {hint}.")
    return path


def table(path: Path, columns: tuple[str, ...], names: tuple[str, ...] | None = None) -> Iterator[dict[str, str]]:
    """The rows of a TSV as the speech corpora write it: no quotes, so a quotation mark is a letter.

    `names` names the columns of a file without a head line. Raises UsageError as `lines`.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from lines(path, csv.DictReader(file, names, delimiter="\t", quoting=csv.QUOTE_NONE), columns)


def lines(path: Path, reader: csv.DictReader[str], columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows that `reader` finds in the table `path`.

    Raises UsageError wrong_layout, with the line of the first row that lacks one of `columns` or is no text in UTF-8.
    """
    try:
        for row in reader:
            missing = [column for column in columns if row.get(column) is None]
            if missing:
                raise UsageError("wrong_layout", f"{path}, line {reader.line_num}: no column {missing[0]!r}.")
            yield row
    except (UnicodeDecodeError, csv.Error) as error:
        after = f"{path}, after line {reader.line_num}"
        raise UsageError("wrong_layout", f"{after}: this is no table in UTF-8 ({error}).") from error


def keep(path: Path, data: bytes) -> Path:
    """Writes a clip beside, then renames; one that an earlier run left there is kept. Returns `path`.

    Raises UsageError clip_differs where another clip has that name.
    """
    if path.exists():
        if path.stat().st_size != len(data):
            raise UsageError(
                "clip_differs", f"{path} is another clip of that name: take it away, or choose another --name."
            )
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".part")
        beside.write_bytes(data)
        beside.replace(path)
    return path


def keep_clip(folder: Path, audio: dict[str, Any]) -> Path:
    """Writes the {bytes, path} of a Parquet file into `folder`, under its own name, or its digest where it has none."""
    name = audio["path"] or f"{hashlib.blake2b(audio['bytes'], digest_size=10).hexdigest()}.wav"
    return keep(folder / Path(name).name, audio["bytes"])
