"""Measurements of the device's half, one command a section.

How to run, from the root of a checkout (needs `pip install '.[cloud,eval,tiny]'`):

    python -m esrt.bench.edge speed
    python -m esrt.bench.edge memory
    python -m esrt.bench.edge install
    python -m esrt.bench.edge quality --data data --clips 25
    python -m esrt.bench.edge long    --data data --minutes 120

Each writes its section of docs/benchmarks/edge.md anew. `speed` and `memory` need `pip install --no-deps ctranslate2`,
which ESRT itself has no use for. `data` is a folder with the manifest test.jsonl.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esrt.bench.page import Options, Section, reader, run
from esrt.edge.cores import usable_cores

PAGE = Path("docs/benchmarks/edge.md")


def speed(args: argparse.Namespace) -> str:
    """Seconds a clip beside Whisper's encoder alone."""
    from esrt.bench.edge import speed

    return speed.run(args.model, args.ctranslate2, args.rounds, args.threads)


def memory(args: argparse.Namespace) -> str:
    """The most memory a device's process has."""
    from esrt.bench.edge import memory

    return memory.run(args.model, args.ctranslate2, args.threads)


def install(args: argparse.Namespace) -> str:
    """Bytes of the base install, to download and on disk."""
    from esrt.bench.edge import install

    return install.run()


def quality(args: argparse.Namespace) -> str:
    """What int8 costs in the texts."""
    from esrt.bench.edge import quality

    return quality.run(args.model, args.data / "test.jsonl", args.clips)


def long(args: argparse.Namespace) -> str:
    """Hours of sound through a real cloud."""
    from esrt.bench.edge import long

    return long.run(args.model, args.data / "test.jsonl" if args.data else None, args.minutes)


MODEL: dict[str, Any] = {"default": "ESRT-270M", "help": "name or folder (default ESRT-270M)"}
CTRANSLATE2: dict[str, Any] = {
    "type": Path,
    "metavar": "DIR",
    "help": "Whisper base in CTranslate2's form (default: that of esrt[tiny])",
}
THREADS: dict[str, Any] = {
    "type": int,
    "default": usable_cores() or 1,
    "help": "of either engine (default: one a core)",
}
SECTIONS: dict[Section, Options] = {
    speed: {
        "model": MODEL,
        "ctranslate2": CTRANSLATE2,
        "threads": THREADS,
        "rounds": {"type": int, "default": 20, "help": "default 20"},
    },
    memory: {"model": MODEL, "ctranslate2": CTRANSLATE2, "threads": THREADS},
    install: {},
    quality: {
        "model": MODEL,
        "data": {"type": Path, "required": True, "help": "folder with test.jsonl"},
        "clips": {"type": int, "default": 25, "help": "of each language, at most (default 25)"},
    },
    long: {
        "model": MODEL,
        "data": {"type": Path, "help": "folder with test.jsonl, for more voices than the examples'"},
        "minutes": {"type": float, "default": 120.0, "help": "default 120"},
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement and writes its section; what it says is printed too."""
    return run(reader("python -m esrt.bench.edge", PAGE, SECTIONS).parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
