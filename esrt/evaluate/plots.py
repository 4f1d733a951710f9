"""The pictures of reports, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from esrt.evaluate.scores import TITLES
from esrt.evaluate.tables import Directions, Systems, average, groups, text_beside_speech
from esrt.languages import CORE, LANGUAGES

COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5ea2", "#b8860b", "#555555")
DPI = 150


def ordered() -> list[str]:
    """The 45 languages as their families stand together."""
    return sorted(CORE, key=lambda code: (LANGUAGES[code].family or "", code))


def heat_map(path: Path, scores: Directions, metric: str, title: str, ends: tuple[float, float]) -> None:
    """The paper's Figure 8: spoken languages down, targets across; white where there is no score.

    `ends` are the scores of the first and last colour: the same for all pictures that are to be compared.
    """
    codes = ordered()
    grid = np.full((len(codes), len(codes)), np.nan)
    for (src, tgt), value in scores.items():
        grid[codes.index(src), codes.index(tgt)] = value
    figure = Figure(figsize=(11, 9.6), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(grid, cmap="viridis", vmin=ends[0], vmax=max(ends[1], ends[0] + 1e-6))
    for place in range(len(codes)):  # from a language into itself there is nothing to translate
        axes.add_patch(_square(place))
    axes.set_xticks(range(len(codes)), codes, rotation=90, fontsize=7)
    axes.set_yticks(range(len(codes)), codes, fontsize=7)
    families = [LANGUAGES[code].family for code in codes]
    for place in range(1, len(codes)):
        if families[place] != families[place - 1]:
            axes.axhline(place - 0.5, color="#999999", linewidth=0.5)
            axes.axvline(place - 0.5, color="#999999", linewidth=0.5)
    axes.set_xlabel("into")
    axes.set_ylabel("spoken")
    axes.set_title(f"{title}, {TITLES[metric]} of {len(scores)} directions", fontsize=11)
    figure.colorbar(shown, ax=axes, shrink=0.8, label=TITLES[metric])
    figure.savefig(path, dpi=DPI)


def _square(place: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((place - 0.5, place - 0.5), 1, 1, facecolor="#dddddd", edgecolor="none")


def group_bars(path: Path, systems: Systems, metric: str) -> None:
    """The paper's Figure 5: averages out of and into the languages of each family, and of each tier."""
    named = list(groups().items())
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, side, title in zip(figure.subplots(2, 1), (0, 1), ("out of", "into"), strict=True):
        width = 0.8 / len(systems)
        for number, (system, scores) in enumerate(systems.items()):
            values = [average(v for pair, v in scores.items() if pair[side] in codes) for _, codes in named]
            places = [place + (number - (len(systems) - 1) / 2) * width for place in range(len(named))]
            heights = [np.nan if value is None else value for value in values]
            axes.bar(places, heights, width, label=system, color=COLOURS[number % len(COLOURS)])
        axes.set_xticks(range(len(named)), [name for name, _ in named], rotation=25, ha="right", fontsize=8)
        axes.set_ylabel(f"{TITLES[metric]}, {title}")
        axes.set_xlim(-0.6, len(named) - 0.4)
        _zoom(axes, [value for scores in systems.values() for value in scores.values()])
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    if len(systems) > 1:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=DPI)


def _zoom(axes: Any, values: Sequence[float]) -> None:
    """Bars begin at 0, unless all scores are far from it, as COMET's are."""
    if values and min(values) > 40:
        axes.set_ylim(bottom=10 * int(min(values) // 10))


def text_and_speech(path: Path, speech: Directions, text: Directions, metric: str) -> None:
    """The paper's Figure 9: each spoken language's average, beside the same directions from its transcript."""
    found = [(code, *both) for code, both in text_beside_speech(speech, text).items()]
    found.sort(key=lambda one: one[2])
    places = range(len(found))
    figure = Figure(figsize=(7, 1.2 + 0.2 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.hlines(places, [one[2] for one in found], [one[1] for one in found], color="#bbbbbb", linewidth=1.5)
    axes.scatter([one[1] for one in found], places, s=22, color=COLOURS[1], label="from text", zorder=2)
    axes.scatter([one[2] for one in found], places, s=22, color=COLOURS[0], label="from speech", zorder=2)
    axes.set_yticks(places, [f"{LANGUAGES[code].name} ({code})" for code, *_ in found], fontsize=8)
    axes.set_ylim(-0.8, len(found) - 0.2)
    axes.set_xlabel(f"{TITLES[metric]}, average of all directions out of the language")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", frameon=True)
    figure.savefig(path, dpi=DPI)
