"""What speech goes through before a model hears it: rooms, telephones, calls, noise."""

from __future__ import annotations

import random

import numpy as np
import pytest

from esrt.config import SAMPLE_RATE
from esrt.train.sources import call, disturb


def test_disturbed_speech_repeats_by_its_seed() -> None:
    samples = np.sin(np.arange(SAMPLE_RATE) * 0.1).astype(np.float32)
    for seed in range(40):
        one, other = (disturb.disturb(samples, random.Random(seed)) for _ in range(2))
        assert np.array_equal(one, other) and one.dtype == np.float32
        assert 0 < np.abs(one).max() <= 1 and 0.9 < len(one) / len(samples) < 1.12
    assert len({len(disturb.disturb(samples, random.Random(seed))) for seed in range(40)}) > 5, "speeds"


def test_a_room_dies_away_by_60_db() -> None:
    click = np.zeros(2 * SAMPLE_RATE, np.float32)
    click[0] = 1
    room = disturb.reverberate(click, 0.5, -6, np.random.default_rng(0))
    assert room[0] == pytest.approx(1, abs=1e-6)
    assert np.sum(room[1:] ** 2) == pytest.approx(10**-0.6, rel=0.01)
    early, late = (np.sqrt(np.mean(room[start : start + 1600] ** 2)) for start in (400, 400 + SAMPLE_RATE // 4))
    assert 20 * np.log10(early / late) == pytest.approx(30, abs=3), "half of 60 dB in half the time"
    assert np.abs(room[SAMPLE_RATE // 2 + 1 :]).max() < 1e-6


def test_a_telephone_keeps_only_its_band() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    for hertz, kept in ((100, 0.02), (1000, 1.0), (6000, 0.02)):
        tone = np.sin(2 * np.pi * hertz * time).astype(np.float32)
        assert np.abs(disturb.telephone(tone, 3400)).max() == pytest.approx(kept, abs=0.01)


def test_another_speed_is_another_pitch() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    faster = disturb.resample(tone, 17_600)
    assert len(faster) == pytest.approx(SAMPLE_RATE / 1.1, abs=20)
    assert np.argmax(np.abs(np.fft.rfft(faster))) * SAMPLE_RATE / len(faster) == pytest.approx(1100, abs=2)


@pytest.mark.parametrize(
    ("encoder", "decoder", "rate", "bits"), [(*codec[:3], bits) for codec in call.CODECS for bits in codec[3]]
)
def test_a_call_keeps_what_is_said_and_not_the_sound(encoder: str, decoder: str, rate: int, bits: int) -> None:
    """A gliding voice: as loud, late by at most 10 ms, in the codec's band, and never bit for bit itself."""
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    voice = sum(np.sin(2 * np.pi * n * (120 * time + 10 * time**2)) / n for n in range(1, 40)) * 0.2
    samples = (voice * np.sin(2 * np.pi * 3 * time) ** 2).astype(np.float32)
    heard = call.call(samples, encoder, decoder, rate, bits)
    assert heard.dtype == np.float32 and heard.shape == samples.shape and not np.array_equal(heard, samples)
    seen, known = (np.abs(np.fft.rfft(sound[: 98 * 320].reshape(-1, 320)))[:, :70] for sound in (heard, samples))
    assert (seen * known).sum() > 0.9 * np.linalg.norm(seen) * np.linalg.norm(known) > 0
    assert (seen * known).sum() > 1.5 * (seen * known[::-1]).sum(), "where in time is kept too"
    assert np.std(heard) == pytest.approx(np.std(samples), rel=0.3)
    power = np.abs(np.fft.rfft(heard)) ** 2
    assert power[len(power) * rate // SAMPLE_RATE + 400 :].sum() < 0.001 * power.sum()


def test_any_call_repeats_by_its_seed_and_takes_any_length() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
    for seed in range(20):
        size = random.Random(seed).randrange(SAMPLE_RATE)
        one, other = (call.any_call(samples[:size], random.Random(seed)) for _ in range(2))
        assert len(one) == size and np.array_equal(one, other)
    assert len(disturb.disturb(np.zeros(0, np.float32), random.Random(0))) == 0


def test_nothing_to_revoice_stays_nothing() -> None:
    assert not len(disturb.revoice(np.zeros(0, np.float32), 1.1, 1.0))
    assert not len(disturb.resonate(np.zeros(0, np.float32), 1.1))
