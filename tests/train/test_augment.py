"""Frames that are disturbed anew each time they are drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esrt.train.augment import LONGEST_GAP, MASKED, STYLED, augment, restyle


@given(length=st.integers(1, 1500), seed=st.integers(0, 2**32 - 1))
def test_a_clip_of_any_length_stays_a_clip(length: int, seed: int) -> None:
    frames = np.random.default_rng(0).normal(0, 1, (length, 16)).astype(np.float32)
    before = frames.copy()
    out = augment(frames, np.random.default_rng(seed))
    assert out.dtype == np.float32 and out.shape[1] == 16
    assert len(out) >= 1 and abs(len(out) - length) <= 0.1 * length + 1
    assert np.isfinite(out).all()
    assert np.array_equal(frames, before), "the cache's own frames stay"
    assert np.array_equal(out, augment(frames, np.random.default_rng(seed))), "the same seed, the same frames"


def test_what_it_does_is_little_and_never_the_same() -> None:
    frames = np.repeat(np.arange(1.0, 501.0, dtype=np.float32)[:, None], 64, axis=1)
    seen = [augment(frames, np.random.default_rng(seed)) for seed in range(50)]
    assert len({len(out) for out in seen}) > 20, "another pace"
    for out in seen:
        noise = np.abs(out - np.median(out, axis=1, keepdims=True)).mean()
        gaps = np.abs(np.median(out, axis=1)) < 0.3 * np.arange(len(out)) - 40
        assert gaps.mean() <= MASKED + LONGEST_GAP / len(out)
        order = np.median(out, axis=1)[~gaps]
        assert np.corrcoef(order, np.arange(len(order)))[0, 1] > 0.9, "time runs forward"
        assert noise < 60


def test_half_of_the_clips_take_on_the_style_of_another() -> None:
    rng = np.random.default_rng(0)
    frames, other = (rng.normal(mean, spread, (300, 16)).astype(np.float32) for mean, spread in ((0, 1), (5, 3)))
    before = frames.copy()
    seen = [restyle(frames, other, np.random.default_rng(seed)) for seed in range(400)]
    assert np.array_equal(frames, before) and all(out.dtype == np.float32 for out in seen)
    styled = [out for out in seen if not np.array_equal(out, frames)]
    assert 0.8 * STYLED < len(styled) / len(seen) < 1.2 * STYLED
    for out in styled:
        share = out.mean() / other.mean()
        assert -0.05 < share < 1.05
        assert np.allclose(out.std(0), (1 - share) * frames.std(0) + share * other.std(0), rtol=0.1)
        for channel in range(16):
            assert np.corrcoef(out[:, channel], frames[:, channel])[0, 1] > 0.999, "what is said stays"
    assert np.ptp([out.mean() for out in styled]) > 0.9 * other.mean(), "of some next to nothing, of some next to all"


@given(length=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_a_style_of_next_to_nothing_is_still_finite(length: int, seed: int) -> None:
    frames = np.ones((length, 4), np.float32)
    assert np.isfinite(restyle(frames, np.zeros((1, 4), np.float32), np.random.default_rng(seed))).all()
