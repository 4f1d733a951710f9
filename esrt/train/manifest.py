"""Manifests: one JSON object a line, with the fields of the authors' release."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from esrt.errors import UsageError
from esrt.languages import LANGUAGES


@dataclass(frozen=True)
class Row:
    """One clip and, where `tgt` is not empty, one translation of it. `audio` is relative to the manifest's folder."""

    id: str
    audio: str
    src: str
    tgt: str
    asr: str
    s2tt: str


def held_out(key: str) -> bool:
    """True for the fifth of all prompts and scenes (by hash of the name) that training never sees."""
    return hashlib.sha256(key.encode()).digest()[0] % 5 == 0


def read_manifest(path: Path) -> list[Row]:
    """Reads and checks a manifest; `audio` becomes an absolute path.

    Raises UsageError with the line number of the first bad row.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("manifest_not_readable", f"Cannot read the manifest {path}: {error}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            row = Row(**{name: fields[name] for name in Row.__dataclass_fields__})
            if row.src not in LANGUAGES or row.tgt not in ("", *LANGUAGES):
                raise ValueError(f"unknown language in {row.src!r} -> {row.tgt!r}")
            if not all(isinstance(value, str) for value in asdict(row).values()):
                raise ValueError("every field is a string")
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError("manifest_bad_row", f"{path}, line {number}: {error}. See docs/training.md.") from error
        rows.append(Row(**{**asdict(row), "audio": str((path.parent / row.audio).resolve())}))
    if not rows:
        raise UsageError("manifest_empty", f"The manifest {path} has no rows.")
    return rows


def write_manifest(path: Path, rows: Iterable[Row]) -> int:
    """Writes rows beside, then renames; returns how many."""
    count = 0
    beside = path.with_suffix(".part")
    with beside.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
            count += 1
    beside.replace(path)
    return count
