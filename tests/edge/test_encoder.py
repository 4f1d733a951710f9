"""The encoder over a real, small ONNX graph."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES
from esrt.edge import cores
from esrt.edge.cores import usable_cores
from esrt.edge.encoder import EdgeInfo, Encoder
from esrt.errors import AudioError, ModelError

MakeEdge = Callable[..., Path]


def noise(size: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(size).normal(0, 0.1, size).astype(np.float32)


def test_one_file_says_everything(make_edge: MakeEdge, tiny: Any) -> None:
    encoder = Encoder(make_edge())
    assert encoder.info == EdgeInfo("ESRT-tiny", tiny.fingerprint.hex(), tiny.queries, tiny.width, "speech", 30)
    assert encoder.fingerprint == tiny.fingerprint
    np.testing.assert_array_equal(encoder.tables.int8_scale, tiny.scale)


@pytest.mark.parametrize(
    ("size", "length"),
    [(1, 16_000), (8_000, 16_000), (8_001, 24_000), (50_001, 64_000), (472_001, 480_000), (480_000, 480_000)],
)
def test_rows_of_a_clip(make_edge: MakeEdge, tiny: Any, size: int, length: int) -> None:
    samples = noise(size)
    rows = Encoder(make_edge(), threads=1).encode(samples)
    assert rows.dtype == np.float32 and rows.shape == (tiny.queries, tiny.width)
    np.testing.assert_allclose(rows, tiny.by_hand(samples, length), atol=1e-6)


def test_the_full_context_is_30_seconds(make_edge: MakeEdge, tiny: Any) -> None:
    samples = noise(10_000)
    rows = Encoder(make_edge(context="full")).encode(samples)
    np.testing.assert_allclose(rows, tiny.by_hand(samples, WINDOW_SAMPLES), atol=1e-6)


@pytest.mark.parametrize(
    ("longest", "protect", "size", "length"),
    [
        (30, False, 1, 480_000),
        (30, True, 480_000, 480_000),
        (8, False, 1, 136_000),
        (8, False, 128_000, 136_000),
        (8, False, 136_001, 480_000),
        (8, True, 1, 168_000),
        (8, True, 128_000, 168_000),
    ],
)
def test_constant_timing_computes_as_for_the_longest_segment_and_gives_the_same_rows(
    make_edge: MakeEdge, monkeypatch: pytest.MonkeyPatch, longest: float, protect: bool, size: int, length: int
) -> None:
    encoder = Encoder(make_edge(longest=longest), timing="constant")
    encoder.protect = protect
    seen: list[tuple[int, ...]] = []
    session = encoder._session

    def run(names: list[str], inputs: dict[str, Any], options: object) -> Any:
        seen.append(inputs["waveform"].shape)
        return session.run(names, inputs, options)

    monkeypatch.setattr(encoder, "_session", SimpleNamespace(run=run))
    rows = encoder.encode(noise(size))
    assert seen == [(1, length)]
    if not protect:  # which shifts it by another length each time
        np.testing.assert_allclose(rows, Encoder(make_edge()).encode(noise(size)), atol=1e-6)


def test_processors_that_overflow_in_int8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(cores, "_INFO", info)
    assert cores.saturates(), "not known"
    info.write_text("flags\t\t: fpu sse2 avx2\n")
    assert cores.saturates()
    info.write_text("flags\t\t: fpu avx2 avx512_vnni\n")
    assert not cores.saturates()


def test_threads_may_share_it(make_edge: MakeEdge) -> None:
    encoder = Encoder(str(make_edge()))
    clips = [noise(size) for size in range(1_000, 60_000, 5_000)]
    with ThreadPoolExecutor(4) as pool:
        for clip, rows in zip(clips, pool.map(encoder.encode, clips), strict=True):
            np.testing.assert_array_equal(rows, encoder.encode(clip))


@pytest.mark.parametrize(
    ("samples", "code"),
    [
        (np.zeros(0, np.float32), "audio_empty"),
        (np.zeros(WINDOW_SAMPLES + 1, np.float32), "audio_too_long"),
        (np.zeros((2, 100), np.float32), "audio_wrong_samples"),
        (np.array([0.0, np.nan], np.float32), "audio_wrong_samples"),
    ],
)
def test_what_cannot_be_encoded(make_edge: MakeEdge, samples: npt.NDArray[np.float32], code: str) -> None:
    with pytest.raises(AudioError) as caught:
        Encoder(make_edge()).encode(samples)
    assert caught.value.code == code


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        Encoder(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return caught.value.code


def test_a_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "edge.onnx") == "edge_model_missing"
    assert refused(tmp_path) == "edge_model_missing"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": None},
        {"name": 5},
        {"fingerprint": None},
        {"fingerprint": "abc"},
        {"fingerprint": "00" * 7},
        {"fingerprint": 5},
        {"width": 9},
        {"width": "8"},
        {"queries": 0},
        {"queries": "4"},
        {"context": "whole"},
        {"longest": 0},
        {"longest": 31},
        {"longest": "long"},
        {"longest": float("nan")},
        {"int8_scale": None},
        {"int8_scale": "not base64!"},
        {"int8_scale": base64.b64encode(b"12345").decode()},
        {"int4_scale": "not base64!"},
        {"format": None},
        {"format": "two"},
        {"output": "columns"},
    ],
    ids=str,
)
def test_metadata_that_does_not_fit(make_edge: MakeEdge, changes: dict[str, Any]) -> None:
    assert refused(make_edge(**changes)) == "edge_model_damaged"


def test_scales_that_no_codec_can_use(make_edge: MakeEdge) -> None:
    with pytest.raises(ModelError):
        Encoder(make_edge(int8_scale=base64.b64encode(np.zeros(8, "<f4").tobytes()).decode()))


@pytest.mark.parametrize(("form", "where"), [(1, "where it was made"), (4, "esrt here")])
def test_another_format_says_what_to_upgrade(make_edge: MakeEdge, form: int, where: str) -> None:
    path = make_edge(format=form)
    assert refused(path) == "edge_model_unsupported"
    with pytest.raises(ModelError, match=where):
        Encoder(path)


def test_a_file_that_is_no_edge_model(make_edge: MakeEdge, capfd: pytest.CaptureFixture[str]) -> None:
    path = make_edge()
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2], b"\0" * len(whole)):
        path.write_bytes(damaged)
        assert refused(path) == "edge_model_damaged"
    assert capfd.readouterr() == ("", "")


def test_rows_of_another_shape_than_promised(make_edge: MakeEdge) -> None:
    encoder = Encoder(make_edge())
    object.__setattr__(encoder.info, "queries", 5)
    with pytest.raises(ModelError) as caught:
        encoder.encode(noise(100))
    assert caught.value.code == "edge_model_damaged"


def test_threads_are_cores() -> None:
    assert 0 <= usable_cores() <= 4_096


def test_no_torch_and_no_noise(make_edge: MakeEdge) -> None:
    script = f"""
import sys, numpy
from esrt.edge.encoder import Encoder
Encoder({str(make_edge())!r}).encode(numpy.ones({SAMPLE_RATE}, numpy.float32))
assert not {{"torch", "onnx", "transformers"}} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_memory_is_given_back(make_edge: MakeEdge) -> None:
    """After some hundred clips of every length, a thousand more leave nothing behind (a process of their own)."""
    pytest.importorskip("psutil")
    script = f"""
import gc, numpy, psutil
from esrt.config import WINDOW_SAMPLES
from esrt.edge.encoder import Encoder
encoder = Encoder({str(make_edge())!r}, threads=1)
for clips in (500, 1_000):
    for index in range(clips):
        encoder.encode(numpy.zeros(1 + (index * 48_611) % WINDOW_SAMPLES, numpy.float32))
    gc.collect()
    print(psutil.Process().memory_info().rss / 2**20)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = map(float, run.stdout.split())
    assert after < before + 5
