"""Codecs: float32 rows [queries, width] <-> a frame's payload, always of one size.

    bf16 (1)   2 bytes a value: the upper half of the float32, rounded to the nearest, ties to even
    int8 (2)   1 byte a value: round(value / scale), clipped to -127..127, with one static scale per channel
    int4 (3)   4 bits a value: the nearest of 16 levels, which each channel has at static places of its own
    rvq8, rvq16, rvq32 (4, 5, 6)   10 bits for each of a row's 8, 16 or 32 codes: `esrt.wire.rvq`

Scales and codebooks belong to the model and not to the frame, so nothing in a frame's size or header depends on the
clip.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from esrt.errors import FrameError, ModelError, UsageError
from esrt.wire.frame import BF16, INT4, INT8, RVQ8, RVQ16, RVQ32, STAGES, Frame
from esrt.wire.rvq import WORDS, Codebooks, Codes, pack, unpack

CODECS: dict[str, int] = {"bf16": BF16, "int8": INT8, "int4": INT4, "rvq8": RVQ8, "rvq16": RVQ16, "rvq32": RVQ32}

# An adapter ends in a LayerNorm, so honest rows have an rms near 1. These bounds are generous to any adapter, and keep
# a made-up frame from driving the projector and the LLM to infinity.
MAX_VALUE = 1e4
MAX_ROW_RMS = 1e3

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tables:
    """The static tables of a model's codecs; None where the model has none for that codec.

    `int8_scale` and `int4_scale`: float32 [width], each finite and above zero; `int4_centre`: float32 [width], finite.
    Raises ModelError `codec_damaged`.
    """

    int8_scale: Rows
    int4_scale: Rows | None = None
    int4_centre: Rows | None = None
    codebooks: Codebooks | None = None

    def __post_init__(self) -> None:
        scales = [scale for scale in (self.int8_scale, self.int4_scale) if scale is not None]
        every = scales if self.int4_centre is None else [*scales, self.int4_centre]
        fits = (self.int4_scale is None) is (self.int4_centre is None) and all(
            array.shape == (self.width,) and array.dtype == np.float32 and np.all(np.isfinite(array)) for array in every
        )
        if not fits or not all(np.all(scale > 0) for scale in scales):
            raise ModelError("codec_damaged", "The model's codec tables are damaged: download the model again.")
        if self.codebooks is not None and self.codebooks.base.shape[1] != self.width:
            raise ModelError("codec_damaged", "The model's codebooks have another width: download the model again.")

    @property
    def width(self) -> int:
        """Values of a row."""
        return self.int8_scale.size

    @property
    def codecs(self) -> list[str]:
        """Names of the codecs that these tables serve."""
        stages = 0 if self.codebooks is None else self.codebooks.stages
        return [
            name
            for name, number in CODECS.items()
            if (number != INT4 or self.int4_scale is not None) and STAGES.get(number, 0) <= stages
        ]


def encode(rows: Rows, codec: str, tables: Tables, fingerprint: bytes) -> Frame:
    """float32 [queries, width] -> Frame. `fingerprint` (8 bytes) names the edge model that made the rows.

    Raises UsageError `unknown_codec` or `codec_not_in_model`; FrameError `frame_wrong_shape` for what is no matrix of
    the tables' shape, and `frame_not_finite` or `frame_out_of_bounds` for rows that a reader would refuse.
    """
    check_codec(codec, tables.codecs)
    values = np.ascontiguousarray(rows, dtype=np.float32)
    if values.ndim != 2 or values.shape[1] != tables.width:
        raise FrameError("frame_wrong_shape", f"Features of shape {values.shape} do not fit a width of {tables.width}.")
    _check(values)
    number = CODECS[codec]
    if number in STAGES:
        assert tables.codebooks is not None
        _check_queries(len(values), tables.codebooks)
        frame = encode_codes(tables.codebooks.search(values, STAGES[number]), codec, tables.width, fingerprint)
    else:
        to_bytes = {BF16: _to_bf16, INT8: _to_int8, INT4: _to_int4}[number]
        frame = Frame(number, len(values), tables.width, fingerprint, to_bytes(values, tables))
    decode(frame, tables)  # rounding may carry a row over the bound: what is written can be read
    return frame


def encode_codes(codes: Codes, codec: str, width: int, fingerprint: bytes) -> Frame:
    """What the edge graph's search found, int64 [queries, stages or more] -> Frame of rows of `width` values.

    Raises FrameError `frame_wrong_shape` where these are no codes.
    """
    number = CODECS[codec]
    if codes.ndim != 2 or codes.shape[1] < STAGES[number] or np.any((codes < 0) | (codes >= WORDS)):
        raise FrameError("frame_wrong_shape", f"These are no codes of {codec}: make the edge model again.")
    return Frame(number, len(codes), width, fingerprint, pack(codes[:, : STAGES[number]]))


def check_codec(codec: str, known: Iterable[str] = CODECS) -> None:
    """Raises UsageError `unknown_codec`, or `codec_not_in_model` for one that is not among those of a model."""
    names = list(known)
    if codec not in CODECS:
        raise UsageError("unknown_codec", f"Unknown codec {codec[:40]!r}: use {_either(names)}.")
    if codec not in names:
        raise UsageError("codec_not_in_model", f"This model has no tables for the codec {codec}: use {_either(names)}.")


def decode(frame: Frame, tables: Tables) -> Rows:
    """Frame -> float32 [queries, width], finite and within MAX_VALUE and MAX_ROW_RMS.

    Raises FrameError `frame_wrong_shape` when the frame has not the tables' shape, `frame_unknown_codec` when they have
    nothing for its codec, `frame_not_finite`, or `frame_out_of_bounds` (too large a value or row, or the int8 code
    -128, which no encoder writes).
    """
    if frame.width != tables.width:
        raise FrameError("frame_wrong_shape", f"The frame has rows of {frame.width} values, not {tables.width}.")
    if frame.codec not in [CODECS[name] for name in tables.codecs]:
        raise FrameError(
            "frame_unknown_codec", f"This model has no tables for codec {frame.codec}: use {_either(tables.codecs)}."
        )
    if frame.codec in STAGES:
        assert tables.codebooks is not None
        _check_queries(frame.queries, tables.codebooks)
        rows = tables.codebooks.restore(unpack(frame.payload, STAGES[frame.codec]))
    else:
        from_bytes = {BF16: _from_bf16, INT8: _from_int8, INT4: _from_int4}[frame.codec]
        rows = from_bytes(frame.payload, tables).reshape(frame.queries, frame.width)
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


def _to_bf16(values: Rows, _: Tables) -> bytes:
    bits = values.view(np.uint32)
    # Half of the dropped part, less one where the kept part is even: a tie then goes to even. Finite input (checked)
    # cannot overflow 32 bits.
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2").tobytes()


def _from_bf16(payload: bytes, _: Tables) -> Rows:
    return (np.frombuffer(payload, dtype="<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _to_int8(values: Rows, tables: Tables) -> bytes:
    with np.errstate(over="ignore"):  # a tiny scale: infinity is clipped as any large quotient is
        codes: npt.NDArray[np.int8] = np.clip(np.rint(values / tables.int8_scale), -127, 127).astype(np.int8)
    return codes.tobytes()


def _from_int8(payload: bytes, tables: Tables) -> Rows:
    codes = np.frombuffer(payload, dtype=np.int8).reshape(-1, tables.width)
    if np.any(codes == -128):
        raise FrameError("frame_out_of_bounds", "The features hold an int8 code of -128: encode them again.")
    with np.errstate(over="ignore"):  # a huge scale: `_check` refuses the infinity
        return codes.astype(np.float32) * tables.int8_scale


def _to_int4(values: Rows, tables: Tables) -> bytes:
    assert tables.int4_scale is not None and tables.int4_centre is not None
    with np.errstate(over="ignore"):
        codes = np.clip(np.floor((values - tables.int4_centre) / tables.int4_scale), -8, 7)
    levels = (codes + 8).astype(np.uint8)
    even = np.pad(levels, ((0, 0), (0, tables.width % 2)))
    pairs: npt.NDArray[np.uint8] = even[:, ::2] | even[:, 1::2] << 4
    return pairs.tobytes()


def _from_int4(payload: bytes, tables: Tables) -> Rows:
    assert tables.int4_scale is not None and tables.int4_centre is not None
    pairs = np.frombuffer(payload, np.uint8).reshape(-1, (tables.width + 1) // 2)
    levels = np.stack([pairs & 15, pairs >> 4], axis=2).reshape(len(pairs), -1)
    if np.any(levels[:, tables.width :]):
        raise FrameError("frame_out_of_bounds", "The features hold bits behind a row's end: encode them again.")
    with np.errstate(over="ignore"):
        codes = levels[:, : tables.width].astype(np.float32) - np.float32(7.5)
        rows: Rows = tables.int4_centre + codes * tables.int4_scale
    return rows


def _check_queries(queries: int, codebooks: Codebooks) -> None:
    if queries != len(codebooks.base):
        raise FrameError("frame_wrong_shape", f"The codebooks are for {len(codebooks.base)} rows, not {queries}.")


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


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
