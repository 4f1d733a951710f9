"""The paper's Table IX, small: what is lost where a stage, or LoRA, is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from esrt.bench.page import machine, table
from esrt.bench.training import arms
from esrt.train import checkpoint
from esrt.train.loop import Trainer
from esrt.train.recipes import Recipe, Stage

BATCHES = 12  # of held-back clips
TASKS = ("asr", "smt", "srt")


def shortened(stages: Sequence[Stage], share: float) -> list[Stage]:
    """The stages with that share of their steps, and of their warm-up."""
    return [
        replace(stage, steps=max(1, round(share * stage.steps)), warmup=max(1, round(share * stage.warmup)))
        for stage in stages
    ]


def variants(stages: Sequence[Stage]) -> dict[str, list[Stage]]:
    """What to train after stage 0, by the name of what is left out."""
    left_out = {f"no stage {one.name}": [stage for stage in stages if stage is not one] for one in stages}
    frozen = [replace(stage, lora_rate=0.0) for stage in stages]
    return {"all stages": list(stages), **left_out, "no LoRA": frozen, "no stage 0": list(stages)}


def run(recipe: Recipe, data: Path, share: float) -> str:
    """The section: every variant with that share of the recipe's steps. Stage 0 is trained once, for all of them."""
    stages = shortened(recipe.stages, share)
    zero = [stage for stage in stages if stage.objective != "llm"]
    after = [stage for stage in stages if stage.objective == "llm"]
    rows = []
    every = variants(after)
    total = sum(stage.steps for one in (zero, *every.values()) for stage in one)
    with tqdm(total=total, desc="ablation", disable=None) as bar:

        def trained(own: Sequence[Stage], start: Mapping[str, Tensor]) -> Trainer:
            trainer = arms.build(replace(recipe, stages=tuple(own)), data)
            with torch.no_grad():
                for name, parameter in checkpoint.trained(trainer.network).items():
                    if name in start:
                        parameter.copy_(start[name])
            arms.train(trainer, own, bar.update)
            return trainer

        first = checkpoint.trained(trained(zero, {}).network)
        listening = {name: parameter.detach().clone() for name, parameter in first.items()}
        for name, own in every.items():
            trainer = trained(own, {} if name == "no stage 0" else listening)
            cells = [arms.measure(trainer, task, BATCHES) for task in TASKS]
            rows.append([name, str(sum(s.steps for s in own)), *(f"{loss:.2f} / {right:.1%}" for loss, right in cells)])
    steps = ", ".join(f"{stage.name} {stage.steps}" for stage in stages)
    return "\n\n".join(
        [
            table(["", "steps after stage 0", *(f"{task.upper()}: loss / tokens right" for task in TASKS)], rows),
            f"{recipe.name}, steps of each stage: {steps}. What is left out is not made up for by more of "
            f"the rest. Held-back clips, given the right text so far. Beams: the next section. On {machine()}.",
        ]
    )
