"""Texts with times -> the formats in which others read them. Pure functions: a list of cues in, one string out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# What a file of each format is called at its end.
SUFFIXES = {"text": "txt", "json": "json", "verbose_json": "json", "srt": "srt", "vtt": "vtt", "tsv": "tsv"}

# Sentences follow each other without a space. (Thai, Lao, Khmer and Burmese do set one between sentences.)
_UNSPACED = {"cmn", "jpn", "yue"}


class Cue(NamedTuple):
    """What was said from second `start` to second `end`."""

    start: float
    end: float
    text: str


def render(
    form: str, cues: Iterable[Cue], language: str | None = None, duration: float = 0.0, task: str = "transcribe"
) -> str:
    """The cues in one of SUFFIXES' formats, with a line break at the end. Cues without text are left out.

    `language` is the texts' ISO 639-3 code, which joins them rightly; `duration` (seconds) and `task` (transcribe or
    translate) are told in `verbose_json` alone. The JSON is that of OpenAI's audio API.
    """
    shown = [Cue(cue.start, cue.end, one_line(cue.text)) for cue in cues if cue.text.strip()]
    if form == "json":
        return _json({"text": join((cue.text for cue in shown), language)})
    if form == "verbose_json":
        return _json(
            {
                "task": task,
                "language": language,
                "duration": duration,
                "text": join((cue.text for cue in shown), language),
                "segments": [{"id": number, **cue._asdict()} for number, cue in enumerate(shown)],
            }
        )
    return {"text": text, "srt": srt, "vtt": vtt, "tsv": tsv}[form](shown)


def text(cues: Sequence[Cue]) -> str:
    """A line a cue."""
    return "".join(f"{cue.text}\n" for cue in cues)


def srt(cues: Sequence[Cue]) -> str:
    """SubRip. It has no escapes, so an arrow in a text, which could pass for times, loses its dashes but one."""
    return "\n".join(
        f"{number}\n{stamp(cue.start, ',')} --> {stamp(cue.end, ',')}\n{re.sub('-{2,}>', '->', cue.text)}\n"
        for number, cue in enumerate(cues, 1)
    )


def vtt(cues: Sequence[Cue]) -> str:
    """WebVTT, with what would be markup in it escaped."""
    lines = (
        f"\n{stamp(cue.start)} --> {stamp(cue.end)}\n"
        f"{cue.text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}\n"
        for cue in cues
    )
    return "WEBVTT\n" + "".join(lines)


def tsv(cues: Sequence[Cue]) -> str:
    """Start and end in whole milliseconds, and the text, with tabs between and a line of names above."""
    lines = (f"{round(cue.start * 1000)}\t{round(cue.end * 1000)}\t{cue.text}\n" for cue in cues)
    return "start\tend\ttext\n" + "".join(lines)


def stamp(seconds: float, point: str = ".") -> str:
    """`3723.5` -> `"01:02:03.500"`; hours have as many digits as they need."""
    minutes, thousandths = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{thousandths // 1000:02}{point}{thousandths % 1000:03}"


def one_line(said: str) -> str:
    """A text without line breaks, tabs and double spaces: an empty line would end a cue, a tab a column."""
    return " ".join(said.split())


def join(texts: Iterable[str], language: str | None) -> str:
    """Texts that follow each other as one, with spaces between them where the language writes them."""
    return ("" if language in _UNSPACED else " ").join(text for text in texts if text)


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
