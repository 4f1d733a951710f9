"""Measurements of the cloud's half, one command a section.

How to run, from the root of a checkout (needs `pip install '.[cloud,tiny]'`):

    esrt bench cloud speed
    esrt bench cloud fork
    esrt bench cloud burst
    esrt bench cloud faults
    esrt bench cloud load --rate 1 2 4 --targets 2

Each starts real servers on loopback, sends them real frames and writes its section of docs/benchmarks/cloud.md anew.
Sections with vLLM need it, on a machine without a GPU in the environment that `make .venv/.vllm` makes.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esrt.bench.cloud.setting import ENGINES, VLLM
from esrt.bench.page import Options, Section, reader, run

PAGE = Path("docs/benchmarks/cloud.md")
MOST = 10_000
"""Of anything that is counted here: each measurement comes to an end."""


def count(text: str) -> int:
    """A whole number from 1 to MOST. For argparse's `type=`."""
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST}")
    return int(text)


def rate(text: str) -> float:
    """Requests a second, from 0.01 to MOST. For argparse's `type=`."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of requests a second, from 0.01 to {MOST}")
    return value


def load(args: argparse.Namespace) -> str:
    """Seconds to the first token and the whole answer, for clients in a circle, at random times and at once."""
    from esrt.bench.cloud import load

    return load.run(args)


def speed(args: argparse.Namespace) -> str:
    """Tokens a second of each engine, and of vLLM without a server."""
    from esrt.bench.cloud import speed

    return speed.run(args)


def fork(args: argparse.Namespace) -> str:
    """One clip into 44 languages, forked, beside a request each."""
    from esrt.bench.cloud import fork

    return fork.run(args)


def burst(args: argparse.Namespace) -> str:
    """Ten times the capacity at once."""
    from esrt.bench.cloud import burst

    return burst.run(args)


def faults(args: argparse.Namespace) -> str:
    """What clients see when processes are killed, networks cut, disks full."""
    from esrt.bench.cloud import faults

    return faults.run(args)


def _number(default: int, what: str) -> dict[str, Any]:
    return {"type": count, "default": default, "metavar": "N", "help": f"{what} (default {default})"}


MODEL: dict[str, Any] = {"default": "ESRT-270M", "help": "name or folder (default ESRT-270M)"}
AUDIO: dict[str, Any] = {
    "type": Path,
    "metavar": "PATH",
    "help": "folder of sound files, or a manifest .jsonl (default: the repository's clips)",
}
VLLM_PYTHON: dict[str, Any] = {
    "type": Path,
    "metavar": "PYTHON",
    "help": f"the interpreter that has vLLM (default {VLLM} where it is, else this one)",
}
ENGINE: dict[str, Any] = {"choices": ENGINES, "dest": "engines", "nargs": 1, "default": ["transformers"]}
EACH: dict[str, Any] = {"choices": ENGINES, "nargs": "+", "default": list(ENGINES), "help": "default: both"}
COMMON = {"model": MODEL, "audio": AUDIO, "vllm": VLLM_PYTHON}
SECTIONS: dict[Section, Options] = {
    speed: {
        **COMMON,
        "engines": EACH,
        "clients": _number(32, "clients that ask again when they have an answer"),
        "requests": _number(96, "of each round"),
        "rounds": _number(3, "of each engine, by turns"),
    },
    fork: {
        **COMMON,
        "engines": EACH,
        "targets": _number(44, "languages"),
        "rounds": _number(3, "of each engine, by turns"),
    },
    burst: {
        **COMMON,
        "engine": ENGINE,
        "capacity": _number(16, "the server's --queue"),
        "deadline": _number(120, "the server's --deadline, in seconds"),
    },
    faults: COMMON,
    load: {
        **COMMON,
        "engine": ENGINE,
        "clients": _number(8, "clients that ask again when they have an answer"),
        "requests": _number(64, "of each kind of arrival"),
        "rate": {"type": rate, "nargs": "+", "default": [1.0, 2.0, 4.0], "help": "Poisson, requests a second"},
        "targets": _number(1, "languages of a request"),
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement and writes its section; what it says is printed too."""
    args = reader("esrt bench cloud", PAGE, SECTIONS).parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives this
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
