"""The presets have the shapes the paper gives. All on the `meta` device: shapes without weights or memory."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from esrt.config import PRESETS, WINDOW_SAMPLES, LLMConfig
from esrt.model.esrt import ESRTModel

LARGE = ["ESRT-1B", "ESRT-4B", "ESRT-12B", "ESRT-12B-Lite"]


def build(name: str) -> ESRTModel:
    with torch.device("meta"):
        return ESRTModel(PRESETS[name])


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "queries", "width", "llm"),
    [
        ("ESRT-270M", 80, 512, 640),
        ("ESRT-1B", 80, 768, 1152),
        ("ESRT-4B", 80, 768, 2560),
        ("ESRT-12B", 80, 768, 3840),
        ("ESRT-12B-Lite", 40, 768, 3840),
    ],
)
def test_the_tensor_on_the_wire(name: str, queries: int, width: int, llm: int) -> None:
    model = build(name)
    rows = model.encode(torch.empty(2, WINDOW_SAMPLES, device="meta"))
    assert rows.shape == (2, queries, width)
    assert model.project(rows).shape == (2, queries, llm)


@pytest.mark.parametrize("name", LARGE)
def test_the_encoder_is_whisper_large_v3(name: str) -> None:
    model = build(name)
    assert model.edge.mel(torch.empty(1, WINDOW_SAMPLES, device="meta")).shape == (1, 128, 3000)
    assert model.edge.encoder(torch.empty(1, 128, 3000, device="meta")).shape == (1, 1500, 1280)
    assert len(model.edge.encoder.layers) == 32
    assert count(model.edge.encoder) == 636_968_960  # as OpenAI's, with its 1500 x 1280 positions


def test_the_small_encoder_is_whisper_base() -> None:
    assert count(build("ESRT-270M").edge.encoder) == 20_590_592


@pytest.mark.parametrize("name", LARGE)
def test_the_adapter_is_the_papers_q_former(name: str) -> None:
    adapter = build(name).edge.adapter
    found = shapes(adapter)
    assert found["queries"] == (PRESETS[name].adapter.queries, 768)
    crossing = [index for index in range(8) if f"layers.{index}.encoder_attn.k_proj.weight" in found]
    assert len(adapter.layers) == 8
    assert crossing == [0, 2, 4, 6]
    for index in range(8):
        assert found[f"layers.{index}.self_attn.q_proj.weight"] == (768, 768)
        assert found[f"layers.{index}.fc1.weight"] == (3072, 768)
    for index in crossing:
        assert found[f"layers.{index}.encoder_attn.k_proj.weight"] == (768, 1280)
        assert found[f"layers.{index}.encoder_attn.out_proj.weight"] == (768, 768)
    assert PRESETS[name].adapter.heads == 12


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ESRT-270M", [(640, 512), (640,), (640,), (640,)]),
        ("ESRT-1B", [(1152, 768), (1152,), (1152,), (1152,)]),
        ("ESRT-4B", [(1536, 768), (1536,), (2560, 1536), (2560,), (2560,), (2560,)]),
        ("ESRT-12B", [(2560, 768), (2560,), (3840, 2560), (3840,), (3840,), (3840,)]),
        ("ESRT-12B-Lite", [(2560, 768), (2560,), (3840, 2560), (3840,), (3840,), (3840,)]),
    ],
)
def test_the_projector(name: str, expected: list[tuple[int, ...]]) -> None:
    projector = build(name).projector
    assert list(shapes(projector).values()) == expected
    norm = projector[-1]
    assert isinstance(norm, torch.nn.LayerNorm)
    assert norm.eps == 1e-5


def gemma(config: LLMConfig) -> Gemma3TextConfig:
    return Gemma3TextConfig(
        vocab_size=config.vocabulary, hidden_size=config.width, intermediate_size=config.ffn,
        num_hidden_layers=config.layers, num_attention_heads=config.heads, num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim, sliding_window=config.sliding_window,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # as in the published checkpoints, without vision tower and multimodal projector
        ("ESRT-270M", 268_098_176),
        ("ESRT-1B", 999_885_952),
        ("ESRT-4B", 3_880_263_168),
        ("ESRT-12B", 11_766_034_176),
        ("ESRT-12B-Lite", 11_766_034_176),
    ],
)
def test_the_language_model_is_gemma_3(name: str, parameters: int) -> None:
    with torch.device("meta"):
        llm = Gemma3ForCausalLM(gemma(PRESETS[name].llm))
    assert count(llm) == parameters


def test_lite_differs_from_12b_in_its_queries_only() -> None:
    whole, lite = shapes(build("ESRT-12B")), shapes(build("ESRT-12B-Lite"))
    assert whole.keys() == lite.keys()
    assert [name for name in whole if whole[name] != lite[name]] == ["edge.adapter.queries"]
