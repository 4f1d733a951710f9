"""Acted dialogue of the game Drascula: Spanish and English speech, text in six languages (Debian `drascula*`).

The texts are in capitals and lack accents, so they are written as the sentences of other games are (`spelling`). All
that others than the hero say is held out: voices that no training hears.
"""

from __future__ import annotations

import struct
import wave
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path

from esrt.errors import UsageError
from esrt.train.examples import plain
from esrt.train.manifest import Row, rows_of
from esrt.train.sources import files, texts
from esrt.train.sources.spelling import Spelling

GAME = "usr/share/scummvm/drascula"
SPOKEN = {"eng": "en", "spa": "es"}  # the Italian game has the English sound
_ENCODINGS = {"eng": "cp850", "spa": "cp850", "deu": "cp850", "fra": "cp850", "ita": "cp850", "rus": "cp1251"}
_SPEAKERS = ("", "D", "B", "BJ", "E", "I", "L", "P", "T", "VB")  # in the order of their texts; nobody is the hero
_HEAD = b"DRASCULA\x06"
_TABLES = (4, 4, 4, 2, 4, 2, 4, 2, 2, 20, 20, 10, 8)  # bytes of an entry of each table before the texts
_RATE, _LEAD = 11025, 32  # 8-bit samples, and how many of them are no sound
_SLOWEST, _FASTEST = 5, 26  # letters a second; beyond these the sound says something else


def dialogue(root: Path) -> dict[tuple[str, int], dict[str, str]]:
    """(speaker, number) -> language -> text, as the game shows it. Raises UsageError wrong_layout."""
    path = files.need(root / GAME / "en/drascula.dat", "unpack drascula and drascula-spanish there (dpkg -x)")
    data = path.read_bytes()
    try:
        if not data.startswith(_HEAD):
            raise ValueError
        return _texts(data)
    except (struct.error, ValueError) as error:
        raise UsageError("wrong_layout", f"{path} is damaged, or of another version of the game.") from error


def _texts(data: bytes) -> dict[tuple[str, int], dict[str, str]]:
    def number(place: int) -> int:
        return int(struct.unpack_from(">H", data, place)[0])

    place = len(_HEAD)
    for size in _TABLES:
        place += 2 + number(place) * size
    if number(place) != len(_ENCODINGS):
        raise ValueError
    place += 2
    found: dict[tuple[str, int], dict[str, str]] = {}
    for speaker in _SPEAKERS:
        count = number(place)
        place += 2
        for language, encoding in _ENCODINGS.items():
            end = place + 2 + number(place)
            place += 4
            for line in range(count):
                text = data[place + 2 : place + number(place)].partition(b"\0")[0].decode(encoding)
                if "(" not in text:  # beeps and notes
                    found.setdefault((speaker, line), {})[language] = " ".join(text.replace("º", " ").split())
                place += number(place)
            place = end
    return found


def rows(root: Path, clips: Path, test: bool, sources: Collection[str]) -> Iterator[Row]:
    """One row per line that is spoken in `sources` and language it is translated to; sounds go into `clips` as WAV.

    Raises UsageError wrong_layout, and no_texts where no other game's texts are unpacked, by which these are spelt.
    """
    lines = dialogue(root)
    spellings = {each: Spelling(text[each] for text in texts.read(root, {each}) if each in text) for each in _ENCODINGS}
    heros = {plain(said["eng"]) for (speaker, _), said in lines.items() if not speaker and "eng" in said}
    for (speaker, line), said in lines.items():
        if bool(speaker) != test or (test and plain(said.get("eng", "")) in heros):
            continue
        spelt = {language: spellings[language].restored(text) for language, text in said.items() if plain(text)}
        for source, folder in SPOKEN.items():
            path = root / GAME / folder / f"{speaker}{line}.ALS"
            if source not in sources or source not in spelt or not path.is_file():
                continue
            sound = path.read_bytes()[_LEAD:]
            if not _SLOWEST < len(spelt[source]) * _RATE / max(1, len(sound)) < _FASTEST:
                continue
            name = f"drascula-{source}-{speaker}{line}"
            audio = str(files.keep(clips / f"{name}.wav", _wav(sound)))
            yield from rows_of(name, audio, source, spelt, spelt)


def _wav(sound: bytes) -> bytes:
    """Unsigned 8-bit samples -> a WAV file."""
    made = BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(_RATE)
        file.writeframes(sound)
    return made.getvalue()
