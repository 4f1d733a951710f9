"""Results: one JSON object a line, with the fields of the authors' release, written so that a run may stop anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from esrt.errors import UsageError
from esrt.languages import LANGUAGES
from esrt.train.manifest import Row, json_lines

Key = tuple[str, str, str]

_TAG = re.compile(r"<\|([a-z]{3})\|>")


@dataclass(frozen=True)
class Result:
    """A row of a manifest with what a system made of it.

    `prompt` is what the system was told: `<|src|><|tgt|>`, or without `<|src|>` where it had to find the language.
    `asr_r` and `s2tt_r` are its transcript and translation, `response` both as the authors' models write them:
    `transcript<|src|><|tgt|>translation`, with the language that the system found.
    """

    id: str
    audio: str
    prompt: str
    src: str
    tgt: str
    asr: str
    s2tt: str
    asr_r: str
    s2tt_r: str
    response: str

    @property
    def key(self) -> Key:
        return (self.id, self.src, self.tgt)

    @property
    def named(self) -> bool:
        """Whether the system was told which language is spoken."""
        return self.prompt == tag(self.src) + tag(self.tgt)

    @property
    def found(self) -> str | None:
        """The language that the system says it heard: the first tag of its response, the last being the target's."""
        tags = _TAG.findall(self.response)
        return next((code for code in (tags[:-1] if self.tgt else tags) if code in LANGUAGES), None)


def tag(code: str | None) -> str:
    """`<|deu|>`; "" for no language."""
    return LANGUAGES[code].tag if code else ""


def result(row: Row, audio: str, named: bool, found: str | None, transcript: str, translation: str) -> Result:
    """One result, put together from a row and an answer."""
    return Result(
        id=row.id, audio=audio, prompt=(tag(row.src) if named else "") + tag(row.tgt), src=row.src, tgt=row.tgt,
        asr=row.asr, s2tt=row.s2tt, asr_r=transcript, s2tt_r=translation,
        response=transcript + tag(found) + tag(row.tgt) + translation,
    )  # fmt: skip


def read(path: Path) -> list[Result]:
    """All results of a file; of two with the same id and languages the later one counts.

    Raises UsageError `manifest_not_readable`, `results_bad_row` with the number of the first bad line, `results_empty`.
    """
    names = [field.name for field in fields(Result)]
    found: dict[Key, Result] = {}
    for number, entry in json_lines(path):
        wrong = next((name for name in names if not isinstance(entry.get(name), str)), None)
        reason = f"the field {wrong!r} is missing or no string" if wrong else ""
        for name in () if wrong else ("src", "tgt"):
            if entry[name] not in LANGUAGES and (name == "src" or entry[name]):
                reason = f"{entry[name]!r} in {name!r} is no language of `esrt languages`"
        if reason:
            raise UsageError("results_bad_row", f"{path}, line {number}: {reason}: is this a file of results?")
        one = Result(**{name: entry[name] for name in names})
        found[one.key] = one
    if not found:
        raise UsageError("results_empty", f"{path} has no results: is the run that writes it finished?")
    return list(found.values())


def repair(path: Path) -> bool:
    """Cuts off a last line that was not written to its end; returns whether there was one. No file is no damage."""
    if not path.is_file():
        return False
    with path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        file.truncate(whole)
    return whole != len(text)


def append(file: BinaryIO, results: Iterable[Result]) -> None:
    """Writes the results of one clip at once, so that a run that is killed leaves at most one line torn."""
    file.write(b"".join(json.dumps(asdict(one), ensure_ascii=False).encode() + b"\n" for one in results))
    file.flush()


def pairs(results: Iterable[Result]) -> Iterator[tuple[tuple[str, str], list[Result]]]:
    """The results of each direction, in the order of its codes; a direction without target is transcription."""
    by_pair: dict[tuple[str, str], list[Result]] = {}
    for one in results:
        by_pair.setdefault((one.src, one.tgt), []).append(one)
    yield from sorted(by_pair.items())
