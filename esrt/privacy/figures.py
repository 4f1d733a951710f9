"""Figures of an attack, with the interval that they lie in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
_DRAWS = 500


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval, what somebody reaches who sees nothing, and of how many clips and voices it is.

    `low` and `high` are NaN where there is too little for an interval.
    """

    value: float
    low: float
    high: float
    chance: float
    clips: int
    voices: int

    def to_json(self) -> dict[str, float | None]:
        """Its fields; None where a number is none."""
        return {name: None if value != value else value for name, value in vars(self).items()}


def stronger(one: Figure, other: Figure, less: bool) -> Figure:
    """Of two attackers' figures that of the better one: the larger value, or with `less` the smaller."""
    if one.value != one.value or other.value != other.value:
        return other if one.value != one.value else one
    return min(one, other, key=lambda figure: figure.value if less else -figure.value)


def eer(scores: Array, same: npt.NDArray[np.bool_]) -> float:
    """Equal error rate of trials, 0 to 1: both [n]; NaN where all trials are of one kind.

    At this threshold as many trials of one voice are refused as trials of two are let through.
    """
    ours, others = np.sort(scores[same]), np.sort(scores[~same])
    if not len(ours) or not len(others):
        return float("nan")
    thresholds = np.unique(scores)
    missed = np.searchsorted(ours, thresholds, "left") / len(ours)
    passed = 1 - np.searchsorted(others, thresholds, "left") / len(others)
    # One end more: above the highest score nothing passes.
    missed, passed = np.append(missed, 1.0), np.append(passed, 0.0)
    place = int(np.argmax(missed >= passed))
    if place == 0:
        return float((missed[0] + passed[0]) / 2)
    (m0, m1), (p0, p1) = missed[place - 1 : place + 1], passed[place - 1 : place + 1]
    share = (p0 - m0) / max((m1 - m0) + (p0 - p1), 1e-12)
    return float(m0 + share * (m1 - m0))


def r2(wanted: Array, found: Array) -> float:
    """Share of the variance that is explained; below 0 where the mean would have been nearer; NaN of nothing."""
    if not len(wanted):
        return float("nan")
    return float(1 - np.sum((wanted - found) ** 2) / max(float(np.sum((wanted - wanted.mean()) ** 2)), 1e-12))


def bootstrap(
    groups: npt.NDArray[np.str_], value: Callable[[npt.NDArray[np.int64]], float], chance: float, seed: int = 0
) -> Figure:
    """`value` of all places, and of 500 draws of whole groups with replacement: clips of one voice hang together.

    `groups` [n] names the voice of each place.
    """
    names, owner = np.unique(groups, return_inverse=True)
    places = [np.flatnonzero(owner == number) for number in range(len(names))]
    rng = np.random.default_rng(seed)
    draws: list[float] = []
    if len(names) >= 5:
        for _ in range(_DRAWS):
            drawn = value(np.concatenate([places[number] for number in rng.integers(0, len(names), len(names))]))
            if drawn == drawn:
                draws.append(drawn)
    low, high = np.quantile(draws, [0.025, 0.975]) if draws else (float("nan"), float("nan"))
    return Figure(value(np.arange(len(groups))), float(low), float(high), chance, len(groups), len(names))
