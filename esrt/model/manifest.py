"""Folders that are whole or not there: written beside, flushed, renamed; each file's SHA-256 in MANIFEST.json."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from esrt.errors import ModelError

MANIFEST = "MANIFEST.json"
CARD = "card.md"  # words on a model, for people
_BLOCK = 1 << 20


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file; about a second for a gigabyte."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write(folder: Path) -> None:
    """Writes MANIFEST.json: relative path -> size and SHA-256 of every other file of the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    files: dict[str, dict[str, int | str]] = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths
    }
    (folder / MANIFEST).write_text(text(files), encoding="utf-8")


def text(files: Mapping[str, Mapping[str, int | str]]) -> str:
    """What stands in MANIFEST.json: relative path -> `bytes` and `sha256`."""
    return json.dumps({"format": 1, "files": files}, indent=1) + "\n"


def identity(folder: Path) -> str:
    """A folder's files in 16 hex digits: what was saved anew in the same place is another; its card alone is not.

    Raises ModelError `model_damaged`.
    """
    listed = {name: digest for name, (_, digest) in sorted(_listed(folder).items()) if name != CARD}
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def check(folder: Path) -> None:
    """Reads every file that MANIFEST.json lists and compares its size and hash.

    Raises ModelError `model_damaged`, which names the first file that is missing, cut or changed.
    """
    for name, (size, digest) in _listed(folder).items():
        path = folder / name
        try:
            whole = path.stat().st_size == size and sha256(path) == digest
        except OSError as error:
            raise ModelError("model_damaged", f"{path} cannot be read ({error.strerror}).") from error
        if not whole:
            raise ModelError("model_damaged", f"{path} is not the file its model was made with.")


def _listed(folder: Path) -> dict[str, tuple[int, str]]:
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        listed = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            "model_damaged", f"{folder} has no readable {MANIFEST}: fetch or save the model anew."
        ) from error
    for name in listed:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or not parts.parts:
            raise ModelError("model_damaged", f"{folder / MANIFEST} names a file outside its folder.")
    return listed


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target` to write into.

    When the block ends without an error, the folder gets its manifest, is flushed to disk and takes the place of
    `target`; else it is removed and `target` stays as it was. Where `target` is a link, what it leads to is replaced.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
    old = work.with_name(work.name + "-old")
    try:
        work.chmod(0o755)  # mkdtemp keeps others out; a model is no secret
        yield work
        write(work)
        for path in work.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # safetensors makes private files
            flush(path)
        flush(work)
        if target.exists():
            target.rename(old)
        work.rename(target)
        flush(target.parent)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(target: Path) -> None:
    """Removes what interrupted writers of `target` left beside it. Only for the holder of its lock."""
    for path in target.parent.glob(f".{target.name}.new-*"):
        shutil.rmtree(path, ignore_errors=True)


def put(written: Path, path: Path) -> None:
    """Gives a file that is written whole the name `path`, so that after a power cut it is the old one or this."""
    flush(written)
    written.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
