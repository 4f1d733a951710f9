"""Recordings as if other people had spoken them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from esrt.audio.io import load
from esrt.config import SAMPLE_RATE
from esrt.train.manifest import Row
from esrt.train.sources import disturb, revoice
from esrt.train.sources.synth import write_wav

TONE = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)


def highest(samples: np.ndarray) -> float:
    """The loudest frequency, in Hz."""
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * SAMPLE_RATE / len(samples)


HEIGHTS = [throat * beside for throat in revoice.THROATS for beside in revoice.PITCHES]


@pytest.mark.parametrize("height", [*HEIGHTS, 1.0])
@pytest.mark.parametrize("pace", [*revoice.PACES, 1.0])
def test_height_and_pace_are_apart(height: float, pace: float) -> None:
    other = disturb.revoice(TONE, height, pace)
    assert other.dtype == np.float32 and np.abs(other).max() < 0.6
    assert highest(other) == pytest.approx(1000 * height, rel=0.01)
    assert len(other) == pytest.approx(len(TONE) / pace, rel=0.03)


@pytest.mark.parametrize("pitch", [100, 250])
@pytest.mark.parametrize("ratio", [1 / revoice.PITCHES[1], 1.0, 1 / revoice.PITCHES[0]])
def test_resonances_move_and_the_pitch_stays(pitch: int, ratio: float) -> None:
    time = np.arange(400) / SAMPLE_RATE
    throat = np.exp(-400 * time) * np.sin(2 * np.pi * 1000 * time)
    glottis = np.zeros(SAMPLE_RATE)
    glottis[:: SAMPLE_RATE // pitch] = 0.3
    vowel = np.convolve(glottis, throat)[:SAMPLE_RATE].astype(np.float32)
    other = disturb.resonate(vowel, ratio)
    assert len(other) == len(vowel) and other.dtype == np.float32
    assert np.std(other) == pytest.approx(np.std(vowel), rel=0.01)
    assert highest(other) == pytest.approx(1000 * ratio, abs=50 + pitch / 3), "the resonance moved"
    power = np.abs(np.fft.rfft(other)) ** 2
    harmonics = sum(power[pitch * number - 3 : pitch * number + 4].sum() for number in range(1, 8000 // pitch))
    assert harmonics > 0.95 * power.sum(), "what the voice is made of is where it was"


def test_copies_have_the_texts_of_their_recording(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", TONE)
    write_wav(tmp_path / "click.wav", TONE[:100])
    (tmp_path / "empty.wav").touch()
    known = [
        Row("a", str(tmp_path / "a.wav"), "ita", "", "Ciao.", ""),
        Row("a", str(tmp_path / "a.wav"), "ita", "eng", "Ciao.", "Hello."),
        Row("b", str(tmp_path / "click.wav"), "ita", "", "Oh.", ""),
        Row("c", str(tmp_path / "empty.wav"), "ita", "", "Oh.", ""),
        Row("d", str(tmp_path / "gone.wav"), "ita", "", "Oh.", ""),
        Row("a", str(tmp_path / "a.wav"), "ita", "eng", "Ciao.", "", ("A low voice.",)),
    ]
    rows = list(revoice.rows("again", known, 2, tmp_path / "again"))
    assert [(row.id, row.tgt, row.asr, row.s2tt) for row in rows] == [
        (f"again-a-{copy}", *rest) for copy in (0, 1) for rest in (("", "Ciao.", ""), ("eng", "Ciao.", "Hello."))
    ]
    one, other = (load(audio) for audio in sorted({row.audio for row in rows}))
    assert len(one) != len(other) and len(one) > SAMPLE_RATE
    before = (tmp_path / "again/00000-0.wav").read_bytes()
    assert rows == list(revoice.rows("again", known, 2, tmp_path / "again")), "the seed repeats"
    assert (tmp_path / "again/00000-0.wav").read_bytes() == before
    list(revoice.rows("again", known, 2, tmp_path / "again", seed=1))
    assert (tmp_path / "again/00000-0.wav").read_bytes() != before
