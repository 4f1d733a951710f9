"""Starts processes that train the tiny network (tests.train.worker), and reads what they wrote down."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def numbers(run: Path) -> dict[tuple[str, int, str], float]:
    """What the log says of each step and of each validation, but the time; the last word counts."""
    found = {}
    for line in map(json.loads, (run / "log.jsonl").read_text().splitlines()):
        for name in ("loss", "right", "ctc"):
            if name in line:
                found[line["stage"], line["step"], name] = line[name]
        for name in ("validation", "loss_weights"):
            for task, value in line.get(name, {}).items():
                found[line["stage"], line["step"], f"{name}/{task}"] = value
    return found


def start(data: Path, run: Path, *more: str, launcher: Sequence[str] = (), **settings: str) -> subprocess.Popen[bytes]:
    """A worker, or several by a launcher; `more` are its options."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT), **settings}
    run.mkdir(exist_ok=True)
    command = [sys.executable, *launcher, "-m", "tests.train.worker", str(data), str(run), *more]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def processes(count: int) -> list[str]:
    """A launcher of so many."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ["-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={port}"]
