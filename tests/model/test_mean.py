"""The recipe that halves the way between two models."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from esrt.model import checkpoint, finder, language_model, manifest
from tests.model import tiny

SCRIPT = Path(__file__).parents[2] / "recipes" / "mean_of_models.py"
LORA = "llm_delta/adapter_model.safetensors"


def test_each_tensor_is_half_of_both(whisper: Path, gemma: Path, tmp_path: Path) -> None:
    first, second, out = (tmp_path / name for name in ("first", "second", "out"))
    delta = tiny.delta(tiny.config(whisper, gemma))
    lora = get_peft_model(language_model.load_language_model(gemma), LoraConfig(r=2, target_modules=["q_proj"]))
    checkpoint.save(first, delta, lora, small=True)
    moved = dataclasses.replace(
        delta,
        adapter={name: tensor + 0.5 for name, tensor in delta.adapter.items()},
        projector={name: tensor * 3 for name, tensor in delta.projector.items()},
        tags=delta.tags + 2,
        int8_scale=delta.int8_scale / 2,
        card="the second's",
    )
    for parameter in lora.parameters():
        parameter.data += 1
    checkpoint.save(second, moved, lora, small=True)
    finder.save(second, ["deu", "fra"], torch.zeros(2, tiny.WIDTH), torch.zeros(2))

    subprocess.run([sys.executable, SCRIPT, first, second, out], check=True)
    manifest.check(out)
    a, b, mean = map(checkpoint.load_delta, (first, second, out))
    for of in ("adapter", "projector"):
        ones, others, means = (getattr(each, of) for each in (a, b, mean))
        assert all(torch.allclose(means[name], (ones[name] + others[name]) / 2, atol=0.02) for name in ones)
    assert torch.allclose(mean.tags, delta.tags + 1, atol=1e-2)
    assert torch.equal(mean.int8_scale, delta.int8_scale) and mean.card == "the second's"
    assert finder.load(out) is None, "that of the second reads the second's rows"
    ones, means = load_file(first / LORA), load_file(out / LORA)
    assert all(torch.allclose(means[name].float(), ones[name].float() + 0.5, atol=1e-2) for name in ones)
