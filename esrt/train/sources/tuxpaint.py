"""Spoken captions of Tux Paint's stamps in eleven languages, text in many more (Debian `tuxpaint-stamps-default`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import escape
from pathlib import Path

from esrt.languages import LANGUAGES
from esrt.train.manifest import Row, held_out, rows_of
from esrt.train.sources import files

# `pt` stands before `pt_BR` in the files, and the last counts.
LOCALES = {language.bcp47: code for code, language in LANGUAGES.items()} | {"zh_CN": "cmn", "pt_BR": "por"}
_LINE = re.compile(r"(\w+)\.utf8=(.+)")
_NOT_SAID = re.compile(r"[0-9$%/=<>()\[\]{}_]")  # prices, formulas and asides, which speakers leave out or spell out


def captions(path: Path) -> dict[str, str]:
    """Language -> text of one stamp; the first line of the file is English."""
    english, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    found = {"eng": english}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match and match[1] in LOCALES:
            found[LOCALES[match[1]]] = match[2]
    return {language: " ".join(text.split()) for language, text in found.items()}


def rows(root: Path, test: bool) -> Iterator[Row]:
    """One row per spoken caption and language it is translated to; a fifth of the captions is held out."""
    stamps = files.need(root / "usr/share/tuxpaint/stamps", "unpack tuxpaint-stamps-default there (dpkg -x)")
    for path in sorted(stamps.rglob("*.txt")):
        stamp = path.relative_to(stamps).with_suffix("").as_posix()
        texts = captions(path)
        # By the caption, not by the stamp: several stamps show the same thing.
        if held_out(texts["eng"]) != test:
            continue
        texts = {language: text for language, text in texts.items() if text and not _NOT_SAID.search(text)}
        for audio in sorted(path.parent.glob(f"{escape(path.stem)}_desc*.ogg")):
            source = LOCALES.get(audio.stem.removeprefix(f"{path.stem}_desc").removeprefix("_") or "en")
            if source not in texts:
                continue
            name = f"tuxpaint-{source}-{stamp}"
            yield from rows_of(name, str(audio), source, texts, texts)
