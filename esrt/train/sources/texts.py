"""Parallel texts to be spoken: a JSONL file of {language: text}, a manifest, or game packages."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from esrt.errors import UsageError
from esrt.languages import LANGUAGES
from esrt.train.manifest import bad_row, held_out, is_text, json_lines, read_manifest
from esrt.train.sources import catalogues, fillets


def read(path: Path, languages: Collection[str]) -> list[dict[str, str]]:
    """Language -> text, for each sentence, `languages` at least; held-out scenes of games are left out.

    A manifest gives what its clips say, with all translations. Raises UsageError: no_texts, manifest_bad_row with the
    line, and what `read_manifest` raises.
    """
    if path.is_dir():
        dialogue = [texts for (scene, _), texts in fillets.dialogue(path).items() if not held_out(scene)]
        found = catalogues.sentences(path, languages) + dialogue
        if not found:
            raise UsageError("no_texts", f"{path} has no texts: unpack Wesnoth's or Fish Fillets' packages there.")
        return found
    found = []
    for number, entry in json_lines(path):
        if "audio" in entry:
            return _said(path)
        for language, text in entry.items():
            if language not in LANGUAGES:
                raise bad_row(path, number, f"{language!r} is no language of `esrt languages`")
            if not isinstance(text, str) or not text.strip() or not is_text(text):
                raise bad_row(path, number, f"the text in {language!r} is not a sentence")
        found.append(entry)
    if not found:
        raise UsageError("no_texts", f"{path} has no texts.")
    return found


def _said(path: Path) -> list[dict[str, str]]:
    """What a manifest's clips say; several recordings of one sentence count once."""
    by_audio: dict[str, dict[str, str]] = {}
    for row in read_manifest(path):
        texts = by_audio.setdefault(row.audio, {row.src: row.asr} if row.asr else {})
        if row.s2tt:
            texts[row.tgt] = row.s2tt
    return list({tuple(sorted(texts.items())): texts for texts in by_audio.values() if texts}.values())
