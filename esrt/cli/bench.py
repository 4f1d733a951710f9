"""`esrt bench`: measure a part of ESRT; each measurement writes one section of a page under docs/benchmarks."""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING

from esrt.cli import common

if TYPE_CHECKING:
    from esrt.cli.common import Verbs

BENCHES = {
    "bandwidth": "esrt.bench.bandwidth.__main__",
    "cloud": "esrt.bench.cloud.__main__",
    "edge": "esrt.bench.edge.__main__",
    "kvspn": "esrt.bench.kvspn.__main__",
    "training": "esrt.bench.training.__main__",
    "ugsd": "esrt.bench.ugsd.__main__",
}
"""What can be measured: the module whose `main` takes the rest of the command line and returns the exit code."""


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "bench",
        "Measure a part of ESRT, from the root of a checkout.",
        """
esrt bench cloud --help                   what can be measured of it
esrt bench cloud burst --capacity 16
esrt bench edge speed
""",
    )
    parser.add_argument("part", choices=BENCHES, metavar="PART", help=f"one of: {', '.join(BENCHES)}")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="the section and its options")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Hand the rest of the command line to the measurement's own `main`."""
    code: int = importlib.import_module(BENCHES[args.part]).main(args.rest)
    return code
