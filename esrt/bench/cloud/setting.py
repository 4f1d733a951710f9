"""What the sections share: their servers and their frames."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from esrt.bench.cloud import frames as real
from esrt.bench.server import Server, serving
from esrt.translator import prepare

ENGINES = ("transformers", "vllm")
VLLM = Path(".venv/vllm/bin/python")
"""Where `make` puts vLLM for machines without a GPU: it needs an environment of its own."""
UNBOUND = ("--rate", "1000000", "--concurrent", "100000", "--deadline", "600")
"""One key must not be what limits here, nor a machine that has much else to do."""


def python(args: argparse.Namespace, engine: str) -> str:
    """The interpreter that runs a server with this engine."""
    if engine != "vllm":
        return sys.executable
    return str(args.vllm or (VLLM if VLLM.is_file() else sys.executable))


@contextmanager
def servers(args: argparse.Namespace, *options: str) -> Iterator[Mapping[str, Server]]:
    """A server for each of `args.engines`, ready and side by side: by the engine's name."""
    folder = str(prepare(args.model))
    with ExitStack() as running:
        found = {}
        for engine in dict.fromkeys(args.engines):
            command = ("--engine", engine, *UNBOUND, *options)
            found[engine] = running.enter_context(serving(folder, *command, python=python(args, engine)))
        yield found


def frames(args: argparse.Namespace, count: int) -> list[bytes]:
    """Real frames for the model."""
    return real.make(prepare(args.model), real.clips(args.audio), count)
