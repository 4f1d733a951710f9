"""Sources read the real layouts of their packages, made small here."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from esrt.config import SAMPLE_RATE
from esrt.errors import UsageError
from esrt.train.manifest import held_out
from esrt.train.sources import asterisk, catalogues, fillets, synth


def names(test: bool, count: int) -> list[str]:
    return [name for name in (f"prompt-{n}" for n in range(1000)) if held_out(name) == test][:count]


def test_asterisk_aligns_languages_by_prompt_and_holds_prompts_out(tmp_path: Path) -> None:
    seen, kept = names(False, 2), names(True, 1)
    texts = [f"{name}: This is {name}." for name in seen + kept]
    path = tmp_path / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("\n".join(["; Core", "", *texts, "beep: [a tone]"]).encode()))
    for language in ("eng", "ita"):
        for name in (*seen, *kept, "beep"):
            audio = asterisk.audio_path(tmp_path, language, name)
            audio.parent.mkdir(parents=True, exist_ok=True)
            audio.write_bytes(bytes(asterisk.SHORTEST))
    asterisk.audio_path(tmp_path, "ita", seen[1]).write_bytes(b"")  # empty recordings exist
    italian = {"ita": {name: f"Questo è {name}." for name in seen + kept}}

    rows = list(asterisk.rows(tmp_path, italian, test=False))
    assert {row.id for row in rows} == {f"asterisk-eng-{name}" for name in seen} | {f"asterisk-ita-{seen[0]}"}
    pairs = {(row.src, row.tgt): row for row in rows if row.id.endswith(seen[0])}
    assert set(pairs) == {("eng", ""), ("ita", ""), ("eng", "ita"), ("ita", "eng")}
    assert pairs["ita", "eng"].s2tt == f"This is {seen[0]}."
    assert {row.id for row in asterisk.rows(tmp_path, italian, test=True)} == {
        f"asterisk-{code}-{kept[0]}" for code in ("eng", "ita")
    }


def test_fillets_joins_speech_and_texts(tmp_path: Path) -> None:
    scene = next(f"scene{n}" for n in range(100) if not held_out(f"scene{n}"))
    games = tmp_path / "usr/share/games/fillets-ng"
    (games / "script" / scene).mkdir(parents=True)
    entry = 'dialogId("a-1", "font_small", "Where are\nwe?")\n'
    (games / "script" / scene / "dialogs_en.lua").write_text(entry, encoding="utf-8")
    (games / "script" / scene / "dialogs_cs.lua").write_text(entry + 'dialogStr("Kde to jsme?")\n', encoding="utf-8")
    (games / "sound" / scene / "cs").mkdir(parents=True)
    (games / "sound" / scene / "cs/a-1.ogg").touch()
    rows = list(fillets.rows(tmp_path, test=False))
    assert [(row.src, row.tgt, row.asr, row.s2tt) for row in rows] == [
        ("ces", "", "Kde to jsme?", ""),
        ("ces", "eng", "Kde to jsme?", "Where are we?"),
    ]
    assert not list(fillets.rows(tmp_path, test=True))


def catalogue(entries: dict[str, str]) -> bytes:
    """A compiled gettext catalogue."""
    pairs = sorted({"": "Content-Type: text/plain; charset=UTF-8\n", **entries}.items())
    keys, values = zip(*((k.encode(), v.encode()) for k, v in pairs), strict=True)
    place, tables = 28 + 16 * len(pairs), []
    for texts in (keys, values):
        for text in texts:
            tables.append(struct.pack("<II", len(text), place))
            place += len(text) + 1
    header = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return header + b"".join(tables) + b"".join(text + b"\0" for text in keys + values)


def test_catalogues_keep_plain_sentences_in_every_language(tmp_path: Path) -> None:
    for locale, words in (("de", "Guten Morgen, alter Freund."), ("fr", "Bonjour, mon vieil ami.")):
        folder = tmp_path / "usr/share/games/wesnoth/1.16/locale" / locale / "LC_MESSAGES"
        folder.mkdir(parents=True)
        entries = {
            "scene^Good morning, old friend.": words,
            "Press <b>$key</b> to go on now": "x",
            "Same as it was": "Same as it was",
        }
        (folder / "wesnoth.mo").write_bytes(catalogue(entries))
    assert catalogues.sentences(tmp_path) == [
        {"eng": "Good morning, old friend.", "fra": "Bonjour, mon vieil ami.", "deu": "Guten Morgen, alter Freund."}
    ]


def test_every_voice_speaks_and_seeds_repeat() -> None:
    speaker, rng = synth.Speaker(), random.Random(0)
    for language, voices in synth.ESPEAK_VOICES.items():
        for voice in voices:
            spoken = speaker.say("Anna 12", voice, 160, 50, 50)
            assert SAMPLE_RATE // 3 < len(spoken) < 4 * SAMPLE_RATE, (language, voice)
            assert np.abs(spoken).max() > 0.05
        speaker.say("Anna", **synth.random_voice(language, rng))  # type: ignore[arg-type]
    first, second = (synth.disturb(spoken, random.Random(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.abs(first).max() <= 1
    with pytest.raises(UsageError, match="no voice"):
        speaker.say("Anna", "klingon-royal", 160, 50, 50)
