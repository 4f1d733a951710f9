from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esrt.audio import protect
from esrt.audio.samples import Samples
from esrt.config import WINDOW_SAMPLES

lengths = st.one_of(st.integers(100, 40_000), st.integers(WINDOW_SAMPLES - 20_000, WINDOW_SAMPLES))


def clip(length: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    return (0.2 * np.hanning(length) * rng.standard_normal(length)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(lengths, st.integers(0, 99))
def test_a_shifted_clip_is_whole_and_fits(length: int, seed: int) -> None:
    samples = clip(length, seed)
    found = protect.shift(samples, np.random.default_rng(seed))
    assert found.dtype == np.float32 and length <= len(found) <= min(length + 2 * protect.LONGEST, WINDOW_SAMPLES)
    silence = len(found) - length
    middle = length // 2
    places = np.flatnonzero(found[middle : middle + silence + 1] == samples[middle])
    before = next(at for at in places if np.array_equal(found[at : at + length], samples))
    assert before <= protect.LONGEST and silence - before <= protect.LONGEST
    if length > 1000:
        quiet = np.abs(np.concatenate([found[:before], found[before + length :]])).max(initial=0)
        assert quiet <= 6 * np.sqrt(np.mean(samples**2)), "no louder than the clip, of which no window may be quieter"
        assert quiet <= np.abs(samples).max() or length <= 10_000, "a second has higher peaks than two windows as loud"


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4000), st.integers(0, 99), st.floats(-60, 20))
def test_gain_forgets_how_loud_a_clip_was(length: int, seed: int, level: float) -> None:
    samples = clip(length, seed) + np.float32(0.001)
    louder = (samples * 10 ** (level / 20)).astype(np.float32)
    found = protect.gain(samples, np.random.default_rng(seed))
    np.testing.assert_allclose(found, protect.gain(louder, np.random.default_rng(seed)), atol=1e-5)
    peak = float(np.abs(found).max())
    assert 10 ** (-protect.QUIETEST / 20) * 0.999 <= peak <= 1.0001


def test_silence_stays_silence() -> None:
    assert not protect.gain(np.zeros(100, np.float32), np.random.default_rng(0)).any()
    assert not protect.shift(np.zeros(100, np.float32), np.random.default_rng(0)).any()


def test_nobody_can_foresee_how_a_clip_is_protected() -> None:
    samples = clip(8000, 0)
    lengths = {len(protect.protect(samples)) for _ in range(8)}
    assert len(lengths) > 1


@pytest.mark.parametrize("loud", [0.05, 0.8])
def test_the_silence_is_as_loud_as_the_clips_own(loud: float) -> None:
    rng = np.random.default_rng(0)
    speech = rng.standard_normal(16000).astype(np.float32) * np.float32(loud)
    room = rng.standard_normal(16000).astype(np.float32) * np.float32(0.01)
    found = protect.shift(np.concatenate([room, speech, room]), np.random.default_rng(5))
    assert np.sqrt(np.mean(found[:2000] ** 2)) == pytest.approx(0.01, rel=0.15)
