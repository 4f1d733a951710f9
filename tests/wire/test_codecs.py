"""Rows through each codec and back: exact rounding, bounded error, one size, and no value that does harm."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from esrt.errors import FrameError, ModelError, UsageError
from esrt.wire.codecs import CODECS, MAX_ROW_RMS, MAX_VALUE, Tables, decode, encode, fingerprint
from esrt.wire.frame import BF16, INT4, INT8, RVQ8, Frame, read, size

F32 = npt.NDArray[np.float32]
MODEL = bytes(8)
WIDTH = 6
# Powers of two and odd values: exact and inexact scales.
SCALE = np.array([0.5, 0.03125, 0.01, 0.1, 1e-3, 3.0], np.float32)
CENTRE = np.array([0.0, 1.0, -0.3, 100.0, 0.0, -7.0], np.float32)
TABLES = Tables(SCALE, 16 * SCALE, CENTRE)
VALUES = ("bf16", "int8", "int4")  # what codes each value alone; tests/wire/test_rvq.py has the others

rows = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.just(WIDTH)),
    elements=st.floats(-990, 990, width=32, allow_subnormal=True),
)
many = settings(max_examples=200, deadline=None)


def wide(width: int, scale: float = 0.02) -> Tables:
    return Tables(np.full(width, scale, np.float32), np.full(width, scale, np.float32), np.zeros(width, np.float32))


def nearest_bf16(value: float) -> float:
    """The bfloat16 (8 significant bits, ties to even) nearest to a float32, worked out in float64, with no bits."""
    if value == 0:
        return value
    exponent = max(int(np.floor(np.log2(abs(value)))), -126)  # below 2**-126 the spacing stays
    spacing = 2.0 ** (exponent - 7)
    return float(np.rint(value / spacing) * spacing)  # the quotient is exact: a division by a power of two


def through(values: F32, codec: str, tables: Tables) -> F32:
    data = encode(values, codec, tables, MODEL).to_bytes()
    return decode(read(data, cap=len(data), fingerprint=MODEL, width=tables.int8_scale.size), tables)


@many
@given(rows)
def test_bf16_rounds_to_the_nearest_and_ties_to_even(values: F32) -> None:
    expected = np.array([nearest_bf16(float(value)) for value in values.ravel()], np.float32).reshape(values.shape)
    np.testing.assert_array_equal(through(values, "bf16", TABLES), expected)


def test_bf16_of_values_at_and_beside_every_tie() -> None:
    dice = np.random.default_rng(7)
    # Any sign, any mantissa, exponents up to the bound; the lower half at a tie, beside it, or anything.
    upper = dice.integers(0, 0x4500, 4000, np.uint32) << 16 | dice.integers(0, 2, 4000, np.uint32) << 31
    lower = np.concatenate([np.tile([0x7FFF, 0x8000, 0x8001, 0], 500), dice.integers(0, 0x10000, 2000)])
    values = (upper | lower.astype(np.uint32)).view(np.float32).reshape(-1, 8)
    values = values[np.sqrt(np.mean(values**2, axis=1)) < MAX_ROW_RMS / 2]
    expected = np.array([nearest_bf16(float(value)) for value in values.ravel()], np.float32).reshape(values.shape)
    got = through(values, "bf16", wide(8))
    assert values.size > 3000
    np.testing.assert_array_equal(got, expected)
    assert np.array_equal(np.signbit(got), np.signbit(values))


def test_bf16_is_as_torch_rounds() -> None:
    torch = pytest.importorskip("torch")
    dice = np.random.default_rng(3)
    values = (dice.standard_normal((80, 512)) * 10.0 ** dice.integers(-30, 2, (80, 512))).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(through(values, "bf16", wide(512)), expected)


@many
@given(rows)
def test_int8_is_within_half_a_step_or_clipped(values: F32) -> None:
    scale = TABLES.int8_scale
    got = through(values, "int8", TABLES)
    inside = np.abs(values) <= 127 * scale
    error = np.abs(got.astype(np.float64) - values)
    assert np.all(error[inside] <= (0.5 * scale * (1 + 1e-6) + np.spacing(np.abs(values)))[inside])
    np.testing.assert_array_equal(np.abs(got)[~inside], np.broadcast_to(127 * scale, values.shape)[~inside])
    assert np.all(got * values >= 0)


@many
@given(rows)
def test_int4_is_within_half_a_step_or_the_outermost_level(values: F32) -> None:
    scale, centre = (16 * SCALE).astype(np.float64), CENTRE.astype(np.float64)
    got = through(values, "int4", TABLES)
    level = (got - centre) / scale
    assert np.all(np.abs(level - np.rint(level - 0.5) - 0.5) <= 1e-3), "one of the levels"
    assert np.all(np.abs(level) <= 7.501)
    inside = np.abs(values - centre) <= 8 * scale
    assert np.all(
        np.abs(got - values.astype(np.float64))[inside] <= np.broadcast_to(0.501 * scale + 1e-4, values.shape)[inside]
    )
    outside = np.abs(level[np.abs(values - centre) > 8.01 * scale])
    assert np.all(np.abs(outside - 7.5) <= 1e-3)


def test_int4_as_bytes() -> None:
    """The first value stands in the lower half of the first byte; 8 is the level just above the centre."""
    tables = Tables(np.ones(3, np.float32), np.ones(3, np.float32), np.zeros(3, np.float32))
    frame = encode(np.array([[0.2, -0.2, 7.9], [-9, 9, 0]], np.float32), "int4", tables, MODEL)
    assert frame.payload == bytes([0x78, 0x0F, 0xF0, 0x08])
    np.testing.assert_array_equal(decode(frame, tables), [[0.5, -0.5, 7.5], [-7.5, 7.5, 0.5]])
    with pytest.raises(FrameError) as caught:
        decode(Frame(INT4, 1, 3, MODEL, bytes([0x78, 0x1F])), tables)
    assert caught.value.code == "frame_out_of_bounds"


@many
@given(rows, st.sampled_from(VALUES))
def test_what_was_decoded_is_encoded_the_same(values: F32, codec: str) -> None:
    once = encode(values, codec, TABLES, MODEL)
    assert encode(decode(once, TABLES), codec, TABLES, MODEL) == once
    assert len(once.to_bytes()) == size(CODECS[codec], len(values), WIDTH)


@many
@given(st.sampled_from([BF16, INT8, INT4]), st.binary(min_size=4 * WIDTH, max_size=4 * WIDTH))
def test_any_payload_is_decoded_within_bounds_or_refused(codec: int, payload: bytes) -> None:
    queries = len(payload) * 8 // WIDTH // {BF16: 16, INT8: 8, INT4: 4}[codec]
    try:
        values = decode(Frame(codec, queries, WIDTH, MODEL, payload), TABLES)
    except FrameError as error:
        assert error.code in {"frame_not_finite", "frame_out_of_bounds"}
        return
    assert values.dtype == np.float32
    assert values.shape == (queries, WIDTH)
    assert np.all(np.abs(values) <= MAX_VALUE)


def bf16_frame(value: float, count: int = 1) -> Frame:
    codes = np.zeros(WIDTH, np.float32)
    codes[:count] = value
    return Frame(BF16, 1, WIDTH, MODEL, (codes.view(np.uint32) >> 16).astype("<u2").tobytes())


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (bf16_frame(float("nan")), "frame_not_finite"),
        (bf16_frame(float("inf")), "frame_not_finite"),
        (bf16_frame(float("-inf")), "frame_not_finite"),
        (bf16_frame(3e38), "frame_out_of_bounds"),
        (bf16_frame(-10_240.0), "frame_out_of_bounds"),
        (bf16_frame(1100.0, WIDTH), "frame_out_of_bounds"),
        (Frame(INT8, 1, WIDTH, MODEL, bytes([0, 0, 0, 128, 0, 0])), "frame_out_of_bounds"),
        (Frame(INT8, 1, WIDTH + 1, MODEL, bytes(WIDTH + 1)), "frame_wrong_shape"),
    ],
)
def test_harmful_values_are_refused(frame: Frame, code: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode(frame, TABLES)
    assert caught.value.code == code


def test_the_bounds_themselves_are_taken() -> None:
    assert decode(bf16_frame(1000.0, WIDTH), TABLES)[0, 0] == 1000
    high = Tables(np.full(512, 1.0, np.float32))
    values = np.zeros((1, 512), np.float32)
    values[0, 0] = 9984
    assert through(values, "bf16", high)[0, 0] == 9984


def test_a_huge_scale_cannot_decode_to_infinity() -> None:
    huge = Tables(np.full(1, 3e38, np.float32))
    with pytest.raises(FrameError, match="a number") as caught:
        decode(Frame(INT8, 1, 1, MODEL, bytes([127])), huge)
    assert caught.value.code == "frame_not_finite"


@pytest.mark.parametrize("codec", VALUES)
@pytest.mark.parametrize(
    ("value", "code"),
    [(np.nan, "frame_not_finite"), (np.inf, "frame_not_finite"), (1e5, "frame_out_of_bounds")],
)
def test_an_encoder_refuses_what_a_reader_would(codec: str, value: float, code: str) -> None:
    values = np.zeros((2, WIDTH), np.float32)
    values[1, 3] = value
    with pytest.raises(FrameError) as caught:
        encode(values, codec, TABLES, MODEL)
    assert caught.value.code == code


def test_rounding_does_not_carry_a_row_over_the_bound() -> None:
    values = np.full((1, WIDTH), 999.99, np.float32)
    assert np.all(through(values, "bf16", TABLES) == 1000)
    with pytest.raises(FrameError):
        encode(np.full((1, WIDTH), 1000.01, np.float32), "bf16", TABLES, MODEL)


@pytest.mark.parametrize("shape", [(WIDTH,), (2, WIDTH + 1), (0, WIDTH), (1, 2, WIDTH)])
def test_rows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FrameError) as caught:
        encode(np.zeros(shape, np.float32), "int8", TABLES, MODEL)
    assert caught.value.code == "frame_wrong_shape"


def test_unknown_codec_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="bf16, int8 or int4") as caught:
        encode(np.zeros((1, WIDTH), np.float32), "zip", TABLES, MODEL)
    assert caught.value.code == "unknown_codec"


@pytest.mark.parametrize("codec", ["int4", "rvq8", "rvq32"])
def test_a_model_without_a_codecs_tables_says_what_it_has(codec: str) -> None:
    old = Tables(SCALE)
    assert old.codecs == ["bf16", "int8"]
    with pytest.raises(UsageError, match=f"{codec}: use bf16 or int8") as refused:
        encode(np.zeros((4, WIDTH), np.float32), codec, old, MODEL)
    assert refused.value.code == "codec_not_in_model"
    made = size(CODECS[codec], 4, WIDTH) - size(RVQ8, 4, WIDTH) + 40
    with pytest.raises(FrameError, match="bf16 or int8") as caught:
        decode(Frame(CODECS[codec], 4, WIDTH, MODEL, bytes(made)), old)
    assert caught.value.code == "frame_unknown_codec"


@pytest.mark.parametrize("scale", [[0.0], [-1.0], [np.nan], [np.inf], [[1.0]]])
def test_damaged_tables_are_refused(scale: list[float]) -> None:
    damaged, one = np.array(scale, np.float32), np.ones(1, np.float32)
    wrong: list[tuple[Any, ...]] = [(damaged,), (one, damaged, one), (one, one, None), (one, None, one)]
    for tables in wrong:
        with pytest.raises(ModelError) as caught:
            Tables(*tables)
        assert caught.value.code == "codec_damaged"
    assert Tables(one, one, -one).codecs == ["bf16", "int8", "int4"]


def test_strided_and_transposed_rows_are_encoded_as_they_read() -> None:
    values = np.random.default_rng(1).standard_normal((WIDTH, 8)).astype(np.float32)
    for view in (values.T, values.T[::2], values.T[::-1]):
        for codec in VALUES:
            assert encode(view, codec, TABLES, MODEL) == encode(view.copy(), codec, TABLES, MODEL)


def test_the_fingerprint_names_every_part_of_every_tensor() -> None:
    a = np.arange(6, dtype=np.float32)
    b = np.ones((2, 2), np.float16)
    base: dict[str, npt.NDArray[Any]] = {"a": a, "b": b}
    others: list[dict[str, npt.NDArray[Any]]] = [
        {"a": a},
        {"a": a, "c": b},
        {"a": a.reshape(2, 3), "b": b},
        {"a": a.view(np.int32), "b": b},
        {"a": a + np.float32(1e-6), "b": b},
        {"a": b, "b": a},
        {"a": a, "b": b, "e": np.zeros(0, np.float32)},
    ]
    prints = {fingerprint(base), *(fingerprint(other) for other in others)}
    assert len(prints) == len(others) + 1
    assert all(len(value) == 8 for value in prints)
    assert fingerprint({"b": b, "a": a}) == fingerprint(base)
    assert fingerprint({"a": a.astype(">f4"), "b": np.asfortranarray(b)}) == fingerprint(base)
    assert fingerprint({"s": np.array(1.0)}) != fingerprint({"s": np.array([1.0])})


def test_the_fingerprint_of_a_known_tensor_stays() -> None:
    """A changed rule would part every edge model in use from its cloud."""
    assert fingerprint({"w": np.array([[1.0, -2.0]], np.float32)}).hex() == "0b2969554b26bafa"
