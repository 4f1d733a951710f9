"""Reads Gemma 3 from a GGUF file: weights, configuration and tokenizer as transformers wants them.

A reader of our own, because the usual one takes most of a minute for a vocabulary of 262,144; only the unpacking of
quantised blocks is left to the package gguf. The file: magic, version u32, tensors u64, pairs u64; the pairs of key and
value; for each tensor its name, dimensions, type and offset; then the data. A string is a u64 length and UTF-8.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import Gemma3TextConfig

from esrt.errors import ModelError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_CONTROL, _USER_DEFINED = 3, 4  # types of tokens
_MOST = 1 << 20  # pairs, tensors; a file with more is damaged
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True)
class Packed:
    """A tensor as it lies in the file: `shape` as torch counts it (slowest dimension first), blocks of `kind`."""

    shape: tuple[int, ...]
    kind: int
    data: memoryview


@dataclass(frozen=True)
class GGUF:
    """A file's metadata and its packed tensors."""

    path: Path
    meta: Mapping[str, Any]
    tensors: Mapping[str, Packed]


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def unpack(self, kind: str, count: int = 1) -> tuple[Any, ...]:
        form = f"<{count}{kind}"
        size = struct.calcsize(form)
        if size > len(self.data) - self.at:
            raise ValueError("it ends too early")
        self.at += size
        return struct.unpack_from(form, self.data, self.at - size)

    def number(self, kind: str) -> Any:
        return self.unpack(kind)[0]

    def string(self) -> str:
        size = self.number("Q")
        if size > len(self.data) - self.at:
            raise ValueError("it ends too early")
        self.at += size
        return str(self.data[self.at - size : self.at], "utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, count = self.number("I"), self.number("Q")
        if count > len(self.data) - self.at:
            raise ValueError("it ends too early")
        return [self.string() for _ in range(count)] if inner == _STRING else list(self.unpack(_SCALARS[inner], count))


def read(path: Path) -> GGUF:
    """Opens a GGUF file of Gemma 3. Raises ModelError: model_missing, model_damaged, model_not_supported."""
    try:
        with path.open("rb") as opened:
            data = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise ModelError("model_missing", f"{path} cannot be read: {error}.") from error
    try:
        meta, tensors = _parse(_Reader(data))
    except (ValueError, KeyError, ArithmeticError, struct.error) as error:
        raise ModelError("model_damaged", f"{path} is not a whole GGUF file ({error}); fetch it once more.") from error
    if meta.get("general.architecture") != "gemma3" or meta.get("tokenizer.ggml.model") != "llama":
        raise ModelError("model_not_supported", f"{path} does not hold Gemma 3, which ESRT needs.")
    return GGUF(path, meta, tensors)


def _parse(reader: _Reader) -> tuple[dict[str, Any], dict[str, Packed]]:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    if bytes(reader.data[:4]) != b"GGUF":
        raise ValueError("its first bytes are others")
    reader.at = 4
    version, tensor_count, pair_count = reader.number("I"), reader.number("Q"), reader.number("Q")
    if version not in (2, 3) or tensor_count > _MOST or pair_count > _MOST:
        raise ValueError(f"version {version}, {tensor_count} tensors")
    meta = {}
    for _ in range(pair_count):
        key = reader.string()
        meta[key] = reader.value(reader.number("I"))
    found = []
    for _ in range(tensor_count):
        name, rank = reader.string(), reader.number("I")
        if rank > 4:
            raise ValueError(f"{name} has {rank} dimensions")
        shape = tuple(reversed(reader.unpack("Q", rank)))
        found.append((name, shape, reader.number("I"), reader.number("Q")))
    alignment = int(meta.get("general.alignment", 32)) or 32
    start = -(-reader.at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in found:
        per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        end = start + offset + math.prod(shape) // per_block * block_bytes
        if not shape or shape[-1] % per_block or end > len(reader.data):
            raise ValueError(f"{name} does not fit")
        tensors[name] = Packed(shape, kind, reader.data[start + offset : end])
    return meta, tensors


def config(file: GGUF) -> Gemma3TextConfig:
    """The configuration of Gemma3ForCausalLM."""
    try:
        names = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")
        told = [file.meta[f"gemma3.{name}"] for name in names]
        # A damaged number must not be allocated: what is told is what lies there.
        if not told[0] or told != _held(file):
            raise ValueError(f"{told} are told, {_held(file)} are there")
        rope = {
            "full_attention": {"rope_type": "default", "rope_theta": float(file.meta["gemma3.rope.freq_base"])},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        }
        if scale := file.meta.get("gemma3.rope.scaling.factor"):
            rope["full_attention"] |= {"rope_type": "linear", "factor": float(scale)}
        return Gemma3TextConfig(
            vocab_size=file.tensors["token_embd.weight"].shape[0],
            hidden_size=file.meta["gemma3.embedding_length"],
            intermediate_size=file.meta["gemma3.feed_forward_length"],
            num_hidden_layers=file.meta["gemma3.block_count"],
            num_attention_heads=file.meta["gemma3.attention.head_count"],
            num_key_value_heads=file.meta["gemma3.attention.head_count_kv"],
            head_dim=file.meta["gemma3.attention.key_length"],
            query_pre_attn_scalar=file.meta["gemma3.attention.key_length"],
            sliding_window=file.meta["gemma3.attention.sliding_window"],
            max_position_embeddings=file.meta["gemma3.context_length"],
            rms_norm_eps=round(file.meta["gemma3.attention.layer_norm_rms_epsilon"], 12),
            rope_parameters=rope,
            bos_token_id=file.meta["tokenizer.ggml.bos_token_id"],
            eos_token_id=file.meta["tokenizer.ggml.eos_token_id"],
            pad_token_id=file.meta["tokenizer.ggml.padding_token_id"],
            tie_word_embeddings="output.weight" not in file.tensors,
        )
    except (KeyError, TypeError, ValueError, ArithmeticError, StrictDataclassError) as error:
        raise ModelError("model_not_supported", f"{file.path} does not tell the shape of Gemma 3 ({error}).") from error


def _held(file: GGUF) -> list[int]:
    """Layers, width, inner width and heads as the tensors have them."""
    layers = len({name.split(".")[1] for name in file.tensors if name.startswith("blk.")})
    (width,) = file.tensors["token_embd.weight"].shape[1:]
    rows = [file.tensors[f"blk.0.{name}.weight"].shape[0] for name in ("ffn_gate", "attn_q", "attn_k")]
    heads, odd = divmod(rows[1], file.meta["gemma3.attention.key_length"])
    key_rows = file.meta["gemma3.attention.head_count_kv"] * file.meta["gemma3.attention.key_length"]
    if odd or key_rows != rows[2]:
        raise ValueError(f"heads of {file.meta['gemma3.attention.key_length']} do not fit")
    return [layers, width, rows[0], heads]


def state(file: GGUF, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names of Gemma3ForCausalLM, one after the other."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    for name, packed in file.tensors.items():
        raw = np.frombuffer(packed.data, np.uint8).reshape(*packed.shape[:-1], -1)
        kind = GGMLQuantizationType(packed.kind)
        if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            raw = raw.view(np.float32 if kind is GGMLQuantizationType.F32 else np.float16)
        values: npt.NDArray[np.float32] = dequantize(raw, kind)
        if not np.isfinite(values).all():
            raise ModelError("model_damaged", f"{name} in {file.path} is not finite; fetch the file once more.")
        if name.endswith("norm.weight"):
            values = values - 1  # the file holds 1 + w, what the layer multiplies by; transformers holds w
        yield _name(name, file.path), torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(dtype)


def _name(name: str, path: Path) -> str:
    stem, _, last = name.rpartition(".")
    parts = stem.split(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{last}"
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in _LAYER:
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{last}"
    raise ModelError("model_not_supported", f"{path} holds {name}, which Gemma 3 does not have.")


def tokenizer(file: GGUF) -> tokenizers.Tokenizer:
    """Gemma's tokenizer: BPE over bytes as a last resort, a space is `▁`, BOS goes first.

    Two things the file does not say: runs of spaces stand in it as spaces, and its scores do not tell the order of
    merges, the order of the tokens does.
    """
    kinds: list[int] = file.meta["tokenizer.ggml.token_type"]
    tokens = ["▁" * len(t) if t.isspace() and " " in t else t for t in file.meta["tokenizer.ggml.tokens"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [
        (token[:cut], token[cut:])
        for token in tokens
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    special = {
        name: tokens[file.meta[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in (("bos", "bos"), ("unk", "unknown"), ("eos", "eos"), ("pad", "padding"))
    }
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, merges, unk_token=special["unk"], fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bos = special["bos"]
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, vocabulary[bos])]
    )
    pairs = list(zip(tokens, kinds, strict=True))
    named = set(special.values())
    made.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t, kind in pairs if kind == _CONTROL or t in named]
    )
    whole = [t for t, kind in pairs if kind == _USER_DEFINED and not t.startswith("▁")]
    made.add_tokens([AddedToken(t, normalized=False) for t in whole])
    return made
