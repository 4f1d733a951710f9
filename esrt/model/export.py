"""The edge half as ONE ONNX graph: waveform -> log-mel -> Whisper's encoder -> Q-Former -> the rows that are sent.

The graph computes in float32. Weights that are exact in float16, or as int8 with a scale a channel, are stored so and
expanded when the file is opened: a third of the size, the very same numbers. Computing in int8 (`export_int8`) was
tried and is not used: 2.5 times as fast, but Whisper's few large activations make rows with a cosine as low as 0.96.
"""

from __future__ import annotations

import base64
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from esrt.config import WINDOW_SAMPLES, ModelConfig
from esrt.errors import ModelError
from esrt.model import checkpoint
from esrt.model.esrt import FRAME_SAMPLES, EdgeHalf

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

METADATA_KEY = "esrt"

_OPSET = 20
_SMALL = 4096  # values; smaller tensors stay as they are


def metadata(folder: Path) -> dict[str, Any]:
    """What a device must know of a model besides the graph; it stands in the ONNX file under METADATA_KEY, as JSON."""
    config = ModelConfig.load(folder / "config.json")
    scale = checkpoint.load_tables(folder).int8_scale
    return {
        "format": 1,
        "name": config.name,
        "fingerprint": checkpoint.fingerprint(folder).hex(),
        "queries": config.adapter.queries,
        "width": config.adapter.width,
        "context": config.context,
        "int8_scale": base64.b64encode(scale.astype("<f4").tobytes()).decode("ascii"),
    }


def export_folder(folder: Path) -> Path:
    """Writes `edge.onnx` into a folder that has `whisper/` and the adapter; returns its path."""
    path = folder / "edge.onnx"
    export(checkpoint.load_edge(folder), metadata(folder), path)
    return path


def export(edge: EdgeHalf, meta: dict[str, Any], path: Path) -> None:
    """Writes the edge half: input `waveform` float32 [1, samples], a multiple of FRAME_SAMPLES and at most 30 s; output
    `rows` float32 [1, queries, width].

    Raises ModelError `package_missing` without the packages onnx and onnxscript.
    """
    program = _trace(edge)
    model = program.model
    _forget_where(model)
    _store_small(model.graph)
    model.metadata_props[METADATA_KEY] = json.dumps(meta)
    beside = path.with_name(path.name + ".new")
    program.save(str(beside), external_data=False)
    beside.replace(path)


def export_int8(edge: EdgeHalf, path: Path) -> None:
    """Writes a variant whose matrix products run in int8, activations scaled as they come. Made to be measured only."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = path.with_name(path.name + ".float")
    _trace(edge).save(str(plain), external_data=False)
    with _quiet():
        quantize_dynamic(plain, path, ["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    plain.unlink()


def _trace(edge: EdgeHalf) -> torch.onnx.ONNXProgram:
    frames = torch.export.Dim("frames", min=1, max=WINDOW_SAMPLES // FRAME_SAMPLES)
    example = torch.zeros(1, FRAME_SAMPLES * 100)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                edge.eval(),
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["waveform"],
                output_names=["rows"],
                dynamic_shapes={"waveform": {1: FRAME_SAMPLES * frames}},
                opset_version=_OPSET,
            )
    except ImportError as error:
        raise ModelError("package_missing", "Writing ONNX needs two packages: pip install onnx onnxscript") from error
    assert program is not None
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of each operator that torchvision would have, and the quantiser of steps it would like."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _forget_where(model: ir.Model) -> None:
    """Drops the traces of source files that the exporter leaves in each node."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _store_small(graph: ir.Graph) -> None:
    """Stores weights as float16, or int8 and scales, wherever that gives back each value exactly."""
    import onnx_ir as ir

    first = next(iter(graph))
    for name, value in list(graph.initializers.items()):
        if value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT or value.const_value.size < _SMALL:
            continue
        array = value.const_value.numpy()
        if (half := _as_half(array)) is not None:
            nodes = [_cast(graph, name, half)]
        elif (parts := _as_int8(array)) is not None:
            scale = ir.Value(name=f"{name}_scale", const_value=ir.tensor(parts[1]))
            graph.register_initializer(scale)
            cast = _cast(graph, name, parts[0])
            nodes = [cast, ir.node("Mul", [cast.outputs[0], scale])]
        else:
            continue
        nodes[-1].outputs[0].name = f"{name}_expanded"
        value.replace_all_uses_with(nodes[-1].outputs[0])
        del graph.initializers[name]
        graph.insert_before(first, nodes)


def _cast(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Node:
    import onnx_ir as ir

    stored = ir.Value(name=f"{name}_stored", const_value=ir.tensor(array))
    graph.register_initializer(stored)
    return ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT})


def _as_half(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float16] | None:
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else None


def _as_int8(array: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
    """[in, out] -> codes and scales [out], if `checkpoint.quantise` made the values.

    The largest code of a channel is 127 then, or the scale is the smallest there is.
    """
    if array.ndim != 2:
        return None
    scale = np.maximum(np.abs(array).max(0) / np.float32(127), np.float32(checkpoint.SMALLEST_SCALE))
    codes = np.rint(array / scale).astype(np.int8)
    return (codes, scale) if np.array_equal(codes.astype(np.float32) * scale, array) else None


@dataclass(frozen=True)
class Parity:
    """How alike the rows of two forms of one edge half are, over all rows of all clips. Cosines: 1 is equal."""

    clips: int
    worst: float
    mean: float
    largest_difference: float


def parity(edge: EdgeHalf, path: Path, clips: Sequence[npt.NDArray[np.float32]]) -> Parity:
    """Compares the torch edge half with an ONNX file on clips of float32 [samples] (multiples of FRAME_SAMPLES)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    cosines, largest = [], 0.0
    for clip in clips:
        with torch.no_grad():
            ours = edge(torch.from_numpy(clip)[None])[0].numpy()
        theirs = session.run(["rows"], {"waveform": clip[None]})[0][0]
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosines.append((ours * theirs).sum(1) / lengths)
        largest = max(largest, float(np.abs(ours - theirs).max()))
    every = np.concatenate(cosines)
    return Parity(len(clips), float(every.min()), float(every.mean()), largest)
