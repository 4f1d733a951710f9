"""The edge half as ONE ONNX graph: waveform -> log-mel -> Whisper's encoder -> Q-Former -> the rows that are
sent, and from these the codes of the model's codebooks, where it has some.

Most matrix products with weights run in int8 (`int8`), everything else in float32. Of the weights that stay float32,
those that are exact in float16 are stored so.
"""

from __future__ import annotations

import base64
import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from esrt.config import FRAME_SAMPLES, WINDOW_SAMPLES, ModelConfig
from esrt.errors import ModelError
from esrt.model import checkpoint, int8
from esrt.model.esrt import EdgeHalf
from esrt.model.search import SearchingEdge
from esrt.wire.rvq import Codebooks

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

METADATA_KEY = "esrt"

_OPSET = 20
_SMALL = 4096  # values; smaller tensors stay as they are


def metadata(folder: Path) -> dict[str, Any]:
    """What a device must know of a model besides the graph; it stands in the ONNX file under METADATA_KEY, as JSON."""
    config = ModelConfig.load(folder / "config.json")
    tables = checkpoint.load_tables(folder)
    scales = {"int8_scale": tables.int8_scale, "int4_scale": tables.int4_scale, "int4_centre": tables.int4_centre}
    return {
        "format": 3,
        "name": config.name,
        "fingerprint": checkpoint.fingerprint(folder).hex(),
        "queries": config.adapter.queries,
        "width": config.adapter.width,
        "context": config.context,
        "longest": config.longest,
        **{
            name: base64.b64encode(scale.astype("<f4").tobytes()).decode("ascii")
            for name, scale in scales.items()
            if scale is not None
        },
    }


def export_folder(folder: Path) -> Path:
    """Writes `edge.onnx` into a folder that has `whisper/` and the adapter; returns its path."""
    path = folder / "edge.onnx"
    export(checkpoint.load_edge(folder), metadata(folder), path, checkpoint.load_tables(folder).codebooks)
    return path


def export(edge: EdgeHalf, meta: dict[str, Any], path: Path, codebooks: Codebooks | None = None) -> None:
    """Writes the edge half: inputs `waveform` float32 [1, samples], a multiple of FRAME_SAMPLES and at most 30 s, and
    `frames` int64 [1], how many of its frames count; output `rows` float32 [1, queries, width], and with codebooks
    also `codes` int64 [1, queries, stages].

    Raises ModelError `package_missing` without the packages onnx and onnxscript.
    """
    scaled = copy.deepcopy(edge)
    int8.scale_rows(scaled)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        plain, beside = Path(scratch) / "float.onnx", Path(scratch) / path.name
        export_float(scaled if codebooks is None else SearchingEdge(scaled, codebooks), plain)
        with quiet():
            int8.quantise(plain, beside)
        import onnx_ir as ir

        model = ir.load(beside)
        _forget_where(model)
        _store_half(model.graph)
        model.metadata_props[METADATA_KEY] = json.dumps(meta)
        ir.save(model, beside)
        beside.replace(path)


def export_float(edge: EdgeHalf | SearchingEdge, path: Path) -> None:
    """The same graph in float32 throughout: what the shipped one is measured against."""
    frames = torch.export.Dim("frames", min=1, max=WINDOW_SAMPLES // FRAME_SAMPLES)
    example = (torch.zeros(1, FRAME_SAMPLES * 100), torch.tensor([100]))
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                edge.eval(),
                example,
                dynamo=True,
                verbose=False,
                input_names=["waveform", "frames"],
                output_names=["rows", "codes"] if isinstance(edge, SearchingEdge) else ["rows"],
                dynamic_shapes={"waveform": {1: FRAME_SAMPLES * frames}, "frames": None},
                opset_version=_OPSET,
            )
    except ImportError as error:
        raise ModelError("package_missing", "Writing ONNX needs two packages: pip install onnx onnxscript") from error
    assert program is not None
    program.save(str(path), external_data=False)


@contextmanager
def quiet() -> Iterator[None]:
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


def _store_half(graph: ir.Graph) -> None:
    """Stores float32 weights as float16 wherever that gives back each value exactly."""
    import onnx_ir as ir

    first = next(iter(graph))
    for name, value in list(graph.initializers.items()):
        if value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT or value.const_value.size < _SMALL:
            continue
        array = value.const_value.numpy()
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), array):
            continue
        stored = ir.Value(name=f"{name}_stored", const_value=ir.tensor(half))
        graph.register_initializer(stored)
        cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT})
        cast.outputs[0].name = f"{name}_expanded"
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]
        graph.insert_before(first, [cast])


@dataclass(frozen=True)
class Parity:
    """How alike the rows of two forms of one edge half are, over all rows of all clips. Cosines: 1 is equal."""

    clips: int
    worst: float
    mean: float
    largest_difference: float


def parity(edge: EdgeHalf, session: Any, clips: Sequence[npt.NDArray[np.float32]]) -> Parity:
    """Compares the torch edge half with an ONNX graph on clips of float32 [samples] (multiples of FRAME_SAMPLES).

    `session` runs the graph as a device does (edge.encoder.open_session).
    """
    cosines, largest = [], 0.0
    for clip in clips:
        with torch.no_grad():
            ours = edge(torch.from_numpy(clip)[None])[0].numpy()
        frames = np.array([len(clip) // FRAME_SAMPLES])
        theirs = session.run(["rows"], {"waveform": clip[None], "frames": frames})[0][0]
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosines.append((ours * theirs).sum(1) / lengths)
        largest = max(largest, float(np.abs(ours - theirs).max()))
    every = np.concatenate(cosines)
    return Parity(len(clips), float(every.min()), float(every.mean()), largest)
