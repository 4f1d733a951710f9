from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esrt.privacy.figures import bootstrap, eer, r2


def test_eer_of_trials_that_are_told_apart_and_of_noise() -> None:
    rng = np.random.default_rng(0)
    same = rng.random(4000) < 0.2
    assert eer(same + 0.1 * rng.random(4000), same) == 0
    assert eer(rng.random(4000), same) == pytest.approx(0.5, abs=0.03)
    assert eer(~same - 0.1 * rng.random(4000), same) == 1
    assert np.isnan(eer(rng.random(4), np.ones(4, bool)))


def test_eer_of_two_normal_distributions() -> None:
    """One spread apart: both errors are Phi(-1/2) = 30.85 % half-way between."""
    rng = np.random.default_rng(1)
    same = np.arange(40_000) % 2 == 0
    assert eer(rng.standard_normal(40_000) + same, same) == pytest.approx(0.3085, abs=0.01)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_eer_keeps_its_bounds_and_knows_no_unit(trials: list[tuple[int, bool]]) -> None:
    scores, same = np.array([score for score, _ in trials], float), np.array([kind for _, kind in trials])
    found = eer(scores, same)
    if same.all() or not same.any():
        assert np.isnan(found)
    else:
        assert 0 <= found <= 1
        assert eer(3 * scores + 7, same) == pytest.approx(found)


def test_r2() -> None:
    wanted = np.arange(10.0)
    assert r2(wanted, wanted) == 1
    assert r2(wanted, np.full(10, 4.5)) == 0
    assert r2(wanted, -wanted) < 0


def test_the_interval_covers_what_is_true_and_draws_whole_voices() -> None:
    rng = np.random.default_rng(2)
    voices = np.repeat([f"voice {number}" for number in range(40)], 10)
    of_voice = np.repeat(rng.standard_normal(40), 10)
    figure = bootstrap(voices, lambda drawn: float(of_voice[drawn].mean()), chance=0.0)
    assert figure.low < 0 < figure.high and figure.low < figure.value < figure.high
    assert figure.high - figure.low > 0.4  # of 40 voices; 400 clips that were each their own would say 0.2
    assert (figure.clips, figure.voices) == (400, 40)
    few = bootstrap(np.array(["a", "b"]), lambda drawn: float(len(drawn)), 0.0)
    assert np.isnan(few.low) and few.to_json()["low"] is None
