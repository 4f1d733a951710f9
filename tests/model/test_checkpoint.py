"""Model folders: what is saved comes back, in the small form too, and damage is told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict

from esrt.config import ModelConfig
from esrt.errors import ModelError
from esrt.model import checkpoint, language_model, manifest
from tests.model import tiny


@pytest.fixture(scope="module")
def delta(whisper: Path, gemma: Path) -> checkpoint.Delta:
    return tiny.delta(tiny.config(whisper, gemma))


@pytest.fixture
def lora(gemma: Path) -> PeftModel:
    torch.manual_seed(4)
    llm = language_model.load_language_model(gemma)
    model = get_peft_model(llm, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], lora_dropout=0.1))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_a_delta_comes_back(delta: checkpoint.Delta, lora: PeftModel, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "model", delta, lora)
    read = checkpoint.load_delta(tmp_path / "model")
    assert read.config == delta.config
    assert read.card == delta.card
    assert torch.equal(read.tags, delta.tags)
    assert torch.equal(read.int8_scale, delta.int8_scale)
    for one, other in ((read.adapter, delta.adapter), (read.projector, delta.projector)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    manifest.check(tmp_path / "model")
    names = {path.relative_to(tmp_path / "model").as_posix() for path in (tmp_path / "model").rglob("*")}
    assert names == {
        "config.json", "adapter.safetensors", "projector.safetensors", "codec.safetensors", "tags.safetensors",
        "card.md", "MANIFEST.json", "llm_delta", "llm_delta/adapter_config.json",
        "llm_delta/adapter_model.safetensors",
    }  # fmt: skip


def test_the_small_form_is_saved_again_as_it_was(delta: checkpoint.Delta, lora: PeftModel, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    checkpoint.save(first, delta, lora, small=True)
    read = checkpoint.load_delta(first)
    checkpoint.save(second, read, small=True)
    for name in ("adapter.safetensors", "projector.safetensors", "codec.safetensors", "tags.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    again = checkpoint.load_delta(second)
    assert all(torch.equal(read.adapter[name], again.adapter[name]) for name in read.adapter)
    for name, tensor in delta.adapter.items():
        step = tensor.abs().amax(-1, keepdim=True) / 127 if tensor.ndim == 2 else torch.tensor(0.0)
        assert (read.adapter[name] - tensor).abs().le(step * 0.51 + 1e-9).all(), name
    checkpoint.save(tmp_path / "large", delta)
    sizes = [(folder / "adapter.safetensors").stat().st_size for folder in (first, tmp_path / "large")]
    assert sizes[0] < 0.4 * sizes[1]


def test_codebooks_come_back_and_belong_to_the_fingerprint(delta: checkpoint.Delta, tmp_path: Path) -> None:
    every = dataclasses.replace(delta, codec=tiny.codebooks())
    checkpoint.save(tmp_path / "plain", delta)
    checkpoint.save(tmp_path / "every", every)
    assert checkpoint.load_tables(tmp_path / "plain").codecs == ["bf16", "int8"]
    assert checkpoint.load_tables(tmp_path / "every").codecs == ["bf16", "int8", "int4", "rvq8", "rvq16", "rvq32"]
    checkpoint.save(tmp_path / "again", checkpoint.load_delta(tmp_path / "every"))
    stored = [(tmp_path / name / "codec.safetensors").read_bytes() for name in ("every", "again")]
    assert stored[0] == stored[1]
    prints = {checkpoint.fingerprint(tmp_path / name) for name in ("plain", "every", "again")}
    assert len(prints) == 2
    words = checkpoint.load_tables(tmp_path / "every").codebooks
    assert words is not None and np.array_equal(words.words, every.codec["rvq.words"].numpy())


@pytest.mark.parametrize("lost", ["rvq.words", "int4_centre"])
def test_incomplete_codec_tables_are_refused(delta: checkpoint.Delta, tmp_path: Path, lost: str) -> None:
    tables = {name: tensor for name, tensor in tiny.codebooks().items() if name != lost}
    checkpoint.save(tmp_path / "model", dataclasses.replace(delta, codec=tables))
    with pytest.raises(ModelError) as caught:
        checkpoint.load_tables(tmp_path / "model")
    assert caught.value.code == "codec_damaged"


def test_an_interrupted_save_leaves_what_was_there(delta: checkpoint.Delta, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    checkpoint.save(folder, delta)
    before = (folder / "MANIFEST.json").read_bytes()
    with pytest.raises(ModelError):
        checkpoint.save(folder, dataclasses.replace(delta, card="other"), lora=torch.nn.Linear(1, 1))
    assert (folder / "MANIFEST.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_lora_adds_what_it_learned(delta: checkpoint.Delta, lora: PeftModel, gemma: Path, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "model", delta, lora)
    folder = tmp_path / "model" / "llm_delta"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == delta.config.llm.weights
    merged = language_model.merge_lora(language_model.load_language_model(gemma), folder)
    ids = torch.tensor([[2, 130, 140]])
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, lora(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
        plain = language_model.load_language_model(gemma)(input_ids=ids).logits
        assert (merged(input_ids=ids).logits - plain).abs().max() > 1e-3
    (folder / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError) as caught:
        language_model.merge_lora(language_model.load_language_model(gemma), folder)
    assert caught.value.code == "model_damaged"
    (folder / "adapter_model.safetensors").unlink()
    torch.save(get_peft_model_state_dict(lora), folder / "adapter_model.bin")
    with pytest.raises(ModelError) as caught:
        language_model.merge_lora(language_model.load_language_model(gemma), folder)
    assert caught.value.code == "model_damaged" and "safetensors" in str(caught.value), "and is not unpickled"


@pytest.mark.parametrize("longest", [0, 31, "8", None])
def test_a_segment_that_no_frame_can_hold(delta: checkpoint.Delta, tmp_path: Path, longest: object) -> None:
    path = tmp_path / "config.json"
    delta.config.save(path)
    assert ModelConfig.load(path).longest == 30
    path.write_text(json.dumps(json.loads(path.read_text()) | {"longest": longest}))
    with pytest.raises(ModelError) as caught:
        ModelConfig.load(path)
    assert caught.value.code == "model_damaged"


def test_the_fingerprint_names_the_edge_half_alone(delta: checkpoint.Delta, lora: PeftModel, tmp_path: Path) -> None:
    def fingerprint(changed: checkpoint.Delta, small: bool = False) -> bytes:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        checkpoint.save(folder, changed, small=small)
        return checkpoint.fingerprint(folder)

    first = fingerprint(delta)
    assert len(first) == 8
    assert fingerprint(dataclasses.replace(delta, tags=delta.tags + 1, card="another")) == first
    assert fingerprint(dataclasses.replace(delta, int8_scale=delta.int8_scale * 2)) != first
    checkpoint.save(tmp_path / "rounded", delta, small=True)
    rounded = checkpoint.load_delta(tmp_path / "rounded")
    assert fingerprint(rounded) == fingerprint(rounded, small=True), "the form it is stored in does not matter"
    assert fingerprint(rounded) != first


@pytest.mark.parametrize("name", ["adapter", "projector", "codec", "tags"])
def test_damage_is_told(delta: checkpoint.Delta, tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path / "model", delta)
    path = tmp_path / "model" / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError) as caught:
        checkpoint.load_delta(tmp_path / "model")
    assert caught.value.code == "model_damaged"
    path.unlink()
    with pytest.raises(ModelError) as caught:
        checkpoint.load_delta(tmp_path / "model")
    assert caught.value.code == "model_missing"


def test_what_does_not_fit_is_told(delta: checkpoint.Delta, tmp_path: Path) -> None:
    for changed in (
        dataclasses.replace(delta, tags=delta.tags[:-1]),
        dataclasses.replace(delta, int8_scale=delta.int8_scale[:-1]),
    ):
        checkpoint.save(tmp_path / "model", changed)
        with pytest.raises(ModelError) as caught:
            checkpoint.load_delta(tmp_path / "model")
        assert caught.value.code == "model_mismatch"
    checkpoint.save(tmp_path / "model", dataclasses.replace(delta, projector={"0.weight": torch.zeros(2, 2)}))
    with pytest.raises(ModelError) as caught:
        checkpoint.load_projector(tmp_path / "model")
    assert caught.value.code == "model_mismatch"
    with pytest.raises(ModelError) as caught:
        checkpoint.load(tmp_path / "model")
    assert caught.value.code == "model_not_ready"


floats = st.floats(-1e4, 1e4, width=32) | st.floats(-(2.0**-20), 2.0**-20, width=32) | st.just(0.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(floats, min_size=3, max_size=3), min_size=1, max_size=4))
def test_int8_rows_are_stable(rows: list[list[float]]) -> None:
    matrix = {"a.weight": torch.tensor(rows), "a.bias": torch.tensor(rows[0])}
    packed = checkpoint.quantise(matrix)
    assert packed["a.weight"].dtype == torch.int8
    assert packed["a.weight.scale"].dtype == torch.float16
    assert torch.equal(packed["a.bias"], matrix["a.bias"])
    once = checkpoint.dequantise(packed)
    twice = checkpoint.quantise(once)
    assert all(torch.equal(packed[name], twice[name]) for name in packed)
    scale = packed["a.weight.scale"].float()[:, None]
    assert ((once["a.weight"] - matrix["a.weight"]).abs() <= 0.57 * scale).all()


def test_int8_without_scales_is_refused() -> None:
    with pytest.raises(ModelError):
        checkpoint.dequantise({"a.weight": torch.zeros(2, 2, dtype=torch.int8)})
    with pytest.raises(ModelError):
        checkpoint.quantise({"a.weight": torch.full((2, 2), torch.nan)})
