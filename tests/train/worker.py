"""One process of a run on the tiny network, for tests that kill it or start several: worker.py DATA RUN."""

from __future__ import annotations

import sys
from pathlib import Path

from esrt.train import loop, progress
from tests.train.conftest import tiny_trainer

if __name__ == "__main__":
    progress.LOG_EVERY, loop.SAVE_EVERY = 1, 3
    tiny_trainer(Path(sys.argv[1]), Path(sys.argv[2])).run()
