"""Residual vector quantisation: packing of the codes, the greedy search, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from esrt.errors import FrameError, ModelError, UsageError
from esrt.wire.codecs import CODECS, Tables, decode, encode, encode_codes
from esrt.wire.frame import RVQ8, RVQ32, STAGES, Frame, read, size
from esrt.wire.rvq import WORDS, Codebooks, pack, unpack

F32 = npt.NDArray[np.float32]
MODEL = bytes(8)
QUERIES, WIDTH, D, K = 4, 6, 5, 3
many = settings(max_examples=100, deadline=None)
stages = st.sampled_from(sorted(STAGES.values()))
rows = hnp.arrays(np.float32, (QUERIES, WIDTH), elements=st.floats(-50, 50, width=32, allow_subnormal=True))


def books(seed: int = 0) -> Codebooks:
    """Random codebooks whose stages become finer, as trained ones do."""
    dice = np.random.default_rng(seed)
    size = 3 * 0.9 ** np.arange(32)
    subspaces = np.stack([np.linalg.qr(dice.standard_normal((D, K)))[0] for _ in range(32)])
    inward = np.linalg.qr(dice.standard_normal((WIDTH, D)))[0]
    arrays = (
        dice.standard_normal((QUERIES, WIDTH)), inward, inward.T, subspaces,
        dice.standard_normal((32, WORDS, K)) * size[:, None, None],
    )  # fmt: skip
    return Codebooks(*(array.astype(np.float32) for array in arrays))


BOOKS = books()
TABLES = Tables(np.ones(WIDTH, np.float32), codebooks=BOOKS)


@many
@given(stages.flatmap(lambda n: hnp.arrays(np.int64, (QUERIES, n), elements=st.integers(0, WORDS - 1))))
def test_codes_are_one_long_number_of_ten_bits_each(codes: npt.NDArray[np.int64]) -> None:
    payload = pack(codes)
    whole = sum(int(code) << 10 * place for place, code in enumerate(codes.ravel()))
    assert int.from_bytes(payload, "little") == whole
    assert len(payload) == QUERIES * codes.shape[1] * 10 // 8
    np.testing.assert_array_equal(unpack(payload, codes.shape[1]), codes)


@many
@given(stages, st.data())
def test_any_payload_is_codes(count: int, data: st.DataObject) -> None:
    length = QUERIES * count * 10 // 8
    payload = data.draw(st.binary(min_size=length, max_size=length))
    codes = unpack(payload, count)
    assert codes.shape == (QUERIES, count) and codes.min() >= 0 and codes.max() < WORDS
    assert pack(codes) == payload
    number = next(number for number, stages in STAGES.items() if stages == count)
    values = decode(Frame(number, QUERIES, WIDTH, MODEL, payload), TABLES)
    assert values.shape == (QUERIES, WIDTH) and np.isfinite(values).all()


@many
@given(rows)
def test_each_stage_takes_the_nearest_word(values: F32) -> None:
    """Against distances in float64, the long way."""
    rest = (values - BOOKS.base).astype(np.float64) @ BOOKS.analysis
    codes = BOOKS.search(values, 32)
    for stage in range(32):
        words = BOOKS.words[stage].astype(np.float64) @ BOOKS.subspaces[stage].T
        distances = np.linalg.norm(rest[:, None] - words, axis=-1)
        taken = distances[np.arange(QUERIES), codes[:, stage]]
        assert np.all(taken <= distances.min(1) + 1e-3)
        rest -= words[codes[:, stage]]


@many
@given(rows, st.sampled_from(["rvq8", "rvq16", "rvq32"]))
def test_one_size_and_what_was_searched_is_read(values: F32, codec: str) -> None:
    frame = encode(values, codec, TABLES, MODEL)
    data = frame.to_bytes()
    assert len(data) == size(CODECS[codec], QUERIES, WIDTH)
    got = decode(read(data, cap=len(data), fingerprint=MODEL, queries=QUERIES, width=WIDTH), TABLES)
    count = STAGES[CODECS[codec]]
    codes = BOOKS.search(values, 32)
    np.testing.assert_array_equal(unpack(frame.payload, count), codes[:, :count])
    np.testing.assert_allclose(got, BOOKS.restore(codes[:, :count]), atol=1e-5)
    assert encode_codes(codes, codec, WIDTH, MODEL) == frame, "the shorter codec's codes are the longer one's first"


def test_more_codes_lose_less() -> None:
    values = 3 * np.random.default_rng(1).standard_normal((QUERIES, WIDTH)).astype(np.float32)
    seen = (values - BOOKS.base) @ BOOKS.analysis
    left = []
    for codec in ("rvq8", "rvq16", "rvq32"):
        got = decode(encode(values, codec, TABLES, MODEL), TABLES)
        left.append(np.linalg.norm((got - BOOKS.base) @ BOOKS.analysis - seen))
    assert left[0] > left[1] > left[2] and left[2] < 0.1 * np.linalg.norm(seen)


def test_rows_of_another_number_are_refused() -> None:
    with pytest.raises(FrameError) as caught:
        encode(np.zeros((QUERIES + 1, WIDTH), np.float32), "rvq8", TABLES, MODEL)
    assert caught.value.code == "frame_wrong_shape"
    with pytest.raises(FrameError) as caught:
        decode(Frame(RVQ8, QUERIES + 1, WIDTH, MODEL, bytes(10 * QUERIES + 10)), TABLES)
    assert caught.value.code == "frame_wrong_shape"


def test_values_that_a_reader_would_refuse() -> None:
    for value, code in ((np.nan, "frame_not_finite"), (1e5, "frame_out_of_bounds")):
        with pytest.raises(FrameError) as caught:
            encode(np.full((QUERIES, WIDTH), value, np.float32), "rvq8", TABLES, MODEL)
        assert caught.value.code == code
    far = dataclasses.replace(BOOKS, words=BOOKS.words * np.float32(1e6))
    with pytest.raises(FrameError) as caught:
        decode(Frame(RVQ32, QUERIES, WIDTH, MODEL, bytes(40 * QUERIES)), Tables(TABLES.int8_scale, codebooks=far))
    assert caught.value.code == "frame_out_of_bounds"


@pytest.mark.parametrize(
    "codes", [np.full((4, 8), -1), np.full((4, 8), WORDS), np.zeros((4, 7), int), np.zeros(8, int)]
)
def test_what_is_no_code_is_not_written(codes: npt.NDArray[np.int64]) -> None:
    with pytest.raises(FrameError) as caught:
        encode_codes(codes, "rvq8", WIDTH, MODEL)
    assert caught.value.code == "frame_wrong_shape"


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Codebooks)])
def test_damaged_codebooks_are_refused(name: str) -> None:
    array = getattr(BOOKS, name)
    shorter = [] if name == "base" else [array[:-1]]  # any number of queries can be
    for wrong in (*shorter, array[..., :-1], array.astype(np.float64), np.full_like(array, np.nan), array[0]):
        with pytest.raises(ModelError) as caught:
            Tables(TABLES.int8_scale, codebooks=dataclasses.replace(BOOKS, **{name: wrong}))
        assert caught.value.code == "codec_damaged"


def test_a_model_of_fewer_stages_has_the_shorter_codecs() -> None:
    short = dataclasses.replace(BOOKS, subspaces=BOOKS.subspaces[:16], words=BOOKS.words[:16])
    tables = Tables(TABLES.int8_scale, codebooks=short)
    assert tables.codecs == ["bf16", "int8", "rvq8", "rvq16"]
    with pytest.raises(UsageError, match="rvq16"):
        encode(np.zeros((QUERIES, WIDTH), np.float32), "rvq32", tables, MODEL)
