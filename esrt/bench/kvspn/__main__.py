"""Measurements of whisperM2M and KVSPN on held-out clips.

How to run, from the root of a checkout (needs `pip install '.[train,eval,tiny]'`), `MODEL` and `SMALL` being what
`esrt m2m train` and `esrt m2m prune` wrote:

    python -m esrt.bench.kvspn all --data data --model MODEL --small SMALL
    python -m esrt.bench.kvspn products
    python -m esrt.bench.kvspn drafting --data data --model MODEL --small SMALL
    python -m esrt.bench.kvspn pipeline --data data --model MODEL --small SMALL
    python -m esrt.bench.kvspn quality  --data data --model MODEL

Each writes its section of docs/benchmarks/kvspn.md anew, `all` every one. `data` is a folder with the manifest
test.jsonl. Speed is measured on one thread: a product of one row has no work for two.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from esrt.bench.page import run

PAGE = Path("docs/benchmarks/kvspn.md")


def products(args: argparse.Namespace) -> str:
    """Milliseconds of one product in float32 and int8, for one row and for several."""
    from esrt.bench.kvspn import products

    return products.run()


def drafting(args: argparse.Namespace) -> str:
    """KVSPN, Medusa and transformers' own against greedy decoding of the same model."""
    from esrt.bench.kvspn import drafting

    return drafting.run(args.model, args.small, args.data / "test.jsonl", args.clips, args.rounds)


def pipeline(args: argparse.Namespace) -> str:
    """Pruned, drafted and in int8 against the unpruned model."""
    from esrt.bench.kvspn import pipeline

    return pipeline.run(args.model, args.small, args.data / "test.jsonl", args.clips, args.rounds)


def quality(args: argparse.Namespace) -> str:
    """BLEU of every pair of languages, beside Whisper's own translation."""
    from esrt.bench.kvspn import quality

    return quality.run(args.model, args.data / "test.jsonl", args.each)


DATA: dict[str, Any] = {"type": Path, "required": True, "help": "folder with test.jsonl"}
MODEL: dict[str, Any] = {"type": Path, "required": True, "help": "folder of a whisperM2M"}
SMALL: dict[str, Any] = {"type": Path, "required": True, "help": "folder of the same, pruned"}
SPEED: dict[str, dict[str, Any]] = {
    "data": DATA,
    "model": MODEL,
    "small": SMALL,
    "clips": {"type": int, "default": 4, "help": "of each language, each into all its languages (default 4)"},
    "rounds": {"type": int, "default": 3, "help": "default 3"},
}
SECTIONS: dict[Callable[[argparse.Namespace], str], dict[str, dict[str, Any]]] = {
    drafting: SPEED,
    pipeline: SPEED,
    quality: {
        "data": DATA,
        "model": MODEL,
        "each": {"type": int, "default": 25, "help": "clips of each language, at most (default 25)"},
    },
    products: {},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement, or all, and writes its section; what it says is printed too."""
    parser = argparse.ArgumentParser(prog="python -m esrt.bench.kvspn", allow_abbrev=False)
    verbs = parser.add_subparsers(metavar="SECTION", required=True)
    every = {name: about for options in SECTIONS.values() for name, about in options.items()}
    for sections, options in [*(((section,), options) for section, options in SECTIONS.items()), (SECTIONS, every)]:
        first = next(iter(sections))
        name, help = (first.__name__, first.__doc__) if len(sections) == 1 else ("all", "every section, one by one")
        verb = verbs.add_parser(name, help=help, allow_abbrev=False)
        verb.add_argument("--page", type=Path, default=PAGE, help=f"Markdown page with the section (default {PAGE})")
        for option, about in options.items():
            verb.add_argument(f"--{option}", **about)
        verb.set_defaults(sections=tuple(sections))
    args = parser.parse_args(arguments)
    for section in args.sections:
        args.section = section
        if code := run(args):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
