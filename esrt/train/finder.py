"""Fits the part of a trained model that finds the spoken language from a frame (esrt.model.finder)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from esrt.errors import UsageError
from esrt.model import finder
from esrt.train import adapter_rows
from esrt.train.manifest import Row, read_manifest

_DECAY = 0.01
_ITERATIONS = 300


def run(
    folder: Path, data: Path, names: Sequence[str], clips: int, sources: Collection[str] | None = None
) -> list[str]:
    """Gives the delta folder a finder of the languages `sources`, or all that the manifests `data`/<name>.jsonl speak.

    Returns those it finds. At most `clips` of each language of each manifest are heard. Raises UsageError
    `model_is_built` for a folder that was made of another, and `too_few_languages`; ModelError.
    """
    with adapter_rows.renewed(folder) as work:
        spoken = {
            audio: code
            for name in names
            for audio, code in _draw(read_manifest(data / f"{name}.jsonl"), clips)
            if sources is None or code in sources
        }
        means, heard = [], []
        for audios, rows in adapter_rows.of(folder, data, list(spoken)):
            means.append(rows.mean(1).cpu())
            heard += [spoken[audio] for audio in audios]
        if len(set(heard)) < 2:
            raise UsageError("too_few_languages", f"{', '.join(names)}: clips of two languages at least are needed.")
        codes, weight, bias = fit(torch.cat(means), heard)
        finder.save(work, codes, weight, bias)
    return codes


def _draw(rows: Sequence[Row], clips: int) -> list[tuple[str, str]]:
    """At most `clips` recordings of each language, with it."""
    by_code: dict[str, dict[str, None]] = {}
    for row in rows:
        by_code.setdefault(row.src, {})[row.audio] = None
    dice = np.random.default_rng(0)
    return [(audio, code) for code, all in sorted(by_code.items()) for audio in dice.permutation(list(all))[:clips]]


def fit(means: Tensor, spoken: Sequence[str]) -> tuple[list[str], Tensor, Tensor]:
    """Means of rows [n, width] and what is spoken in each -> languages, `weight` and `bias` of logistic regression.

    Each channel counts by its spread, and the weights' squares are held down: few voices must not be learned.
    """
    codes = sorted(set(spoken))
    wanted = torch.tensor([codes.index(code) for code in spoken])
    centre, spread = means.mean(0), means.std(0).clamp(min=1e-6)
    known = (means - centre) / spread
    layer = nn.Linear(means.shape[1], len(codes))
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    steps = torch.optim.LBFGS(layer.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        steps.zero_grad()
        found = nn.functional.cross_entropy(layer(known), wanted) + _DECAY / 2 * layer.weight.square().sum()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    steps.step(loss)  # type: ignore[no-untyped-call]
    weight = layer.weight.detach() / spread
    return codes, weight, layer.bias.detach() - weight @ centre
