"""Attackers on made-up rows: what is planted is found, and where nothing is planted nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from esrt.privacy.clips import SYNTHETIC, Clip
from esrt.privacy.figures import Figure, stronger
from esrt.privacy.probes import inversion, linear, speaker, traits
from esrt.privacy.probes.fit import Array, ask

VOICES, EACH, ROWS, WIDTH = 48, 8, 20, 24


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def clips() -> list[Clip]:
    """Half of the voices are scored; sexes and two languages alternate."""
    return [
        Clip("", SYNTHETIC, ("eng", "fra")[number // 2 % 2], "", f"voice {number}", "fm"[number % 2], number >= 24)
        for number in range(VOICES)
        for _ in range(EACH)
    ]


def rows(planted: float) -> tuple[Array, Array]:
    """Rows of noise, in every one of which a voice's own direction stands `planted` high; and voiceprints."""
    rng = np.random.default_rng(0)
    voice = np.repeat(rng.standard_normal((VOICES, 8)), EACH, axis=0).astype(np.float32)
    noise = rng.standard_normal((VOICES * EACH, ROWS, WIDTH)).astype(np.float32)
    noise[:, :, :8] += planted * voice[:, None]
    prints = voice + 0.1 * rng.standard_normal(voice.shape).astype(np.float32)
    return noise, prints / np.linalg.norm(prints, axis=1, keepdims=True)


def attacked(planted: float) -> tuple[Figure, Figure]:
    held, prints = rows(planted)
    found = ask(speaker.train(held, prints, clips(), 12), held)
    return (
        speaker.verification(found, found, clips(), synthetic=True),
        speaker.identification(found, found, clips(), synthetic=True),
    )


def test_least_squares_find_what_is_planted_and_nothing_else() -> None:
    known = clips()
    voices = np.array([clip.speaker for clip in known])
    places = np.flatnonzero([not clip.scored for clip in known])
    for planted, least, most in ((1.0, 0.0, 0.1), (0.0, 0.38, 0.62)):
        held, prints = rows(planted)
        found = linear.fit(held, places, prints, voices)(held)
        error = speaker.verification(found, found, known, synthetic=True)
        assert least <= error.value <= most
        assert stronger(error, replace(error, value=0.3), less=True).value == min(error.value, 0.3)
    told = traits.attack_linearly(rows(0.0)[0], known, [traits.Heard(1.0 + n % 5, None) for n in range(len(known))])
    assert told["duration"].value < 0.2 and np.isnan(told["pitch"].value) and 0.35 < told["sex"].value < 0.65


def test_a_planted_voice_is_recognised() -> None:
    error, named = attacked(1.0)
    assert error.value < 0.1 and error.high < 0.2
    assert named.value > 0.8 and named.chance == pytest.approx(1 / 12)
    assert error.voices == 24 and error.clips == 24 * (EACH - speaker.ENROLLED)


def test_nothing_is_recognised_in_noise() -> None:
    error, named = attacked(0.0)
    assert 0.38 < error.value < 0.62 and error.low < 0.5 < error.high
    assert named.low < named.chance < named.high


def test_real_voices_across_languages() -> None:
    """One voice speaks both languages; the other two are of its sex, and one is of another corpus."""
    who = [("a", "eng", "x"), ("a", "fra", "x"), ("b", "fra", "x"), ("c", "fra", "y")]
    known = [Clip("", corpus, language, "", name, "f", True) for name, language, corpus in who for _ in range(5)]
    place = {"a": 0, "b": 1, "c": 2}
    found = np.eye(3, dtype=np.float32)[[place[clip.speaker] for clip in known]]
    across = speaker.verification(found, found, known, synthetic=False, across=True)
    assert across.value == 0 and across.clips == 20 - 4 * speaker.ENROLLED
    assert speaker.verification(-found, found, known, synthetic=False, across=True).value == 1


def test_planted_traits_are_told_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    known, (held, _) = clips(), rows(0.0)
    seconds = rng.uniform(1, 8, len(known))
    held[:, :, 0] += np.log(seconds)[:, None].astype(np.float32)
    held[:, ::2, 1] += np.array([3 if clip.language == "eng" else 0 for clip in known], np.float32)[:, None]
    pitches: list[float | None] = [float(number) for number in rng.uniform(10, 30, len(known))]
    pitches[0] = pitches[-1] = None
    heard = [traits.Heard(*each) for each in zip(seconds, pitches, strict=True)]
    found = traits.attack(held, known, heard, 20)
    assert found["duration"].value > 0.7
    assert found["language"].value > 0.9 and found["language"].chance == 0.5
    assert found["pitch"].value < 0.2 and found["pitch"].clips == VOICES * EACH // 2 - 1
    assert 0.35 < found["sex"].value < 0.65
    assert np.isnan(found["channel"].value)  # nobody knows it of any clip


def test_griffin_lim_gives_back_what_it_was_told() -> None:
    from esrt.model.mel import LogMel

    time = np.arange(16000) / 16000
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (220, 440, 1800)) * np.hanning(16000)
    tones = (0.3 * tones).astype(np.float32)
    mel = LogMel(80)
    wanted = mel(torch.from_numpy(tones)[None])[0]
    sound = inversion.griffin_lim(wanted)
    assert sound.shape == (16000,) and np.abs(sound).max() == pytest.approx(0.9)
    found = mel(torch.from_numpy(sound)[None])[0]
    loud = wanted > wanted.max() - 1  # within 40 dB of the loudest
    assert (found - wanted)[loud].abs().mean() < 0.1


def test_an_inverter_learns_what_rows_say_of_a_sound() -> None:
    rng = np.random.default_rng(3)
    hertz = rng.choice([300.0, 1200.0], 24)
    sounds = [(0.5 * np.sin(2 * np.pi * h * np.arange(8000) / 16000)).astype(np.float32) for h in hertz]
    held = rng.standard_normal((24, 10, 6)).astype(np.float32)
    held[:, :, 0] += np.where(hertz > 500, 5, -5)[:, None]
    network = inversion.train(held, sounds, np.arange(16), 25)
    for place in range(16, 24):
        sound = inversion.invert(network, held[place], 0.5)
        spectrum = np.abs(np.fft.rfft(sound))
        loudest = float(np.argmax(spectrum)) * 16000 / len(sound)
        assert (loudest > 700) == (hertz[place] > 500), (loudest, hertz[place])
