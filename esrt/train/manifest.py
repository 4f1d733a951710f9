"""Manifests: one JSON object a line, with the fields of the authors' release."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from esrt.errors import UsageError
from esrt.languages import LANGUAGES

SPOKEN_ON_THE_FLY = "synth:"  # an `audio` that begins so is no file but a recipe for `sources.synth.load`


@dataclass(frozen=True)
class Row:
    """One clip and, where `tgt` is not empty, one translation of it, or captions in that language, each of which says
    how it is spoken. `audio` is relative to the manifest's folder.
    """

    id: str
    audio: str
    src: str
    tgt: str
    asr: str
    s2tt: str
    caption: tuple[str, ...] = ()

    @property
    def captioned(self) -> bool:
        """Whether captions stand where a translation would: it is no text of what is said."""
        return bool(self.tgt) and not self.s2tt


_FIELDS = tuple(field.name for field in fields(Row) if field.name != "caption")


def held_out(key: str) -> bool:
    """True for the fifth of all prompts and scenes (by hash of the name) that training never sees."""
    return hashlib.sha256(key.encode()).digest()[0] % 5 == 0


def rows_of(key: str, audio: str, source: str, texts: Mapping[str, str], targets: Iterable[str]) -> Iterator[Row]:
    """One clip's rows: its transcript, and a translation into each of `targets` that `texts`, by language, have."""
    yield Row(key, audio, source, "", texts[source], "")
    for target in targets:
        if target != source and target in texts:
            yield Row(key, audio, source, target, texts[source], texts[target])


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank.

    Raises UsageError: manifest_not_readable, or manifest_bad_row with the number of the first line that is no object.
    """
    try:
        # Not splitlines(): U+2028 and its like are line ends to Python, and letters to JSON.
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError("manifest_not_readable", f"Cannot read {path}: {reason}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise bad_row(path, number, f"this is not JSON ({error})") from error
        if not isinstance(entry, dict):
            raise bad_row(path, number, "one JSON object a line is expected")
        yield number, entry


def is_text(text: str) -> bool:
    """Whether a string has whole characters only, and no NUL: JSON can spell what no tokenizer and no file takes."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def bad_row(path: Path, number: int, reason: str) -> UsageError:
    """The error for line `number` of a JSONL file."""
    return UsageError("manifest_bad_row", f"{path}, line {number}: {reason}. docs/data.md shows how a line looks.")


def read_manifest(path: Path) -> list[Row]:
    """Reads and checks a manifest; `audio` becomes an absolute path.

    Raises UsageError: manifest_not_readable, manifest_empty, or manifest_bad_row with the line of the first bad row.
    """
    return [row for _, row in _rows(path)]


def check(path: Path) -> list[Row]:
    """As `read_manifest`, and every sound file must be there: manifest_no_audio has the line of the first that is not.

    Apart from `read_manifest`, because features that are cached need no sound files any more.
    """
    rows, there = [], set()
    for number, row in _rows(path):
        if row.audio not in there:
            if not is_there(row.audio):
                raise UsageError("manifest_no_audio", f"{path}, line {number}: there is no file {row.audio}.")
            there.add(row.audio)
        rows.append(row)
    return rows


def is_there(audio: str) -> bool:
    """Whether a row's sound can be heard: a file, or what is spoken on the fly."""
    try:
        return audio.startswith(SPOKEN_ON_THE_FLY) or Path(audio).is_file()
    except OSError:  # a name that is too long for any file
        return False


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    folder = path.parent.resolve()
    absolute: dict[str, str] = {}  # a clip has up to a hundred rows, and finding where its path leads takes a while
    for number, entry in json_lines(path):
        reason = _wrong(entry)
        if reason:
            raise bad_row(path, number, reason)
        audio = entry["audio"]
        if audio not in absolute:
            absolute[audio] = audio if audio.startswith(SPOKEN_ON_THE_FLY) else os.path.realpath(folder / audio)
        texts = {name: entry[name] for name in _FIELDS} | {"audio": absolute[audio]}
        yield number, Row(**texts, caption=_captions(entry))
    if not absolute:
        raise UsageError("manifest_empty", f"The manifest {path} has no rows.")


def _wrong(entry: dict[str, Any]) -> str:
    """What is wrong with a row, in words; "" where nothing is. Fields beyond ours are let through."""
    for name in _FIELDS:
        if name not in entry:
            return f"the field {name!r} is missing"
        if not isinstance(entry[name], str):
            return f"the field {name!r} is not a string"
        if not is_text(entry[name]):
            return f"the field {name!r} has half of a character (a lone surrogate) or a NUL character"
    for name in ("id", "audio"):
        if not entry[name]:
            return f"the field {name!r} is empty"
    for name in ("src", "tgt"):
        if entry[name] not in LANGUAGES and (name == "src" or entry[name]):
            return f"{entry[name]!r} in {name!r} is no language of `esrt languages`"
    captions = _captions(entry)
    if not all(isinstance(text, str) and text.strip() and is_text(text) for text in captions):
        return "the field 'caption' is no text, nor a list of texts"
    if bool(entry["tgt"]) != bool(entry["s2tt"] or captions):
        return "'tgt' and 's2tt' (or 'caption') go together: both, or none of the two"
    if entry["s2tt"] and entry["tgt"] == entry["src"]:
        return f"'src' and 'tgt' are both {entry['src']!r}, and a translation is into another language"
    return ""


def _captions(entry: dict[str, Any]) -> tuple[Any, ...]:
    """One text or a list of them; `_wrong` looks at what they are."""
    found = entry.get("caption", ())
    return tuple(found) if isinstance(found, list | tuple) else (found,)


def write_manifest(path: Path, rows: Iterable[Row]) -> int:
    """Writes rows beside, then renames; returns how many. Sound files below the manifest's folder are named from there.

    Raises UsageError no_rows where there are none, and manifest_not_written where a file cannot be made or named; that,
    or whatever `rows` raises, leaves no file.
    """
    waiting = iter(rows)
    folder, count = path.parent.resolve(), 0
    beside = path.with_name(path.name + ".part")
    try:
        first = next(waiting, None)
        if first is None:
            raise UsageError("no_rows", f"No clip fits what was asked for, so {path} was not written.")
        folder.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            for row in chain([first], waiting):
                audio = Path(row.audio)
                if audio.is_relative_to(folder):
                    row = replace(row, audio=audio.relative_to(folder).as_posix())
                entry = asdict(row)
                if not row.caption:
                    del entry["caption"]
                if not all(map(is_text, (row.audio, row.asr, row.s2tt, *row.caption))):
                    text = f"a text of {row.id!a}, or the name of {row.audio!a}, is not UTF-8 throughout"
                    raise UsageError("manifest_not_written", f"{path} was not written: {text}.")
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                count += 1
        beside.replace(path)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        raise UsageError("manifest_not_written", f"{path} was not written ({named}).") from error
    finally:
        with suppress(OSError):
            beside.unlink()
    return count
