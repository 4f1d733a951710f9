"""What a model costs and gives, beside another: size, milliseconds a token, quality on held-out clips."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from esrt.m2m import score
from esrt.m2m.engine import Engine
from esrt.m2m.generate import Drafting
from esrt.m2m.model import WEIGHTS, load
from esrt.m2m.offline import Ears
from esrt.m2m.prune import parameters, size_of

ROUNDS = 3


def compare(folders: Sequence[Path], manifest: Path, clips: int) -> str:
    """A Markdown table: each model with and without its drafter, on the same clips, in turns."""
    models = [load(folder) for folder in folders]
    items = score.choose(manifest, models[0].config.languages, clips)
    frames = score.listen(Ears(models[0]), items)  # pruning leaves the encoder as it is
    arms = {}
    for number, model in enumerate(models):
        engine = Engine(model, model.config.precision, model.config.trimmed)
        arms[f"{number}"] = partial(score.write, engine, frames=frames)
        if model.kvspn is not None:
            arms[f"{number}+"] = partial(score.write, engine, frames=frames, drafting=Drafting())
    runs = score.race(arms, items, ROUNDS)
    first = runs["0"].seconds
    lines = [
        "| model | decoder | weights | on disk | ms a token | speed | BLEU | CER |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, run in runs.items():
        place = int(name.rstrip("+"))
        model, size = models[place], size_of(models[place])
        counts = parameters(model)
        shape = f"{size.layers} layers, {size.heads} heads, {size.units} units, {model.config.precision}"
        cells = (
            model.config.name + (" + KVSPN" if name.endswith("+") else ""),
            shape,
            f"{sum(counts.values()) / 1e6:.1f} M",
            f"{(folders[place] / WEIGHTS).stat().st_size / 1e6:.0f} MB",
            f"{1000 * run.seconds / run.tokens:.2f}",
            f"{first / run.seconds:.0%}",
            score.shown(score.bleu(items, run.texts)),
            score.shown(score.cer(items, run.texts), 3),
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(
        f"\n{len(items)} texts of {len(frames)} clips of {manifest.name}, the encoder left out; speed is that "
        "of whole texts against the first line."
    )
    return "\n".join(lines)
