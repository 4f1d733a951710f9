"""Quality over what is escalated: the lines of a chart, and whether the goal is reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """One way of drafting: the line it lies on, the share of tokens that it escalates, its score."""

    name: str
    line: str
    escalated: float
    score: float


def series(points: Sequence[Point], bottom: float) -> dict[str, list[tuple[float, float]]]:
    """Lines of (percent escalated, score) from the device alone on; a way that is alone on its line has none."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        lines.setdefault(point.line, []).append((100 * point.escalated, point.score))
    return {line: sorted([(0.0, bottom), *found]) for line, found in lines.items() if len(found) > 1}


def closed(score: float, bottom: float, top: float) -> str:
    """Percent of the gap between device and cloud, or a dash where there is none."""
    return f"{100 * (score - bottom) / (top - bottom):.0f}" if top > bottom else "-"


def goal(points: Sequence[Point], bottom: float, top: float) -> str:
    """Whether a way closes 90 % of the gap between device and cloud with 10 % of the tokens escalated."""
    if top <= bottom:
        return "There is no gap: the device alone is as good as the cloud."
    for point in points:
        if point.escalated <= 0.1 and point.score - bottom >= 0.9 * (top - bottom):
            return f"Reached by {point.name}."
    return "Not reached by any row."
