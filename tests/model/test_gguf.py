"""Gemma 3 from GGUF files as llama.cpp writes them, and damaged ones."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma3ForCausalLM

from esrt.errors import ModelError
from esrt.hub import packages
from esrt.languages import LANGUAGES
from esrt.model import gguf, language_model
from esrt.model.language_model import TAGS
from tests.model import tiny


def write_gguf(folder: Path, path: Path, kind: GGMLQuantizationType) -> Gemma3ForCausalLM:
    """Writes a small Gemma as llama.cpp does; returns it with the weights as the file rounds them."""
    llm = language_model.load_language_model(folder)
    names = {ours: theirs for theirs, ours in gguf._LAYER.items()}
    outside = {ours: theirs for theirs, ours in gguf._OUTSIDE.items()}
    writer = GGUFWriter(path, "gemma3")
    config = llm.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_sliding_window(config.sliding_window)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(vocabulary))
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    for add, index in (
        (writer.add_pad_token_id, 0),
        (writer.add_eos_token_id, 1),
        (writer.add_bos_token_id, 2),
        (writer.add_unk_token_id, 3),
    ):
        add(index)
    state = {}
    for name, tensor in llm.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem == "lm_head":
            continue
        parts = stem.split(".", 3)
        theirs = outside[stem] if stem in outside else f"blk.{parts[2]}.{names[parts[3]]}"
        values = tensor.numpy()
        norm = theirs.endswith("norm")
        packed = quantize(values + 1 if norm else values, GGMLQuantizationType.F32 if norm else kind)
        writer.add_tensor(f"{theirs}.weight", packed, raw_dtype=GGMLQuantizationType.F32 if norm else kind)
        state[name] = tensor if norm else torch.from_numpy(dequantize(packed, kind).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    llm.load_state_dict(state, strict=False)
    return llm


@pytest.fixture(scope="module")
def gguf_file(gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, tiny.logits(write_gguf(gemma, path, GGMLQuantizationType.Q8_0))


def test_gguf_gives_the_same_model(gguf_file: tuple[Path, torch.Tensor], gemma: Path, tmp_path: Path) -> None:
    path, expected = gguf_file
    llm = language_model.load_language_model(path)
    torch.testing.assert_close(tiny.logits(llm), expected)
    assert llm.config.eos_token_id == 1
    language_model.convert_base(path, tmp_path)
    assert language_model.load_language_model(tmp_path, torch.bfloat16).dtype == torch.bfloat16
    ours, theirs = language_model.load_tokenizer(tmp_path), language_model.load_tokenizer(gemma)
    for language in LANGUAGES.values():
        text = f"{language.name} é"
        assert ours(text).input_ids[1:] == theirs(text, add_special_tokens=False).input_ids
    assert ours("a").input_ids[0] == 2, "BOS goes first, as in Gemma's own"


def test_a_gguf_of_floats(gemma: Path, tmp_path: Path) -> None:
    for kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        expected = tiny.logits(write_gguf(gemma, tmp_path / "floats.gguf", kind))
        torch.testing.assert_close(tiny.logits(language_model.load_language_model(tmp_path / "floats.gguf")), expected)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_gguf_is_told(gguf_file: tuple[Path, torch.Tensor], data: st.DataObject) -> None:
    whole = gguf_file[0].read_bytes()
    path = gguf_file[0].with_name("damaged.gguf")
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:cut])
    with pytest.raises(ModelError):
        gguf.read(path)
    at, byte = data.draw(st.integers(0, 3000)), data.draw(st.integers(0, 255))
    path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    with contextlib.suppress(ModelError):  # any other exception would be a fault of the reader
        opened = gguf.read(path)
        gguf.config(opened)
        dict(gguf.state(opened, torch.float32))


def test_gguf_of_another_model(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError) as caught:
        gguf.read(tmp_path / "llama.gguf")
    assert caught.value.code == "model_not_supported"


# The real one.


@pytest.mark.skipif(not packages.available("google/gemma-3-270m"), reason="pip install 'esrt[tiny]'")
def test_the_real_gemma(tmp_path: Path) -> None:
    opened = gguf.read(packages.assemble("google/gemma-3-270m", tmp_path))
    config = gguf.config(opened)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (640, 18, 262_144)
    assert config.layer_types.count("full_attention") == 3
    gguf.tokenizer(opened).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>"}')
    ids = language_model.expand_tokenizer(tmp_path)
    assert ids == list(range(262_042, 262_144))
    tokenizer = language_model.load_tokenizer(tmp_path)
    assert tokenizer("Hello world").input_ids == [2, 9259, 1902]
    assert tokenizer("Привет, мир!").input_ids == [2, 116_130, 236_764, 58_562, 236_888]
    assert tokenizer("a  b\n\n").input_ids == [2, 236_746, 138, 236_763, 108]
    assert all(tokenizer(tag, add_special_tokens=False).input_ids == [i] for tag, i in zip(TAGS, ids, strict=True))
