"""Codecs: float32 rows [queries, width] <-> a frame's payload, always of one size.

    bf16 (1)   2 bytes a value: the upper half of the float32, rounded to the nearest, ties to even
    int8 (2)   1 byte a value: round(value / scale), clipped to -127..127, with one static scale per channel

The scales belong to the model and not to the frame, so nothing in a frame's size or header depends on the clip.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from esrt.errors import FrameError, ModelError, UsageError
from esrt.wire.frame import BF16, INT8, Frame

CODECS: dict[str, int] = {"bf16": BF16, "int8": INT8}

# An adapter ends in a LayerNorm, so honest rows have an rms near 1. These bounds are generous to any adapter, and keep
# a made-up frame from driving the projector and the LLM to infinity.
MAX_VALUE = 1e4
MAX_ROW_RMS = 1e3

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tables:
    """The static tables of a model's codecs. `int8_scale`: float32 [width], each finite and above zero.

    Raises ModelError `codec_damaged`.
    """

    int8_scale: Rows

    def __post_init__(self) -> None:
        scale = self.int8_scale
        if scale.ndim != 1 or scale.dtype != np.float32 or not np.all(np.isfinite(scale) & (scale > 0)):
            raise ModelError("codec_damaged", "The model's int8 scales are damaged: download the model again.")


def encode(rows: Rows, codec: str, tables: Tables, fingerprint: bytes) -> Frame:
    """float32 [queries, width] -> Frame. `fingerprint` (8 bytes) names the edge model that made the rows.

    Raises UsageError `unknown_codec`; FrameError `frame_wrong_shape` for what is no matrix of the tables' width, and
    `frame_not_finite` or `frame_out_of_bounds` for rows that a reader would refuse.
    """
    if codec not in CODECS:
        raise UsageError("unknown_codec", f"Unknown codec {codec[:40]!r}: use {' or '.join(CODECS)}.")
    values = np.ascontiguousarray(rows, dtype=np.float32)
    if values.ndim != 2 or values.shape[1] != tables.int8_scale.size:
        raise FrameError(
            "frame_wrong_shape", f"Features of shape {values.shape} do not fit a width of {tables.int8_scale.size}."
        )
    _check(values)
    payload = _to_bf16(values) if CODECS[codec] == BF16 else _to_int8(values, tables.int8_scale)
    frame = Frame(CODECS[codec], values.shape[0], values.shape[1], fingerprint, payload)
    decode(frame, tables)  # rounding may carry a row over the bound: what is written can be read
    return frame


def decode(frame: Frame, tables: Tables) -> Rows:
    """Frame -> float32 [queries, width], finite and within MAX_VALUE and MAX_ROW_RMS.

    Raises FrameError `frame_wrong_shape` when the frame has not the tables' width, `frame_not_finite`, or
    `frame_out_of_bounds` (too large a value or row, or the int8 code -128, which no encoder writes).
    """
    if frame.width != tables.int8_scale.size:
        raise FrameError(
            "frame_wrong_shape", f"The frame has rows of {frame.width} values, not {tables.int8_scale.size}."
        )
    values = _from_bf16(frame.payload) if frame.codec == BF16 else _from_int8(frame.payload, tables.int8_scale)
    rows = values.reshape(frame.queries, frame.width)
    _check(rows)
    return rows


def fingerprint(tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """8 bytes that name an edge half: BLAKE2b-64 over name, dtype, shape and little-endian bytes of each tensor.

    The tensors are those of the adapter and of the codec tables; their order in the mapping does not matter.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        # A line per tensor with the name's repr: no two different sets of tensors can give the same bytes.
        digest.update(f"{name!r} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.digest()


def _to_bf16(values: Rows) -> bytes:
    bits = values.view(np.uint32)
    # Half of the dropped part, less one where the kept part is even: a tie then goes to even. Finite input (checked)
    # cannot overflow 32 bits.
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2").tobytes()


def _from_bf16(payload: bytes) -> Rows:
    return (np.frombuffer(payload, dtype="<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _to_int8(values: Rows, scale: Rows) -> bytes:
    with np.errstate(over="ignore"):  # a tiny scale: infinity is clipped as any large quotient is
        codes: npt.NDArray[np.int8] = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
    return codes.tobytes()


def _from_int8(payload: bytes, scale: Rows) -> Rows:
    codes = np.frombuffer(payload, dtype=np.int8).reshape(-1, scale.size)
    if np.any(codes == -128):
        raise FrameError("frame_out_of_bounds", "The features hold an int8 code of -128: encode them again.")
    with np.errstate(over="ignore"):  # a huge scale: `_check` refuses the infinity
        return codes.astype(np.float32) * scale


def _check(rows: Rows) -> None:
    if not np.all(np.isfinite(rows)):
        raise FrameError("frame_not_finite", "The features hold a value that is not a number: encode the audio again.")
    # The values first: below MAX_VALUE the squares cannot overflow.
    if np.any(np.abs(rows) > MAX_VALUE) or np.any(np.mean(np.square(rows), axis=1) > MAX_ROW_RMS**2):
        raise FrameError(
            "frame_out_of_bounds",
            f"The features are larger than any adapter makes them (a value over {MAX_VALUE:g} or a row's rms over "
            f"{MAX_ROW_RMS:g}): encode the audio again.",
        )
