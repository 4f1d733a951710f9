"""One process of a run on the tiny network, for tests that kill it or start several: worker.py DATA RUN."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from esrt.train import loop, progress
from tests.train.conftest import RECIPE, tiny_trainer


def share_out(by: str) -> None:
    """accelerate shares out over accelerators only; the sharing itself works on processors too, over gloo."""
    PartialState(cpu=True)
    if by == "fsdp":
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return
    import deepspeed  # type: ignore[import-not-found]

    deepspeed.ops.__compatible_ops__.clear()  # it would compile some of its own, which take minutes
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    PartialState._shared_state["distributed_type"] = DistributedType.DEEPSPEED
    torch.accelerator.is_available = lambda: True  # else accelerate does not ask it


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--by", choices=["fsdp", "deepspeed"])
    parser.add_argument("--stages", type=int, default=len(RECIPE.stages), help="so many of the first")
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    if args.by:
        share_out(args.by)
    progress.LOG_EVERY, loop.SAVE_EVERY = 1, 3
    tiny_trainer(args.data, args.run, replace(RECIPE, stages=RECIPE.stages[: args.stages], bf16=args.bf16)).run()
