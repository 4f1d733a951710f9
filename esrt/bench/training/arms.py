"""What comparisons of training share: short runs of the real loop, measured on clips that validation holds back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import PartialState
from accelerate.utils import is_bf16_available

from esrt.train import parallel, setup
from esrt.train.loop import Trainer
from esrt.train.recipes import Recipe, Stage


@cache
def in_bf16() -> bool:
    """Whether bfloat16 is faster here: measured once, as accelerate has one precision for all runs of a process."""
    return is_bf16_available() and parallel.faster_in_bf16(PartialState().device)


def build(recipe: Recipe, data: Path) -> Trainer:
    """A fresh trainer that holds clips back for validation."""
    bf16 = in_bf16() if recipe.bf16 is None else recipe.bf16
    with TemporaryDirectory() as folder:
        return setup.build(replace(recipe, validate_every=1, bf16=bf16), data, Path(folder))


@torch.no_grad()
def measure(trainer: Trainer, task: str, batches: int, exchanged: bool = False) -> tuple[float, float]:
    """Loss an answer's token and share of tokens right, on the same held-back clips each time.

    They are `batches` of 8, and no more than it takes to see each clip that is held back once. `exchanged` lets each
    answer hear a clip of another batch: a model that listens does worse then, one that knows texts alone does not.
    """
    held = trainer.validation
    assert held is not None
    asked = Stage("validation", "llm", steps=1, batch=8, adapter_rate=0.0, tasks={task: 1.0})
    trainer.model.eval()
    lost = right = count = 0.0
    for number in range(min(batches, math.ceil(held.sampler.clips / asked.batch))):
        samples = held.samples(asked, number)
        if exchanged:
            others = held.samples(asked, number + batches)
            samples = [a._replace(clip=b.clip) for a, b in zip(samples, others, strict=True)]
        losses = trainer.losses(held, asked, number, samples, slice(None))
        lost += float((losses.answer * losses.tokens).sum())
        right += float((losses.right * losses.tokens).sum())
        count += float(losses.tokens.sum())
    return lost / count, right / count


def train(trainer: Trainer, stages: Sequence[Stage], after: Callable[[], None] = lambda: None) -> None:
    """All steps of `stages`; `after` each of them is called."""
    for stage in stages:
        for step in range(stage.steps):
            trainer.step(stage, step)
            after()
