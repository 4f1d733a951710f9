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
    adapter.eval()
    values = []
    for step in tqdm(range(clips // 16), desc="calibrating", disable=None):
        batch, _ = trainer.sampler.batch("calibration", step, 16)
        values.append(adapter(*trainer.frames(batch)).flatten(0, 1).abs().numpy())
    return torch.from_numpy(np.quantile(np.concatenate(values), _KEPT, axis=0).astype(np.float32) / _LEVELS)


def save_delta(trainer: Trainer, folder: Path, card: str) -> None:
    """Writes the model folder that `esrt.hub.resolve` completes with the base weights."""
    network = trainer.network
    config = PRESETS[trainer.recipe.model]
    # The device runs the adapter as it is stored: calibrate that one.
    adapter = QFormer(config.adapter, config.encoder.width)
    adapter.load_state_dict(checkpoint.dequantise(checkpoint.quantise(network.adapter.state_dict())))
    delta = checkpoint.Delta(
        config=config,
        adapter=network.adapter.state_dict(),
        projector=network.projector.state_dict(),
        int8_scale=calibrate(adapter, trainer),
        tags=network.tags.detach(),
        card=card,
    )
    checkpoint.save(folder, delta, network.llm, small=True)


def card(recipe: Recipe) -> str:
    """The facts of a model card that a run knows by itself: stages, steps and rates."""
    stages = "\n".join(
        f"| {s.name} | {s.objective} | {s.steps} x {s.batch} | "
        f"{s.adapter_rate:g} / {s.projector_rate:g} / {s.lora_rate:g} |"
        for s in recipe.stages
    )
    return (
        f"# {recipe.model}\n\nTrained by the recipe `{recipe.name}`, seed {recipe.seed}.\n\n"
        "| stage | objective | steps x batch | peak rates: adapter / projector / LoRA |\n| --- | --- | --- | --- |\n"
        f"{stages}\n"
    )
