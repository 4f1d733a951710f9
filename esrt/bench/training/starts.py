"""How an adapter begins to listen: two starts and three losses, each given the same seconds of processor time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from esrt.bench.chart import line_chart
from esrt.bench.page import machine, table
from esrt.bench.training import arms
from esrt.model.qformer import QFormer
from esrt.train.loop import Trainer
from esrt.train.recipes import Recipe, Stage

LOOKS = 8  # points of a curve
BATCHES = 6  # of held-back clips a look

# Which stages of the recipe a loss has, and their shares of the time.
LOSSES: dict[str, Mapping[str, float]] = {
    "LLM": {"I": 1.0},
    "CTC": {"0a": 0.6, "0b": 0.4},
    "both": {"0a": 0.4, "0b": 0.2, "I": 0.4},
}
STARTS = ("decoder", "noise")


@torch.no_grad()
def noise(trainer: Trainer) -> None:
    """Puts fresh random weights into the adapter and the head that started as Whisper's."""
    network = trainer.network
    torch.manual_seed(trainer.recipe.seed)
    fresh = QFormer(network.adapter.config, trainer.batches.features.width)
    network.adapter.load_state_dict(fresh.state_dict())
    network.whisper_ctc.head.reset_parameters()


def curve(trainer: Trainer, stages: Sequence[tuple[Stage, float]], seconds: float) -> list[tuple[float, float, float]]:
    """Trains for `seconds` of processor time, of which each stage has its share; looks at held-back clips on the way.

    Returns (processor seconds, loss, share of tokens right) of each look; looking is not counted.
    """
    spent, seen = 0.0, []

    def look() -> None:
        seen.append((spent, *arms.measure(trainer, "asr", BATCHES)))

    look()
    for stage, share in stages:
        end, step, planned = spent + share * seconds, 0, stage
        while spent < end:
            began = time.process_time()
            trainer.step(planned, step)
            cost = time.process_time() - began
            spent, step = spent + cost, step + 1
            if step == 2:  # the first warms up; from the second it is known how many there will be
                steps = step + max(1, round((end - spent) / cost))
                planned = replace(stage, steps=steps, warmup=max(2, steps // 10))
            if spent >= len(seen) * seconds / LOOKS:
                look()
    return seen


def run(recipe: Recipe, data: Path, seconds: float, picture: Path) -> str:
    """The section: a curve of `seconds` for every start and loss, and a chart in `picture`."""
    stages = {stage.name: stage for stage in recipe.stages}
    chart, rows = {}, []
    for start in STARTS:
        for loss, shares in LOSSES.items():
            own = [(stages[name], share) for name, share in shares.items()]
            if loss == "LLM":
                own = [(replace(stage, ctc_weight=0.0), share) for stage, share in own]
            trainer = arms.build(replace(recipe, stages=tuple(stage for stage, _ in own)), data)
            if start == "noise":
                noise(trainer)
            seen = curve(trainer, own, seconds)
            chart[f"{loss}, from {start}"] = [(spent, lost) for spent, lost, _ in seen]
            spent, lost, right = seen[-1]
            deaf, _ = arms.measure(trainer, "asr", BATCHES, exchanged=True)
            figures = (f"{seen[0][1]:.2f}", f"{lost:.2f}", f"{right:.1%}", f"{deaf - lost:.2f}")
            rows.append([f"{loss}, from {start}", f"{spent:.0f}", *figures])
    picture.write_text(line_chart(chart, "processor seconds", "loss on held-back clips"), encoding="utf-8")
    parts = "; ".join(
        f"{loss}: " + ", ".join(f"{share:.0%} stage {name}" for name, share in shares.items())
        for loss, shares in LOSSES.items()
    )
    return "\n\n".join(
        [
            table(["loss and start", "processor seconds", "loss before", "loss after", "tokens right", "heard"], rows),
            f"![loss by processor seconds]({picture.name})",
            f"{recipe.model}, the LLM's loss on transcripts of held-back clips; heard: how much higher it is "
            f"with the sound of another clip, 0 where only texts are known. Each had {seconds:.0f} s of processor "
            f"time ({parts}; LLM alone is stage I without its CTC). `decoder` is Whisper's own decoder, `noise` random "
            f"weights in adapter and CTC head. On {machine()}.",
        ]
    )
