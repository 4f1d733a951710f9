"""Beam search on the same forward pass: the clip's memory is kept once, the caches follow the beams."""

from __future__ import annotations

import torch
from torch import Tensor

from esrt.m2m.engine import Engine
from esrt.m2m.generate import LIMIT


@torch.inference_mode()
def beam(engine: Engine, frames: Tensor, prompt: list[int], width: int = 3, limit: int = LIMIT) -> list[int]:
    """The likeliest text of one clip, frames [1, t, width], among `width` beams: sum of log-probabilities / length."""
    state = engine.start(frames, [frames.shape[1]], len(prompt) + limit, forks=width, drafts=False)
    limit = min(limit, state.keys[0].shape[2] - len(prompt))
    end = engine.model.end
    row = engine.step(torch.tensor([prompt] * width), state)[:, -1]
    state.lengths = [len(prompt)] * width
    scores = torch.full((width, 1), -torch.inf)
    scores[0] = 0.0  # all beams are alike still
    texts: list[list[int]] = [[] for _ in range(width)]
    done: list[tuple[float, list[int]]] = []
    for _ in range(limit):
        chances = scores + engine.logits(row).log_softmax(-1)
        best, places = chances.flatten().topk(2 * width)
        parents, tokens = (places // chances.shape[1]).tolist(), engine.written(places % chances.shape[1]).tolist()
        kept: list[tuple[float, int, int]] = []
        for score, parent, token in zip(best.tolist(), parents, tokens, strict=True):
            if token == end:
                done.append((score / (len(texts[parent]) + 1), texts[parent]))
            elif len(kept) < width:
                kept.append((score, parent, token))
        texts = [[*texts[parent], token] for _, parent, token in kept]
        scores = torch.tensor([score for score, _, _ in kept])[:, None]
        if len(done) >= width:
            break
        if len(texts[0]) < limit:
            state.take(torch.tensor([parent for _, parent, _ in kept]))
            row = engine.step(torch.tensor([[token] for _, _, token in kept]), state)[:, -1]
            state.lengths = [length + 1 for length in state.lengths]
    if not done:
        done = [(float(score) / len(text), text) for score, text in zip(scores[:, 0], texts, strict=True)]
    return max(done, key=lambda found: found[0])[1]
