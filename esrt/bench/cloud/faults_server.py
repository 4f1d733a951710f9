"""An `esrt` whose texts do not depend on what else is in a batch, and to which things happen when it is told so.

    python -m esrt.bench.cloud.faults_server serve --no-auth

It decodes in float32 everywhere. At SIGUSR1 the next step of decoding fails, as on a GPU that has no memory left; at
SIGUSR2 the wall clock, as Python tells it, is a day ahead, at the next a day behind, and so on.
"""

from __future__ import annotations

import itertools
import runpy
import signal
import sys
import threading
import time
from typing import Any

import torch

from esrt.model import precision

DAY = 86400.0


def main() -> None:
    """Runs `esrt` with the arguments of this process."""
    precision.decoding_type = lambda: torch.float32  # before anybody takes it from there
    from esrt.cloud.engines import keyvalues, transformers

    failing = threading.Event()

    def forward(*arguments: Any) -> Any:
        if failing.is_set():
            failing.clear()
            raise MemoryError
        return keyvalues.forward(*arguments)

    wall, jumps = time.time, itertools.cycle((DAY, -DAY))

    def jump(*_: object) -> None:
        ahead = next(jumps)
        time.time = lambda: wall() + ahead

    setattr(transformers, "forward", forward)  # noqa: B010
    signal.signal(signal.SIGUSR1, lambda *_: failing.set())
    signal.signal(signal.SIGUSR2, jump)
    sys.argv[0] = "esrt"
    runpy.run_module("esrt", run_name="__main__")


if __name__ == "__main__":
    main()
