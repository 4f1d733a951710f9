"""The machine: device, processes, precision and trackers, all by `accelerate`, however it was launched."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import (
    DistributedType,
    broadcast_object_list,
    is_bf16_available,
    is_tensorboard_available,
    is_wandb_available,
)
from torch.distributed.fsdp import MixedPrecisionPolicy

from esrt.errors import UsageError
from esrt.train.recipes import Plan


def start(recipe: Plan, folder: Path, bf16: bool | None = None) -> Accelerator:
    """The accelerator of this process; trackers write below `folder`. `bf16` is what a run began with, if it did.

    Raises UsageError `wandb_refused`, `deepspeed_stage` or `fsdp_version`.
    """
    # The main process may encode speech for hours, and the others wait for it.
    no_device = not torch.accelerator.is_available()
    processes = PartialState(cpu=no_device, timeout=timedelta(days=1))
    bf16 = recipe.bf16 if bf16 is None else bf16
    if bf16 is None:
        (bf16,) = broadcast_object_list([is_bf16_available() and faster_in_bf16(processes.device)])
    to_wandb = is_wandb_available() and processes.is_main_process and _has_account()
    trackers = {"tensorboard": is_tensorboard_available(), "wandb": to_wandb}
    accelerator = Accelerator(
        cpu=no_device,
        mixed_precision="bf16" if bf16 else "no",
        gradient_accumulation_steps=recipe.accumulate,
        log_with=[name for name, installed in trackers.items() if installed] or None,
        project_dir=folder,
        # Every stage leaves some parameters out. Buffers never change, and one of them is the LLM's embedding.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
    )
    if (plugin := accelerator.state.deepspeed_plugin) is not None:
        if plugin.zero_stage == 3:
            raise UsageError("deepspeed_stage", "Stage 3 of DeepSpeed is not for this: launch stage 2, or FSDP.")
        # Batches are cut here, not by a data loader from which it would learn their size. Precision is autocast's, as
        # without DeepSpeed, whose own would round parameters and losses to bfloat16.
        plugin.deepspeed_config.update(
            train_micro_batch_size_per_gpu=1, gradient_clipping=1.0, bf16={"enabled": False},
            torch_autocast={"enabled": bf16, "dtype": "bfloat16", "lower_precision_safe_modules": []},
        )  # fmt: skip
    if accelerator.distributed_type == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise UsageError("fsdp_version", "The first version of FSDP is not for this: launch with --fsdp_version 2.")
        # Precision is autocast's, as without FSDP: accelerate's policy would round losses and gradients to bfloat16.
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
    return accelerator


def in_bf16(accelerator: Accelerator) -> bool:
    """Whether what it trains computes in bfloat16."""
    if (plugin := accelerator.state.deepspeed_plugin) is not None:
        return bool(plugin.deepspeed_config["torch_autocast"]["enabled"])
    return bool(accelerator.mixed_precision == "bf16")


def _has_account() -> bool:
    """Whether W&B may be told: somebody is signed in, or it keeps all on this machine. It never asks for a key here."""
    import wandb

    try:
        return bool(wandb.setup().settings.mode != "online" or wandb.login(prompt=False))
    except wandb.Error as error:
        how = "type `wandb login`, or set WANDB_MODE=offline"
        raise UsageError("wandb_refused", f"W&B does not let this run in ({error}): {how}.") from error


def part_size(accelerator: Accelerator, stage: str, batch: int) -> int:
    """Clips in each equal part of a stage's batches. Raises UsageError `batch_not_divisible`."""
    count = accelerator.num_processes * accelerator.gradient_accumulation_steps
    size, rest = divmod(batch, count)
    if rest:
        raise UsageError(
            "batch_not_divisible",
            f"Stage {stage} has batches of {batch} clips, which cannot be cut into {count} equal parts (processes "
            "times accumulation): change one of them.",
        )
    return size


def faster_in_bf16(device: torch.device) -> bool:
    """Times a layer's product in autocast and in float32. Some processors have no products of bfloat16."""
    rows, layer = torch.randn(512, 640, device=device), torch.nn.Linear(640, 2048, device=device)

    def seconds(bf16: bool) -> float:
        best = float("inf")
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for _ in range(6):
                began = time.perf_counter()
                layer(rows).sum().item()  # waits for the device
                best = min(best, time.perf_counter() - began)
        return best

    return seconds(True) < seconds(False)
