"""From a training run to a model folder: calibrates the codec, and saves what was learned as a small delta."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from esrt.config import PRESETS
from esrt.model import checkpoint
from esrt.model.qformer import QFormer
from esrt.train.loop import Trainer
from esrt.train.recipes import Recipe

_LEVELS = 127
_KEPT = 0.9995  # of a channel's values; what lies beyond is clipped


@torch.no_grad()
def calibrate(adapter: QFormer, trainer: Trainer, clips: int = 512) -> Tensor:
    """The int8 codec's static scales, float32 [width], from the adapter's rows of training clips."""
    device, values = trainer.accelerator.device, []
    adapter = adapter.to(device).eval()
    for step in tqdm(range(clips // 16), desc="calibrating", disable=None):
        batch, _ = trainer.batches.sampler.batch("calibration", step, 16)
        frames, lengths = trainer.batches.frames(batch)
        values.append(adapter(frames.to(device), lengths.to(device)).flatten(0, 1).abs().cpu().numpy())
    return torch.from_numpy(np.quantile(np.concatenate(values), _KEPT, axis=0).astype(np.float32) / _LEVELS)


def save_delta(trainer: Trainer, folder: Path, card: str) -> None:
    """Writes the model folder that `esrt.hub.resolve` completes. All processes call this; the main one writes."""
    config = PRESETS[trainer.recipe.model]
    # Not the network's own: FSDP spreads that over the processes.
    state = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.accelerator.is_main_process:
        return

    def part(name: str) -> dict[str, Tensor]:
        prefix = f"{name}."
        return {key.removeprefix(prefix): value.cpu() for key, value in state.items() if key.startswith(prefix)}

    # The device runs the adapter as it is stored: calibrate that one.
    adapter = QFormer(config.adapter, config.encoder.width)
    adapter.load_state_dict(checkpoint.dequantise(checkpoint.quantise(part("adapter"))))
    delta = checkpoint.Delta(
        config=config,
        adapter=part("adapter"),
        projector=part("projector"),
        int8_scale=calibrate(adapter, trainer),
        tags=state["tags"],
        card=card,
        outputs=trainer.batches.vocabularies.outputs,
    )
    checkpoint.save(folder, delta, trainer.network.llm, small=True, lora_state=part("llm"))


def card(recipe: Recipe) -> str:
    """The facts of a model card that a run knows by itself: stages, steps and rates."""
    stages = "\n".join(
        f"| {s.name} | {s.objective} | {s.steps} x {s.batch} | "
        f"{s.adapter_rate:g} / {s.projector_rate:g} / {s.lora_rate:g} |"
        for s in recipe.stages
    )
    frozen = " with its LLM frozen" if recipe.frozen_llm else ""
    return (
        f"# {recipe.model}\n\nTrained by the recipe `{recipe.name}`{frozen}, seed {recipe.seed}.\n\n"
        "| stage | objective | steps x batch | peak rates: adapter / projector / LoRA |\n| --- | --- | --- | --- |\n"
        f"{stages}\n"
    )
