"""Telephone prompts by professional speakers, the same ids in five languages (Debian `asterisk-core-sounds-*-g722`).

Three more people read them for `asterisk-prompt-es-co`, `-fr-armelle` and `-it-menardi-wav`: their voices are held out.

Only the English prompts come with their text. Transcripts of the other languages are Whisper's own (`transcripts`),
kept where it was sure; the prompt id aligns them with the English text.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from esrt.languages import LANGUAGES
from esrt.train.examples import plain
from esrt.train.manifest import Row, bad_row, held_out, is_text, json_lines, rows_of
from esrt.train.sources import files

SOUNDS = "usr/share/asterisk/sounds"
VOICES = {
    "eng": "en_US_f_Allison",
    "spa": "es_MX_f_Allison",
    "fra": "fr_CA_f_June",
    "ita": "it_IT_m_Carlo",
    "rus": "ru_RU_f_IvrvoiceRU",
}
# Wording differs here and there from the voice above, so no transcript is known.
OTHER_VOICES = {"spa": ("es", "gsm"), "fra": ("fr", "gsm"), "ita": ("it_IT_f_Menardi", "wav")}
SHORTEST = 3000  # bytes of G.722, 0.4 s: some recordings are empty


def english_texts(root: Path) -> dict[str, str]:
    """Prompt id -> English text, without the entries that describe a sound."""
    texts = {}
    path = files.need(
        root / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz",
        "unpack asterisk-core-sounds-en and the packages of the voices there (dpkg -x)",
    )
    for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines():
        key, _, text = line.partition(":")
        text = re.sub(r"\s+", " ", text).strip()
        if text and not line.startswith(";") and not re.search(r"[\[\]()<>]", text):
            texts[key.strip()] = text
    return texts


def read_transcripts(path: Path) -> dict[str, dict[str, str]]:
    """JSONL of {language, id, text} -> language -> prompt id -> text; a bad line is a UsageError manifest_bad_row."""
    found: dict[str, dict[str, str]] = {}
    for number, entry in json_lines(path):
        if not all(isinstance(entry.get(name), str) for name in ("language", "id", "text")):
            raise bad_row(path, number, "the strings 'language', 'id' and 'text' are expected")
        if entry["language"] not in LANGUAGES:
            raise bad_row(path, number, f"{entry['language']!r} is no language of `esrt languages`")
        if not is_text(entry["text"]):
            raise bad_row(path, number, "the text has half of a character or a NUL character")
        found.setdefault(entry["language"], {})[entry["id"]] = entry["text"]
    return found


def prompts(root: Path, transcripts: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Prompt id -> language -> text."""
    found: dict[str, dict[str, str]] = {}
    for language, texts in {"eng": english_texts(root), **transcripts}.items():
        for prompt, text in texts.items():
            found.setdefault(prompt, {})[language] = text
    return found


def audio_path(root: Path, language: str, prompt: str) -> Path:
    """Where a language's recording of a prompt lies below the unpacked packages."""
    return root / SOUNDS / VOICES[language] / f"{prompt}.g722"


def _said(texts: Mapping[str, str]) -> set[tuple[str, str]]:
    return {(language, plain(text)) for language, text in texts.items()}


def rows(root: Path, transcripts: Mapping[str, Mapping[str, str]], test: bool) -> Iterator[Row]:
    """One row per recorded prompt and language it is known in; `transcripts` is language -> prompt id -> text.

    A fifth of the prompts is held out, less those that say in any language what another prompt says in training.
    """
    for prompt, texts in _chosen(prompts(root, transcripts), test):
        for source in VOICES:
            if source not in texts:
                continue
            path = audio_path(root, source, prompt)
            if not path.is_file() or path.stat().st_size < SHORTEST:
                continue
            name = f"asterisk-{source}-{prompt}"
            yield from rows_of(name, str(path), source, texts, texts)


def other_voices(root: Path, transcripts: Mapping[str, Mapping[str, str]]) -> Iterator[Row]:
    """The held-out prompts once more, by people who are in no manifest to train from; without transcripts."""
    for prompt, texts in _chosen(prompts(root, transcripts), test=True):
        for source, (folder, ending) in OTHER_VOICES.items():
            path = root / SOUNDS / folder / f"{prompt}.{ending}"
            if path.is_file():
                for target, text in texts.items():
                    if target != source:
                        yield Row(f"asterisk-{folder}-{prompt}", str(path), source, target, "", text)


def _chosen(known: Mapping[str, dict[str, str]], test: bool) -> Iterator[tuple[str, dict[str, str]]]:
    taught = {said for prompt, texts in known.items() if not held_out(prompt) for said in _said(texts)}
    for prompt, texts in known.items():
        if held_out(prompt) == test and not (test and taught & _said(texts)):
            yield prompt, texts
