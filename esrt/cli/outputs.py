"""Where the texts of a file go: to stdout, or into files, one a language."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from esrt.audio import subtitles
from esrt.audio.subtitles import SUFFIXES, Cue
from esrt.cli.journal import write
from esrt.edge.pipeline import Result
from esrt.errors import UsageError

# Formats with one text in them, which could not stand on stdout beside another.
_FILES_ONLY = {"srt", "vtt", "tsv"}
_NO_LANGUAGE = "und"


class Outputs:
    """One command's format, and the folder for its files: None where results go to stdout."""

    def __init__(self, form: str, folder: str | None) -> None:
        """Make the folder. Raises UsageError `output_not_saved` if it cannot be written to."""
        self.form = form
        self.folder = Path(folder or ".") if folder or form in _FILES_ONLY else None
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise not_saved(self.folder, error) from error
            if not os.access(self.folder, os.W_OK):
                raise UsageError("output_not_saved", f"{self.folder} cannot be written to: choose another --out.")

    def check(self, audio: Iterable[str]) -> None:
        """Raises UsageError `usage` if two files would have the same names for their results."""
        seen: dict[str, str] = {}
        for path in audio if self.folder is not None else ():
            stem = Path(path).stem
            if sys.platform in ("darwin", "win32"):  # to whose folders these are one name
                stem = unicodedata.normalize("NFC", stem).casefold()
            if stem in seen and seen[stem] != path:
                raise UsageError("usage", f"{seen[stem]} and {path} would write the same files: translate them apart.")
            seen[stem] = path

    def are_newer(self, audio: str, to: list[str]) -> bool:
        """Whether all results of a file are there, and younger than it."""
        if self.folder is None:
            return False
        if to:
            there = [path for path in (self._path(audio, code) for code in to) if path.is_file()]
        else:
            name = re.compile(re.escape(self._path(audio, "???").name).replace(r"\?\?\?", "[a-z]{3}"))
            there = [path for path in self.folder.iterdir() if name.fullmatch(path.name)]
        made = min((path.stat().st_mtime for path in there), default=0.0)
        return len(there) >= max(1, len(to)) and made >= Path(audio).stat().st_mtime

    def paths(self, audio: str, result: Result) -> list[Path]:
        """The files that `put` writes."""
        return [] if self.folder is None else [self._path(audio, code) for code in _texts(result)]

    def put(self, audio: str, result: Result, seconds: float | None) -> None:
        """Write a file's texts, and the names of files that were written to stdout.

        `seconds` is how long the audio is. Raises UsageError `output_not_saved`.
        """
        if self.folder is None:
            return show(on_stdout(self.form, audio, result, seconds))
        for code, cues in _texts(result).items():
            path = self._path(audio, code)
            task = "translate" if code in result.translations else "transcribe"
            text = subtitles.render(self.form, cues, code, _length(result, seconds), task)
            try:
                write(path, text.encode())
            except OSError as error:
                raise not_saved(path, error) from error
        show("\n".join(str(path) for path in self.paths(audio, result)))

    def _path(self, audio: str, code: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{Path(audio).stem}.{code}.{SUFFIXES[self.form]}"


def on_stdout(form: str, audio: str, result: Result, seconds: float | None) -> str:
    """`text`: the path, then a line a language. `json`: texts, bytes that crossed the wire and seconds in each half, as
    one object on one line; `verbose_json`: the length and the segments too.
    """
    if form == "text":
        lines = [(result.source or "---", result.transcript), *result.translations.items()]
        return "\n".join([audio, *(f"{code}  {line}" for code, line in lines)])
    value: dict[str, Any] = {
        "audio": audio,
        "source": result.source,
        "transcript": result.transcript,
        "translations": result.translations,
        "bytes": result.wire_bytes,
        "seconds": {"edge": round(result.edge_seconds, 3), "cloud": round(result.cloud_seconds, 3)},
    }
    if result.drafting is not None:
        value["drafting"] = result.drafting.to_json()
    if form == "verbose_json":
        names = ("start", "end", "source", "transcript", "translations")
        segments = [{name: getattr(segment, name) for name in names} for segment in result.segments]
        value |= {"duration": _length(result, seconds), "segments": segments}
    return json.dumps(value, ensure_ascii=False)


def show(text: str) -> None:
    """Print on stdout. Raises UsageError `output_not_saved`; BrokenPipeError where nobody reads on."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # Python would try, and complain, once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise not_saved("stdout", error) from error


def not_saved(what: object, error: OSError) -> UsageError:
    """The error that says that a result could not be written."""
    return UsageError("output_not_saved", f"{what} cannot be written: {error.strerror or error}.")


def _texts(result: Result) -> dict[str, list[Cue]]:
    """Language -> its text: the transcript under the language that is spoken, and each translation."""
    transcript = [Cue(segment.start, segment.end, segment.transcript) for segment in result.segments]
    return {
        result.source or _NO_LANGUAGE: transcript,
        **{
            code: [Cue(segment.start, segment.end, segment.translations[code]) for segment in result.segments]
            for code in result.translations
        },
    }


def _length(result: Result, seconds: float | None) -> float:
    """Seconds of the audio; where nothing says them, up to the last word."""
    return round(seconds if seconds is not None else max((s.end for s in result.segments), default=0.0), 3)
