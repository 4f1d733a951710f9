"""Products with weights that never change, packed once for one to a few rows, as decoding has them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from esrt.edge.cores import saturates

Precision = Literal["float32", "int8"]
Linear = Callable[[Tensor], Tensor]


def linear(weight: Tensor, bias: Tensor | None, precision: Precision) -> Linear:
    """Rows [..., in] -> rows [..., out] for `weight` [out, in], which is copied.

    float32 goes through oneDNN's packed product where torch has it: four rows cost some 15 % more than one there, and
    it is what makes a guess cheap to check. The plain product of two rows costs twice that of one. int8 has a scale
    for each output (symmetric), and rows are rounded as they come.
    """
    weight = weight.detach().float().contiguous()
    bias = None if bias is None else bias.detach().float().clone()
    if precision == "int8":
        rounded = int8(weight, bias)[1]
        fewer_bits = saturates()  # of the rows: 7, so that two products stay within 16
        return lambda rows: torch.ops.quantized.linear_dynamic(rows, rounded, fewer_bits)
    if weight.device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        return lambda rows: torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return lambda rows: F.linear(rows, weight, bias)


def int8(weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Any]:
    """The weight [out, in] rounded, as a quantized tensor, and packed for `torch.ops.quantized.linear_dynamic`."""
    scales = (weight.norm(torch.inf, dim=1) / 127).clamp(min=1e-8)
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch names a successor that is another package
        rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        return rounded, torch.ops.quantized.linear_prepack(rounded, bias)
