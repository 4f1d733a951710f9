"""Which type a machine computes faster in. Some processors have no products of bfloat16, and take twice as long."""

from __future__ import annotations

import time

import torch

CLEARLY = 0.8  # of float32's time: what is only just faster is not worth the digits


def faster_in_bf16(device: torch.device, rows: int) -> bool:
    """Times the product of [rows, 640] with a layer's weights in both types: a few milliseconds."""
    given, weight = torch.randn(rows, 640, device=device), torch.randn(2048, 640, device=device)

    def seconds(dtype: torch.dtype) -> float:
        x, w = given.to(dtype), weight.to(dtype)
        best = float("inf")
        for _ in range(12):
            began = time.perf_counter()
            torch.nn.functional.linear(x, w).sum().item()  # waits for the device
            best = min(best, time.perf_counter() - began)
        return best

    with torch.inference_mode():
        return seconds(torch.bfloat16) < CLEARLY * seconds(torch.float32)
