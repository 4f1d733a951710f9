"""The dry run: what it counts is what the real network has, and no weights are made for it."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from esrt import config
from esrt.config import PRESETS, AdapterConfig
from esrt.train import memory
from esrt.train.memory import Clips
from esrt.train.network import Network
from esrt.train.recipes import Recipe, Stage, esrt_4b, esrt_270m

SMALL = replace(
    PRESETS["ESRT-270M"],
    adapter=AdapterConfig("whisper", 12, 64, 2, 4, 128, 1),
    llm=replace(PRESETS["ESRT-270M"].llm, width=64, layers=4, heads=2, head_dim=32, ffn=128, vocabulary=500),
)
STAGES = (
    Stage("0a", "ctc-whisper", 4, 16, 1e-3),
    Stage("0b", "ctc-llm", 4, 16, 1e-3, 1e-3),
    Stage("I", "llm", 4, 16, 1e-3, 1e-3),
    Stage("III", "llm", 4, 16, 1e-3, 1e-3, 1e-3, 0.3),
)
RECIPE = Recipe("small", "small", STAGES, {"m": 1.0}, lora_rank=2, bf16=False)
CLIPS = Clips(seconds=2.0, tokens=30, words=120, spoken=50)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config.PRESETS, "small", SMALL)


def real() -> Network:
    return memory.build(RECIPE, CLIPS, bf16=False)


def test_parameters_are_those_of_the_real_network() -> None:
    with FakeTensorMode():
        without = memory.shapes(RECIPE, CLIPS, bf16=False)
        named = {name: tuple(value.shape) for name, value in without.named_parameters()}
        weights = memory.size([*without.parameters(), *without.buffers()])
    network = real()
    assert named == {name: tuple(value.shape) for name, value in network.named_parameters()}
    assert weights == sum(t.untyped_storage().nbytes() for t in [*network.parameters(), *network.buffers()])


def test_the_document_has_what_the_command_prints() -> None:
    document = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [line for line in memory.table(esrt_270m()).splitlines() if line.startswith("| ")]
    assert len(rows) == 8 and all(row in document for row in rows)


def test_activations_are_those_that_the_real_forward_pass_keeps() -> None:
    stage = STAGES[-1]
    network = real().train()
    with FakeTensorMode():
        told = memory.activations(memory.shapes(RECIPE, CLIPS, False), RECIPE, stage, CLIPS, False, 4)
    assert memory.activations(network, RECIPE, stage, CLIPS, False, 4) == pytest.approx(told, rel=0.02)
    assert told[1] < told[0]


def test_moments_are_of_what_has_had_a_gradient() -> None:
    zero, _, first, third = memory.needs(RECIPE, 1, CLIPS, bf16=False)
    network = real()
    heads = memory.count([*network.adapter.parameters(), *network.whisper_ctc.parameters()])
    assert (zero.gradients, zero.moments) == (4 * heads, 8 * heads)
    lora = memory.count(p for name, p in network.named_parameters() if "lora_" in name)
    assert third.moments - first.moments == 8 * lora
    assert third.weights == first.weights


def test_eight_devices_need_less_each() -> None:
    for one, eight in zip(memory.needs(RECIPE, 1, CLIPS, False), memory.needs(RECIPE, 8, CLIPS, False), strict=True):
        assert eight.moments == one.moments / 8
        assert eight.activations[0] < one.activations[0] and eight.logits < one.logits


def test_a_large_model_takes_no_memory() -> None:
    gc.collect()
    recipe = esrt_4b()
    text = memory.table(replace(recipe, stages=recipe.stages[-1:]))
    lines = text.splitlines()
    assert "ESRT-4B" in lines[0]
    frozen = float(lines[1].split("language model ")[1].split(" M")[0].replace(",", ""))
    assert 3800 < frozen < 3900, "Gemma 3 4B without its vision tower has 3.88 thousand million parameters"
    assert not any(isinstance(found, torch.Tensor) and found.numel() > 10**8 for found in gc.get_objects())
