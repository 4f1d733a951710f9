"""Reads the `model.bin` of a Whisper model in CTranslate2's format and names its arrays as transformers does.

The file (format 6, little-endian) is a flat list: version u32, name of the specification, revision u32, count u32; then
for each array its name, rank u8, dimensions u32, type u8, bytes u32 and the values; then the count of aliases and pairs
of names. A name is a u16 length and that many bytes, the last of them NUL. Nothing in it is trusted: lengths are
checked against the file before anything is allocated.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from esrt.errors import ModelError

_VERSION = 6
_MAX_ARRAYS = 20_000
_MAX_RANK = 8
_MAX_LAYERS = 64
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}

Arrays = dict[str, np.ndarray]


class _Reader:
    """A position in the bytes of the file; every read is checked against the end."""

    def __init__(self, data: memoryview, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def bytes(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise _damaged(self.path, "it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, kind: str) -> int:
        return int(struct.unpack("<" + kind, self.bytes(struct.calcsize("<" + kind)))[0])

    def name(self) -> str:
        raw = bytes(self.bytes(self.number("H")))
        if not raw.endswith(b"\0") or b"\0" in raw[:-1] or not raw.isascii():
            raise _damaged(self.path, "a name in it is not a name")
        return raw[:-1].decode("ascii")


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(
        "model_damaged", f"{path} is not a Whisper model in CTranslate2's format ({why}); fetch it once more."
    )


def read_arrays(path: Path) -> Arrays:
    """Every array of a `model.bin` by CTranslate2's own name, as views of its bytes; aliases share their array."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError("model_missing", f"{path} cannot be read: {error.strerror or error}.") from error
    reader = _Reader(memoryview(data), path)
    version = reader.number("I")
    if version != _VERSION:
        raise _damaged(path, f"its format is {version}, not {_VERSION}")
    reader.name()
    reader.number("I")
    count = reader.number("I")
    if count > _MAX_ARRAYS:
        raise _damaged(path, "it claims too many arrays")
    arrays: Arrays = {}
    for _ in range(count):
        name = reader.name()
        if name in arrays:
            raise _damaged(path, f"{name} stands in it twice")
        arrays[name] = _array(reader)
    aliases = reader.number("I")
    if aliases > _MAX_ARRAYS:
        raise _damaged(path, "it claims too many aliases")
    for _ in range(aliases):
        alias, target = reader.name(), reader.name()
        if target not in arrays or alias in arrays:
            raise _damaged(path, f"the alias {alias} leads nowhere")
        arrays[alias] = arrays[target]
    if reader.at != len(data):
        raise _damaged(path, "bytes follow its end")
    return arrays


def _array(reader: _Reader) -> np.ndarray:
    rank = reader.number("B")
    if rank > _MAX_RANK:
        raise _damaged(reader.path, f"an array in it has {rank} dimensions")
    shape = tuple(reader.number("I") for _ in range(rank))
    kind = reader.number("B")
    if kind not in _DTYPES:
        raise _damaged(reader.path, f"it has values of an unknown type, {kind}")
    dtype = np.dtype(_DTYPES[kind]).newbyteorder("<")
    size = dtype.itemsize
    for dimension in shape:
        size *= dimension  # Python's integers do not overflow
    if reader.number("I") != size:
        raise _damaged(reader.path, "the size of an array does not fit its shape")
    return np.frombuffer(reader.bytes(size), dtype).reshape(shape)


def read_whisper(model_bin: Path) -> Arrays:
    """Reads a Whisper `model.bin` into float32 arrays under the names of transformers' `WhisperModel`.

    `encoder.conv1.weight` [width, mel_bins, 3], `encoder.embed_positions.weight` [1500, width],
    `encoder.layers.0.self_attn.q_proj.weight` [width, width], ..., `decoder.embed_tokens.weight` [vocabulary, width],
    `decoder.layers.0.encoder_attn.k_proj.weight`, ... As in Whisper, no `k_proj` has a bias.
    Raises ModelError: model_missing, model_damaged, model_not_supported (quantised values).
    """
    source = _Source(read_arrays(model_bin), model_bin)
    out: Arrays = {}
    for conv in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            out[f"encoder.{conv}.{part}"] = source.take(f"encoder/{conv}/{part}")
    out["decoder.embed_tokens.weight"] = source.take("decoder/embeddings/weight")
    for half in ("encoder", "decoder"):
        out[f"{half}.embed_positions.weight"] = source.take(f"{half}/position_encodings/encodings")
        source.norm(out, f"{half}.layer_norm", f"{half}/layer_norm")
        layers = source.count(f"{half}/layer_")
        for layer in range(layers):
            _layer(source, out, f"{half}.layers.{layer}", f"{half}/layer_{layer}", cross=half == "decoder")
    return out


def _layer(source: _Source, out: Arrays, name: str, old: str, *, cross: bool) -> None:
    source.linear(out, [f"{name}.self_attn.{part}_proj" for part in ("q", "k", "v")], f"{old}/self_attention/linear_0")
    source.linear(out, [f"{name}.self_attn.out_proj"], f"{old}/self_attention/linear_1")
    source.norm(out, f"{name}.self_attn_layer_norm", f"{old}/self_attention/layer_norm")
    if cross:
        source.linear(out, [f"{name}.encoder_attn.q_proj"], f"{old}/attention/linear_0")
        source.linear(out, [f"{name}.encoder_attn.{part}_proj" for part in ("k", "v")], f"{old}/attention/linear_1")
        source.linear(out, [f"{name}.encoder_attn.out_proj"], f"{old}/attention/linear_2")
        source.norm(out, f"{name}.encoder_attn_layer_norm", f"{old}/attention/layer_norm")
    source.linear(out, [f"{name}.fc1"], f"{old}/ffn/linear_0")
    source.linear(out, [f"{name}.fc2"], f"{old}/ffn/linear_1")
    source.norm(out, f"{name}.final_layer_norm", f"{old}/ffn/layer_norm")


class _Source:
    """The arrays under CTranslate2's names, handed out as float32."""

    def __init__(self, arrays: Arrays, path: Path) -> None:
        self.arrays, self.path = arrays, path

    def take(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise _damaged(self.path, f"{name} is not in it")
        array = self.arrays[name]
        if array.dtype.kind != "f":
            raise ModelError("model_not_supported", f"{self.path} is quantised; fetch the float16 or float32 variant.")
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise _damaged(self.path, f"{name} has values that are not finite")
        return array

    def count(self, prefix: str) -> int:
        layers = {name[len(prefix) :].split("/")[0] for name in self.arrays if name.startswith(prefix)} - {"norm"}
        if not layers or len(layers) > _MAX_LAYERS or layers != {str(i) for i in range(len(layers))}:
            raise _damaged(self.path, "its layers are not numbered from 0")
        return len(layers)

    def norm(self, out: Arrays, name: str, old: str) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = self.take(f"{old}/gamma"), self.take(f"{old}/beta")

    def linear(self, out: Arrays, names: list[str], old: str) -> None:
        """One stacked linear layer becomes as many as there are names; the keys' bias (always zero) is left out."""
        weight, bias = self.take(f"{old}/weight"), self.take(f"{old}/bias")
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(weight) % len(names):
            raise _damaged(self.path, f"{old} has a wrong shape")
        for name, rows, values in zip(names, np.split(weight, len(names)), np.split(bias, len(names)), strict=True):
            out[f"{name}.weight"] = rows
            if not name.endswith("k_proj"):
                out[f"{name}.bias"] = values
