"""What one product with fixed weights costs for one row, two and four: the ground that cheap checking stands on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from esrt.bench.page import machine, table
from esrt.m2m.linear import linear

SHAPES = {"feed-forward, 512 to 2,048": (2048, 512), "output head, 512 to 51,865": (51_865, 512)}
ROWS = (1, 2, 4)
REPEATS = 60


def run() -> str:
    """The section."""
    torch.set_num_threads(1)
    rows = []
    for name, (out, width) in SHAPES.items():
        weight = torch.randn(out, width, generator=torch.Generator().manual_seed(0)) / width**0.5
        arms: dict[str, Callable[[Tensor], object]] = {
            "torch, `F.linear`": partial(_plain, weight),
            "torch, packed (oneDNN): ours": linear(weight, None, "float32"),
            "ONNX Runtime": _onnx(weight, False),
            "torch, int8: ours": linear(weight, None, "int8"),
            "ONNX Runtime, int8": _onnx(weight, True),
        }
        best = {(arm, count): float("inf") for arm in arms for count in ROWS}
        with torch.inference_mode():
            for _ in range(REPEATS):
                for arm, product in arms.items():
                    for count in ROWS:
                        x = torch.randn(count, width)
                        began = time.perf_counter()
                        product(x)
                        best[arm, count] = min(best[arm, count], time.perf_counter() - began)
        rows += [[f"{name}: {arm}", *(f"{1000 * best[arm, count]:.3f}" for count in ROWS)] for arm in arms]
    return (
        table(["product", *(f"{count} row{'s' * (count > 1)}, ms" for count in ROWS)], rows)
        + f"\n\nThe best of {REPEATS}, one thread. Ran on {machine()}."
    )


def _plain(weight: Tensor, rows: Tensor) -> Tensor:
    return F.linear(rows, weight)


def _onnx(weight: Tensor, int8: bool) -> Callable[[Tensor], object]:
    """The product in ONNX Runtime, with int8 as its own `quantize_dynamic` makes it."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(weight)])],
        [numpy_helper.from_array(weight.T.contiguous().numpy(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        onnx.save(model, path)
        if int8:
            quantize_dynamic(path, path.with_suffix(".int8"), per_channel=True, weight_type=QuantType.QInt8)
            path = path.with_suffix(".int8")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x.numpy()})
