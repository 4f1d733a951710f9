"""Measurements of training, one command a section.

How to run, from the root of a checkout (needs `pip install 'esrt[train,eval,tiny]'`):

    python -m esrt.bench.training throughput --data data --steps 20
    python -m esrt.bench.training memory     --data data --steps 1000
    python -m esrt.bench.training expected   --data data --steps 5
    python -m esrt.bench.training score      --data data --model runs/first/model --clips 100
    python -m esrt.bench.training starts     --data data --seconds 1200
    python -m esrt.bench.training ablation   --data data --share 0.5

Each writes its section of docs/benchmarks/training.md anew. `data` is the folder that the recipe trains on; manifests
that it has no need of are left alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from esrt.bench.page import run
from esrt.train import recipes

PAGE = Path("docs/benchmarks/training.md")


def throughput(args: argparse.Namespace) -> str:
    """Samples a second beside a plain loop."""
    from esrt.bench.training import throughput

    return throughput.run(recipes.get(args.recipe), args.data, args.steps)


def memory(args: argparse.Namespace) -> str:
    """Memory over many steps."""
    from esrt.bench.training import memory

    return memory.flat(recipes.get(args.recipe), args.data, args.steps, args.page.with_name("training-memory.svg"))


def expected(args: argparse.Namespace) -> str:
    """Real memory beside `esrt train --dry-run`."""
    from esrt.bench.training import memory

    return memory.expected(recipes.get(args.recipe), args.data, args.steps)


def score(args: argparse.Namespace) -> str:
    """Translations of held-out clips, beside Whisper's."""
    from esrt.bench.training import score

    return score.run(args.model, args.data / f"{args.manifest}.jsonl", args.clips, args.codec, args.beam)


def starts(args: argparse.Namespace) -> str:
    """Starts and losses of an adapter at equal cost."""
    from esrt.bench.training import starts

    return starts.run(recipes.get(args.recipe), args.data, args.seconds, args.page.with_name("training-starts.svg"))


def ablation(args: argparse.Namespace) -> str:
    """Each stage, and LoRA, left out."""
    from esrt.bench.training import ablation

    return ablation.run(recipes.get(args.recipe), args.data, args.share)


SECTIONS: dict[Callable[[argparse.Namespace], str], dict[str, object]] = {
    throughput: {"steps": 20},
    memory: {"steps": 1000},
    expected: {"steps": 5},
    score: {"model": "ESRT-270M", "manifest": "test", "clips": 100, "codec": "int8", "beam": 1},
    starts: {"seconds": 1200.0},
    ablation: {"share": 0.5},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement and writes its section; what it says is printed too."""
    parser = argparse.ArgumentParser(prog="python -m esrt.bench.training", allow_abbrev=False)
    verbs = parser.add_subparsers(metavar="SECTION", required=True)
    for section, options in SECTIONS.items():
        verb = verbs.add_parser(section.__name__, help=section.__doc__)
        verb.add_argument("--data", type=Path, required=True, help="folder of manifests and cached features")
        verb.add_argument("--page", type=Path, default=PAGE, help=f"Markdown page with the section (default {PAGE})")
        for name, default in options.items():
            verb.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default}")
        if section is not score:
            verb.add_argument("--recipe", default="esrt-270m", help="default esrt-270m")
        verb.set_defaults(section=section)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
