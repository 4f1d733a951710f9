"""Frames that are disturbed anew each time they are drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esrt.train.augment import LONGEST_GAP, MASKED, augment


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
