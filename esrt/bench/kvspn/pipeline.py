"""The whole pipeline step by step: KVSPN, the head screened or trimmed, pruning, int8, against the unpruned model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from esrt.bench.page import machine, table
from esrt.m2m import score
from esrt.m2m.engine import Engine
from esrt.m2m.generate import Drafting
from esrt.m2m.linear import Precision
from esrt.m2m.model import load
from esrt.m2m.offline import Ears
from esrt.m2m.prune import parameters, size_of
from esrt.m2m.score import Item, Run

Head = Literal["whole", "screened", "trimmed"]
STEPS: tuple[tuple[str, bool, bool, Head, Precision], ...] = (
    ("unpruned, greedy", False, False, "whole", "float32"),
    ("+ KVSPN", False, True, "whole", "float32"),
    ("+ screened head", False, True, "screened", "float32"),
    ("unpruned, screened head, greedy", False, False, "screened", "float32"),
    ("unpruned, KVSPN, trimmed head, int8", False, True, "trimmed", "int8"),
    ("pruned, greedy", True, False, "whole", "float32"),
    ("pruned, KVSPN, screened head", True, True, "screened", "float32"),
    ("pruned, trimmed head, int8, greedy", True, False, "trimmed", "int8"),
    ("pruned, KVSPN, trimmed head, int8: the whole pipeline", True, True, "trimmed", "int8"),
)


def run(model: Path, small: Path, manifest: Path, clips: int, rounds: int) -> str:
    """The section."""
    torch.set_num_threads(1)
    models = (load(model), load(small))
    items = score.choose(manifest, models[0].config.languages, clips)
    frames = score.listen(Ears(models[0]), items)
    arms: dict[str, Callable[[Sequence[Item]], Run]] = {}
    engines: dict[tuple[bool, Head, Precision], Engine] = {}
    for name, pruned, drafted, head, precision in STEPS:
        key = (pruned, head, precision)
        if key not in engines:
            engines[key] = Engine(models[pruned], precision, head == "trimmed", screened=head == "screened")
        drafting = Drafting() if drafted else None
        arms[name] = partial(score.write, engines[key], frames=frames, drafting=drafting)
    runs = score.race(arms, items, rounds)
    first = next(iter(runs.values()))
    rows = [
        [
            name,
            f"{1000 * found.seconds / found.tokens:.2f}",
            f"**{first.seconds / found.seconds:.0%}**",
            f"{found.tokens / found.passes:.2f}",
            score.shown(score.bleu(items, found.texts)),
            score.shown(score.cer(items, found.texts), 3),
        ]
        for name, found in runs.items()
    ]
    rows.append(["paper: Whisper medium, 12 layers, KVSPN, distilled", "-", "259%", "-", "-", "-"])
    shapes = []
    for each in models:
        size, counts = size_of(each), parameters(each)
        shapes.append(
            f"{each.config.name}: {size.layers} layers, {size.heads} heads, {size.units} units; decoder "
            f"{counts['decoder'] / 1e6:.1f} M weights, embedding {counts['embedding'] / 1e6:.1f} M, encoder "
            f"{counts['encoder'] / 1e6:.1f} M, KVSPN {counts['kvspn'] / 1e6:.1f} M."
        )
    return "\n\n".join(
        [
            " ".join(shapes),
            table(["", "ms a token", "speed", "tokens a pass", "BLEU, all pairs", "CER of transcripts"], rows),
            f"{len(items)} texts of {len(frames)} clips by people from {manifest.name}, in turns, the encoder left "
            f"out, the least of {rounds} rounds; the whole head has "
            f"{models[0].decoder.embed_tokens.num_embeddings:,} rows, the trimmed one {len(models[0].outputs):,}. "
            f"Ran on {machine()}.",
        ]
    )
