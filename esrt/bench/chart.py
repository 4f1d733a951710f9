"""A line chart as SVG, small enough to live in the repository and to need no plotting package."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 750, 360, 64, 220, 16, 44
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5ea2", "#b8860b", "#555555", "#d16ba5", "#17a2b8", "#6b4226")


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, four to eleven of them."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span))
    step = next(size for size in (step / 5, step / 2, step) if span / size <= 8 or size == step)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def line_chart(series: Mapping[str, Points], x_label: str, y_label: str, from_zero: bool = False) -> str:
    """One line for each named series of (x, y); `from_zero` starts the y axis at 0."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    across, up = ticks(min(xs), max(xs)), ticks(0 if from_zero else min(ys), max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - across[0]) / (across[-1] - across[0]) * (WIDTH - LEFT - RIGHT)
        above = (y - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + right, 1), round(HEIGHT - BOTTOM - above, 1)

    def text(x: float, y: float, words: str, anchor: str = "start") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for y in up:
        left, height = place(across[0], y)
        parts.append(f'<path d="M{left} {height}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        parts.append(text(left - 6, height + 4, f"{y:g}", "end"))
    for x in across:
        left, _ = place(x, up[0])
        parts.append(text(left, HEIGHT - BOTTOM + 18, f"{x:g}", "middle"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle"))
    parts.append(f'<g transform="rotate(-90 14 {HEIGHT / 2})">{text(14, HEIGHT / 2, y_label, "middle")}</g>')
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join("{},{}".format(*place(x, y)) for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        height = TOP + 16 + 20 * number
        parts.append(f'<path d="M{WIDTH - RIGHT + 12} {height - 4}h22" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(WIDTH - RIGHT + 40, height, name))
    return "\n".join([*parts, "</svg>"]) + "\n"
