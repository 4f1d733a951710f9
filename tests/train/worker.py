"""One process of a run on the tiny network, for tests that kill it or start several: worker.py DATA RUN [fsdp]."""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import DistributedType

from esrt.train import loop, progress
from tests.train.conftest import tiny_trainer

if __name__ == "__main__":
    if sys.argv[3:] == ["fsdp"]:
        # accelerate shares out over accelerators only; the sharing itself works on processors too, over gloo.
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    progress.LOG_EVERY, loop.SAVE_EVERY = 1, 3
    tiny_trainer(Path(sys.argv[1]), Path(sys.argv[2])).run()
