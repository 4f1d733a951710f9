"""The edge model without int8: what the shipped one is measured against."""

from __future__ import annotations

import json
from pathlib import Path

from esrt.model import checkpoint, export


def float_graph(folder: Path, path: Path) -> Path:
    """Writes the edge half of a ready folder as float32 ONNX to `path`, with the same metadata; returns `path`."""
    export.export_float(checkpoint.load_edge(folder), path)
    import onnx_ir as ir

    model = ir.load(path)
    model.metadata_props[export.METADATA_KEY] = json.dumps(export.metadata(folder))
    beside = path.with_suffix(".part")  # the weights of what was loaded still lie in `path`
    ir.save(model, beside)
    beside.replace(path)
    return path
