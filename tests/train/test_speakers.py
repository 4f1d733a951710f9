"""Programs that speak: espeak-ng, Pico and Festival, the real ones."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from esrt.audio.io import load
from esrt.cli import data
from esrt.config import SAMPLE_RATE
from esrt.errors import UsageError
from esrt.languages import CORE
from esrt.train.sources import synth
from esrt.train.sources.speakers import espeak, festival, pico


def test_every_accent_speaks() -> None:
    accents = [voice for each in espeak._ACCENTS.values() for voice in each]
    for voice in accents:
        spoken = espeak.say("Anna 12", voice, 160, 50, 50)
        assert SAMPLE_RATE // 3 < len(spoken) < 4 * SAMPLE_RATE, voice
        assert np.abs(spoken).max() > 0.05
    with pytest.raises(UsageError, match="no voice"):
        espeak.say("Anna", "klingon-royal", 160, 50, 50)
    assert len(espeak.say("...", "en", 160, 50, 50)) < 500


def test_what_ends_espeak_ng_costs_a_sentence_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library ends its process now and then: a new one says the same, and what ends that as well is left out."""
    manner = espeak.random_voice("ita", random.Random(0))
    spoken = espeak.say("Anna 12", **manner)  # type: ignore[arg-type]
    espeak._engine(os.getpid()).kill()
    espeak._engine(os.getpid()).wait()
    assert np.array_equal(spoken, espeak.say("Anna 12", **manner))  # type: ignore[arg-type]
    fragile = tmp_path / "engine.py"
    halves = "if 'Bruno' in line: sys.stdout.write('22050 9\\nhalf'); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    fragile.write_text(f"import os, sys\nfor line in sys.stdin:\n {halves}\n print(16000, 0, flush=True)\n")
    monkeypatch.setattr(espeak, "_ENGINE", fragile)
    espeak._engine.cache_clear()
    assert not len(espeak.say("Bruno 12", **manner))  # type: ignore[arg-type]
    assert not len(espeak.say("Anna 12", **manner)) and espeak._engine(os.getpid()).poll() is None  # type: ignore[arg-type]
    espeak._engine.cache_clear()


def test_42_of_the_papers_45_languages_have_a_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopenjtalk", SimpleNamespace(g2p=lambda text, kana: "コンニチワ"))
    silent = []
    for language in CORE:
        try:
            espeak.voices(language)
        except UsageError as error:
            assert error.code == "no_voice" and language in str(error)
            silent.append(language)
        else:
            spoken = espeak.say("Anna 12", **espeak.random_voice(language, random.Random(0)))  # type: ignore[arg-type]
            assert len(spoken) > SAMPLE_RATE // 4, language
    assert silent == ["khm", "lao", "tgl"]


def test_japanese_is_spoken_from_kana(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopenjtalk", None)
    with pytest.raises(UsageError, match="pip install pyopenjtalk-plus") as caught:
        espeak.say("今日は", "ja+f1", 160, 50, 50)
    assert caught.value.code == "no_kana"
    with pytest.raises(UsageError, match="pip install pyopenjtalk-plus"):
        espeak.voices.__wrapped__("jpn")  # before hours of speaking; what is cached may be of another test
    monkeypatch.setitem(sys.modules, "pyopenjtalk", SimpleNamespace(g2p=lambda text, kana: "コンニチワ"))
    read = espeak.say("今日は", "ja+f1", 160, 50, 50)
    monkeypatch.setitem(sys.modules, "pyopenjtalk", SimpleNamespace(g2p=lambda text, kana: text))
    assert np.array_equal(read, espeak.say("コンニチワ", "ja+f1", 160, 50, 50))


@pytest.mark.parametrize("language", ["deu", "eng", "fra", "ita", "spa"])
def test_pico_speaks(language: str) -> None:
    for voice in pico.voices(language):
        manner = {**pico.random_voice(language, random.Random(language)), "voice": voice}
        spoken = pico.say("Anna 12", **manner)  # type: ignore[arg-type]
        assert SAMPLE_RATE // 3 < len(spoken) < 4 * SAMPLE_RATE and 0.05 < np.abs(spoken).max() < 1.1
        assert not len(pico.say("...", voice, 100, 100, 100))


def test_a_lower_throat_speaks_as_fast() -> None:
    one, other = (pico.say("Guten Morgen Anna", "de-DE", 100, 100, throat) for throat in (100, 80))
    assert abs(len(one) - len(other)) < len(one) / 20
    assert not np.allclose(one[:8000], other[:8000], atol=0.01)


def test_pico_knows_five_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="Russian") as caught:
        pico.voices("rus")
    assert caught.value.code == "no_voice"
    with pytest.raises(UsageError, match="klingon"):
        pico.say("Anna", "klingon", 100, 100, 100)
    monkeypatch.setattr(pico, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install py-nanotts") as caught:
        pico.say("Anna", "de-DE", 100, 100, 100)
    assert caught.value.code == "not_installed"


def _czech() -> str:
    """A voice of Festival; without one, the test is left out."""
    try:
        return festival.voices("ces")[0]
    except UsageError as error:
        pytest.skip(str(error))


def test_festival_speaks() -> None:
    voice = _czech()
    manner = {**festival.random_voice("ces", random.Random(0)), "voice": voice}
    spoken = festival.say("Dobrý den, Anno, kde jste?", **manner)  # type: ignore[arg-type]
    assert SAMPLE_RATE < len(spoken) < 5 * SAMPLE_RATE and 0.05 < np.abs(spoken).max() < 1.1
    slow = festival.say("Dobrý den, Anno, kde jste?", voice, 83, 100, 100)
    assert len(slow) > 1.3 * len(festival.say("Dobrý den, Anno, kde jste?", voice, 125, 100, 100))


def test_no_text_talks_festival_into_anything_else(tmp_path: Path) -> None:
    """Nor does one that it cannot speak, or that ends it, keep it from the next."""
    voice = _czech()
    plain = len(festival.say("Anna", voice, 100, 100, 100))
    for text in ("", "...", "日本語", "(((", "\\"):
        festival.say(text, voice, 100, 100, 100)
        assert abs(len(festival.say("Anna", voice, 100, 100, 100)) - plain) < plain / 20, text
    written = tmp_path / "written"
    festival.say(f'Anna")) (fclose (fopen "{written}" "w")) (set! a (quote ("', voice, 100, 100, 100)
    assert not written.exists()
    festival._festival().kill()
    festival._festival().wait()
    assert not len(festival.say("Anna", voice, 100, 100, 100)), "one sentence is left out"
    assert abs(len(festival.say("Anna", voice, 100, 100, 100)) - plain) < plain / 20


def test_what_festival_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="German") as caught:
        festival.voices("deu")
    assert caught.value.code == "no_voice"
    with pytest.raises(UsageError, match="no voice 'klingon'"):
        festival.say("Anna", "klingon", 100, 100, 100)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="apt install festival festvox-ru") as caught:
        festival.voices("rus")
    assert caught.value.code == "not_installed"


def test_the_command_knows_every_speaker() -> None:
    assert tuple(synth.SPEAKERS) == data._SPEAKERS


def test_clips_of_another_speaker(tmp_path: Path) -> None:
    texts = [{"ita": "Anna 12", "deu": "Anna zwölf"}]
    rows = list(synth.rows("s", texts, ["ita"], ["deu"], 2, tmp_path, speaker="pico"))
    assert [(row.id, row.tgt) for row in rows] == [
        ("s-ita-00000", ""), ("s-ita-00000", "deu"), ("s-ita-00001", ""), ("s-ita-00001", "deu")
    ]  # fmt: skip
    assert all(len(load(row.audio)) > SAMPLE_RATE // 3 for row in rows)
    with pytest.raises(UsageError, match="folder for its clips") as caught:
        list(synth.rows("s", texts, ["ita"], [], 1, None, speaker="pico"))
    assert caught.value.code == "not_repeatable"
