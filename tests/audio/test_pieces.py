from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esrt.audio.pieces import FRAME_SAMPLES, cut, is_silent
from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES


def noise(seconds: float, level: float = 0.1) -> np.ndarray:
    size = round(seconds * SAMPLE_RATE)
    return np.random.default_rng(0).normal(0, level, size).astype(np.float32)


def test_what_fits_is_one_piece() -> None:
    assert cut(noise(0)) == [(0, 0)]
    assert cut(noise(30)) == [(0, WINDOW_SAMPLES)]


def test_a_cut_falls_into_the_pause() -> None:
    samples = noise(70)
    for pause in (10.0, 27.3, 54.6):  # the first is too early to be a place to cut at
        start = round(pause * SAMPLE_RATE)
        samples[start : start + FRAME_SAMPLES * 4] *= 0.01
    pieces = cut(samples)
    assert len(pieces) == 3
    for (_, end), pause in zip(pieces, (27.3, 54.6), strict=False):
        assert pause <= end / SAMPLE_RATE <= pause + 0.08


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 200_000), st.integers(90_000, 120_000))
def test_pieces_cover_everything_and_fit(size: int, longest: int) -> None:
    pieces = cut(noise(0.0001 + size / SAMPLE_RATE)[:size], longest)
    assert pieces[0][0] == 0 and pieces[-1][1] == size
    assert all(before[1] == after[0] for before, after in pairwise(pieces))
    assert all(end - start <= longest for start, end in pieces)


def test_silence() -> None:
    assert is_silent(noise(0))
    assert is_silent(np.zeros(SAMPLE_RATE, np.float32))
    assert is_silent(np.full(SAMPLE_RATE, 0.2, np.float32)), "a constant offset is no sound"
    assert is_silent(noise(5, 1e-4)), "the hiss of a good converter"
    assert is_silent(np.zeros(7, np.float32))


def test_a_faint_word_in_a_long_silence_is_no_silence() -> None:
    samples = np.zeros(WINDOW_SAMPLES, np.float32)
    samples[99_000:102_000] = noise(1, 1e-3)[:3_000]
    assert not is_silent(samples)
