"""The frame, version 1: one clip's features as bytes. docs/wire.md has the table of its fields.

A frame has one fixed size per codec and model and says nothing of the clip but its features: no language, no duration,
no level, no device, no user.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from esrt.errors import FrameError

MAGIC = b"ESRT"
VERSION = 1
BF16 = 1
INT8 = 2
INT4 = 3
RVQ8 = 4
RVQ16 = 5
RVQ32 = 6
STAGES = {RVQ8: 8, RVQ16: 16, RVQ32: 32}
"""Codes a row, of CODE_BITS each."""

CODE_BITS = 10

# magic, version, codec, queries, width, zero, fingerprint, payload length; little-endian
_HEADER = struct.Struct("<4sBBHHH8sI")
_DIGEST_BYTES = 16
_FINGERPRINT_BYTES = 8
_MAX_SIDE = 0xFFFF
_VALUE_BITS = {BF16: 16, INT8: 8, INT4: 4}

OVERHEAD = _HEADER.size + _DIGEST_BYTES
"""Bytes of a frame that are not its payload."""


def size(codec: int, queries: int, width: int) -> int:
    """Bytes of the whole frame. Raises FrameError `frame_unknown_codec` or `frame_wrong_shape`."""
    if codec not in _VALUE_BITS and codec not in STAGES:
        known = ", ".join(str(number) for number in (*_VALUE_BITS, *STAGES))
        raise FrameError("frame_unknown_codec", f"Codec {codec} is not known here: send one of the codecs {known}.")
    if not (0 < queries <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise FrameError(
            "frame_wrong_shape",
            f"A frame holds from 1 x 1 to {_MAX_SIDE} x {_MAX_SIDE} values, not {queries} x {width}.",
        )
    bits = STAGES[codec] * CODE_BITS if codec in STAGES else width * _VALUE_BITS[codec]
    return OVERHEAD + queries * ((bits + 7) // 8)  # each row in whole bytes


@dataclass(frozen=True)
class Frame:
    """One clip's features, coded: `queries` rows of `width` values from the edge model that `fingerprint` names.

    A frame with a codec, shape, fingerprint or payload that cannot be written cannot be made: FrameError.
    """

    codec: int
    queries: int
    width: int
    fingerprint: bytes
    payload: bytes

    def __post_init__(self) -> None:
        expected = size(self.codec, self.queries, self.width) - OVERHEAD
        if len(self.payload) != expected:
            raise FrameError(
                "frame_wrong_shape",
                f"{self.queries} x {self.width} values need {expected} bytes in this codec, not {len(self.payload)}.",
            )
        if len(self.fingerprint) != _FINGERPRINT_BYTES:
            raise FrameError(
                "frame_wrong_model",
                f"An edge model's fingerprint has {_FINGERPRINT_BYTES} bytes, not {len(self.fingerprint)}.",
            )

    def to_bytes(self) -> bytes:
        """The frame as it crosses the network: `size(codec, queries, width)` bytes."""
        body = self._body()
        return body + _digest(body)

    @property
    def id(self) -> str:
        """The features' id: the digest's hex, 32 characters."""
        return _digest(self._body()).hex()

    def _body(self) -> bytes:
        header = _HEADER.pack(
            MAGIC, VERSION, self.codec, self.queries, self.width, 0, self.fingerprint, len(self.payload)
        )
        return header + self.payload


def read(
    data: bytes,
    *,
    cap: int,
    fingerprint: bytes | None = None,
    queries: int | None = None,
    width: int | None = None,
) -> Frame:
    """Bytes from anywhere -> Frame, or FrameError. What is None is not compared.

    Checks, in this order: length against `cap` (frame_too_large) and against the shortest frame (frame_truncated),
    magic (frame_bad_magic), version and reserved bytes (frame_bad_version), codec (frame_unknown_codec), shape and
    lengths (frame_wrong_shape; frame_truncated where bytes are missing), fingerprint (frame_wrong_model), digest
    (frame_bad_digest). The values are checked where they are decoded: `codecs.decode`.
    """
    if len(data) > cap:
        raise FrameError("frame_too_large", f"The frame has {len(data)} bytes and at most {cap} are taken here.")
    if len(data) < OVERHEAD:
        raise FrameError(
            "frame_truncated", f"The frame has {len(data)} bytes and the smallest has {OVERHEAD + 1}: send it again."
        )
    magic, version, codec, rows, columns, zero, model, length = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise FrameError("frame_bad_magic", "These bytes are not an ESRT frame: send what the edge half made.")
    if version != VERSION or zero != 0:
        raise FrameError(
            "frame_bad_version", f"Only frames of version {VERSION} are read here: use an edge half of that version."
        )
    whole = size(codec, rows, columns)
    if (queries is not None and rows != queries) or (width is not None and columns != width):
        raise FrameError(
            "frame_wrong_shape",
            f"The frame holds {rows} x {columns} values, not {queries or rows} x {width or columns}: "
            "use the edge model that belongs to this cloud.",
        )
    if length != whole - OVERHEAD or len(data) > whole:
        raise FrameError(
            "frame_wrong_shape",
            f"{rows} x {columns} values make a frame of {whole} bytes, not {len(data)}: send it again.",
        )
    if len(data) < whole:
        raise FrameError("frame_truncated", f"The frame has {len(data)} of its {whole} bytes: send it again.")
    if fingerprint is not None and model != fingerprint:
        raise FrameError(
            "frame_wrong_model",
            f"The features come from the edge model {model.hex()} and {fingerprint.hex()} is served: "
            "download the edge model from this cloud.",
        )
    if _digest(data[:-_DIGEST_BYTES]) != data[-_DIGEST_BYTES:]:
        raise FrameError("frame_bad_digest", "The frame was damaged on its way: send it again.")
    return Frame(codec, rows, columns, model, bytes(data[_HEADER.size : -_DIGEST_BYTES]))


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
