"""A frame is read back as it was written, and nothing else is: every check with its own code, and no other error."""

from __future__ import annotations

import hashlib
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esrt.errors import FrameError
from esrt.wire.frame import BF16, INT4, INT8, OVERHEAD, RVQ8, RVQ16, RVQ32, Frame, read, size

FINGERPRINT = bytes(range(8))
CAP = 1 << 20
HEADER = struct.Struct("<4sBBHHH8sI")

CODECS = [BF16, INT8, INT4, RVQ8, RVQ16, RVQ32]

shapes = st.tuples(st.sampled_from(CODECS), st.integers(1, 8), st.integers(1, 16))


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    codec, queries, width = draw(shapes)
    length = size(codec, queries, width) - OVERHEAD
    payload = draw(st.binary(min_size=length, max_size=length))
    return Frame(codec, queries, width, draw(st.binary(min_size=8, max_size=8)), payload)


def make(codec: int = INT8, queries: int = 4, width: int = 8) -> Frame:
    length = size(codec, queries, width) - OVERHEAD
    return Frame(codec, queries, width, FINGERPRINT, bytes(i % 127 for i in range(length)))


def sealed(body: bytes) -> bytes:
    return body + hashlib.blake2b(body, digest_size=16).digest()


def code_of(data: bytes, cap: int = CAP, model: bytes | None = FINGERPRINT, shape: tuple[int, int] = (4, 8)) -> str:
    with pytest.raises(FrameError) as caught:
        read(data, cap=cap, fingerprint=model, queries=shape[0], width=shape[1])
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return caught.value.code


def test_the_bytes_are_those_of_the_format() -> None:
    """Built here by hand from the table in docs/wire.md."""
    payload = bytes([1, 2, 3, 4, 5, 6])
    data = Frame(INT8, 2, 3, FINGERPRINT, payload).to_bytes()
    body = b"ESRT" + bytes([1, 2, 2, 0, 3, 0, 0, 0]) + FINGERPRINT + bytes([6, 0, 0, 0]) + payload
    assert data == sealed(body)
    assert Frame(INT8, 2, 3, FINGERPRINT, payload).id == data[-16:].hex()


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        (BF16, 40 + 2 * 80 * 512),
        (INT8, 40 + 80 * 512),
        (INT4, 40 + 40 * 512),
        (RVQ8, 40 + 800),
        (RVQ16, 40 + 1600),
        (RVQ32, 40 + 3200),
    ],
)
def test_one_size_per_codec_and_model(codec: int, expected: int) -> None:
    assert size(codec, 80, 512) == expected == len(make(codec, 80, 512).to_bytes())


@settings(max_examples=200, deadline=None)
@given(frames())
def test_round_trip(frame: Frame) -> None:
    data = frame.to_bytes()
    assert len(data) == size(frame.codec, frame.queries, frame.width)
    assert read(data, cap=len(data)) == frame
    again = read(data, cap=len(data), fingerprint=frame.fingerprint, queries=frame.queries, width=frame.width)
    assert again.id == frame.id == data[-16:].hex()


@pytest.mark.parametrize("codec", [BF16, INT8, INT4, RVQ8])
def test_any_flipped_byte_is_refused(codec: int) -> None:
    data = make(codec).to_bytes()
    for i in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :]
            with pytest.raises(FrameError):
                read(damaged, cap=CAP)


@pytest.mark.parametrize("codec", [BF16, INT8, INT4, RVQ8])
def test_any_cut_is_refused(codec: int) -> None:
    data = make(codec).to_bytes()
    for length in range(len(data)):
        assert code_of(data[:length]) == "frame_truncated"
        with pytest.raises(FrameError):
            read(data[-length:] if length else b"", cap=CAP)


@settings(max_examples=200, deadline=None)
@given(frames(), st.data())
def test_any_added_byte_is_refused(frame: Frame, data: st.DataObject) -> None:
    whole = frame.to_bytes()
    place = data.draw(st.integers(0, len(whole)))
    extra = data.draw(st.binary(min_size=1, max_size=20))
    with pytest.raises(FrameError):
        read(whole[:place] + extra + whole[place:], cap=CAP)


@settings(max_examples=200, deadline=None)
@given(frames(), frames(), st.data())
def test_two_frames_cannot_be_mixed(one: Frame, two: Frame, data: st.DataObject) -> None:
    whole, other = one.to_bytes(), two.to_bytes()
    cut = data.draw(st.integers(1, min(len(whole), len(other)) - 1))
    mixed = whole[:cut] + other[cut:]
    if mixed not in (whole, other):
        with pytest.raises(FrameError):
            read(mixed, cap=CAP)


def test_ten_thousand_random_strings_are_refused() -> None:
    """A third plain noise, a third after a right header, a third after a right header with a right digest."""
    dice = random.Random(20250711)
    refused = set()
    right = make().to_bytes()
    for i in range(10_000):
        noise = dice.randbytes(dice.choice([0, 1, 3, 16, 40, 60, len(right) - 24, dice.randrange(200)]))
        if i % 3 == 1:
            noise = right[:24] + noise
        if i % 3 == 2:
            cut = dice.randrange(1, 25)
            noise = sealed(right[:cut] + noise)
        with pytest.raises(FrameError) as caught:
            read(noise, cap=CAP, fingerprint=FINGERPRINT, queries=4, width=8)
        refused.add(caught.value.code)
    assert {"frame_truncated", "frame_bad_magic", "frame_wrong_shape", "frame_bad_digest"} <= refused


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 255), st.integers(0, 255), *[st.integers(0, 0xFFFF)] * 3, st.integers(0, 2**32 - 1))
def test_any_header_is_refused_or_right(
    version: int, codec: int, queries: int, width: int, zero: int, length: int
) -> None:
    body = HEADER.pack(b"ESRT", version, codec, queries, width, zero, FINGERPRINT, length) + bytes(32)
    try:
        frame = read(sealed(body), cap=CAP)
    except FrameError:
        return
    assert (version, zero, length) == (1, 0, 32)
    assert size(codec, queries, width) == OVERHEAD + 32
    assert (frame.codec, frame.queries, frame.width) == (codec, queries, width)


def header(
    magic: bytes = b"ESRT",
    version: int = 1,
    codec: int = INT8,
    queries: int = 4,
    width: int = 8,
    zero: int = 0,
    length: int = 32,
) -> bytes:
    return HEADER.pack(magic, version, codec, queries, width, zero, FINGERPRINT, length)


def test_each_check_has_its_own_code() -> None:
    right = make().to_bytes()
    assert code_of(right, cap=len(right) - 1) == "frame_too_large"
    assert code_of(b"") == "frame_truncated"
    assert code_of(right[:-1]) == "frame_truncated"
    assert code_of(right + b"\0") == "frame_wrong_shape"
    assert code_of(sealed(header(magic=b"RIFF") + bytes(32))) == "frame_bad_magic"
    assert code_of(sealed(header(version=2) + bytes(32))) == "frame_bad_version"
    assert code_of(sealed(header(zero=1) + bytes(32))) == "frame_bad_version"
    assert code_of(sealed(header(codec=0) + bytes(32))) == "frame_unknown_codec"
    assert code_of(sealed(header(queries=0) + bytes(32))) == "frame_wrong_shape"
    assert code_of(sealed(header(length=31) + bytes(32))) == "frame_wrong_shape"
    assert code_of(right, shape=(4, 9)) == "frame_wrong_shape"
    assert code_of(right, shape=(5, 8)) == "frame_wrong_shape"
    assert code_of(right, model=bytes(8)) == "frame_wrong_model"
    assert code_of(right[:-1] + bytes([right[-1] ^ 1])) == "frame_bad_digest"


def test_the_checks_come_in_their_order() -> None:
    """With everything wrong the first check speaks; each repair lets the next one speak."""
    rest = bytes(64)
    assert code_of(header(b"RIFF", 9, 9, 5) + rest, cap=10) == "frame_too_large"
    assert code_of(header(b"RIFF", 9, 9, 5)[:20]) == "frame_truncated"
    assert code_of(header(b"RIFF", 9, 9, 5) + rest) == "frame_bad_magic"
    assert code_of(header(version=9, codec=9, queries=5) + rest) == "frame_bad_version"
    assert code_of(header(codec=9, queries=5) + rest) == "frame_unknown_codec"
    assert code_of(header(queries=5) + rest) == "frame_wrong_shape"
    assert code_of(header() + bytes(48), model=bytes(8)) == "frame_wrong_model"
    assert code_of(header() + bytes(48)) == "frame_bad_digest"


@pytest.mark.parametrize(
    ("codec", "queries", "width", "model", "payload", "code"),
    [
        (7, 1, 1, FINGERPRINT, b"a", "frame_unknown_codec"),
        (INT4, 1, 3, FINGERPRINT, b"a", "frame_wrong_shape"),
        (RVQ8, 2, 3, FINGERPRINT, bytes(19), "frame_wrong_shape"),
        (INT8, 0, 1, FINGERPRINT, b"", "frame_wrong_shape"),
        (INT8, 1, 65_536, FINGERPRINT, bytes(65_536), "frame_wrong_shape"),
        (INT8, 1, 1, FINGERPRINT, b"ab", "frame_wrong_shape"),
        (INT8, 1, 1, b"short", b"a", "frame_wrong_model"),
    ],
)
def test_a_frame_that_cannot_be_written_cannot_be_made(
    codec: int, queries: int, width: int, model: bytes, payload: bytes, code: str
) -> None:
    with pytest.raises(FrameError) as caught:
        Frame(codec, queries, width, model, payload)
    assert caught.value.code == code
