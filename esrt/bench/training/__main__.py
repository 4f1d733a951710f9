"""Measurements of training, one command a section.

How to run, from the root of a checkout (needs `pip install '.[train,eval,tiny]'`):

    python -m esrt.bench.training throughput --data data --steps 20
    python -m esrt.bench.training memory     --data data --steps 1000
    python -m esrt.bench.training expected   --data data --steps 5
    python -m esrt.bench.training score      --data data --model runs/first/model --clips 100
    python -m esrt.bench.training voices     --data data --model runs/first/model
    python -m esrt.bench.training beams      --data data --model runs/first/model --clips 10
    python -m esrt.bench.training speakers   --data data
    python -m esrt.bench.training starts     --data data --seconds 1200
    python -m esrt.bench.training ablation   --data data --share 0.5

Each writes its section of docs/benchmarks/training.md anew. `data` is the folder that the recipe trains on; manifests
that it has no need of are left alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esrt.bench.page import Options, Section, reader, run
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

    return score.run(args.model, args.data / f"{args.manifest}.jsonl", args.clips, args.codec)


def voices(args: argparse.Namespace) -> str:
    """The same of held-out prompts by people whom no training has heard."""
    return score(args)


def beams(args: argparse.Namespace) -> str:
    """Greedy decoding and five beams on the same clips."""
    from esrt.bench.training import beams

    return beams.run(args.model, args.data / f"{args.manifest}.jsonl", args.clips, args.codec)


def speakers(args: argparse.Namespace) -> str:
    """How clearly the programs speak that make clips from text."""
    from esrt.bench.training import speakers

    return speakers.run(args.data / "test.jsonl", args.clips)


def starts(args: argparse.Namespace) -> str:
    """Starts and losses of an adapter at equal cost."""
    from esrt.bench.training import starts

    return starts.run(recipes.get(args.recipe), args.data, args.seconds, args.page.with_name("training-starts.svg"))


def ablation(args: argparse.Namespace) -> str:
    """Each stage, and LoRA, left out."""
    from esrt.bench.training import ablation

    return ablation.run(recipes.get(args.recipe), args.data, args.share)


DATA: dict[str, Any] = {"type": Path, "required": True, "help": "folder of manifests and cached features"}
RECIPE: dict[str, dict[str, Any]] = {"data": DATA, "recipe": {"default": "esrt-270m", "help": "default esrt-270m"}}
MODEL: dict[str, dict[str, Any]] = {
    "data": DATA,
    "model": {"default": "ESRT-270M", "help": "name or folder (default ESRT-270M)"},
    "manifest": {"default": "test", "help": "default test"},
    "codec": {"default": "int8", "help": "default int8"},
}


def _number(default: int | float, about: str = "") -> dict[str, Any]:
    return {"type": type(default), "default": default, "help": f"{about}default {default}"}


EACH = {"clips": _number(100, "of each language, ")}
SECTIONS: dict[Section, Options] = {
    throughput: {**RECIPE, "steps": _number(20)},
    memory: {**RECIPE, "steps": _number(1000)},
    expected: {**RECIPE, "steps": _number(5)},
    score: {**MODEL, **EACH},
    voices: {**MODEL, "manifest": {"default": "asterisk-voices", "help": "default asterisk-voices"}, **EACH},
    beams: {**MODEL, "clips": _number(10, "of each language, ")},
    speakers: {"data": DATA, "clips": _number(24, "of each language, ")},
    starts: {**RECIPE, "seconds": _number(1200.0)},
    ablation: {**RECIPE, "share": _number(0.5)},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement and writes its section; what it says is printed too."""
    return run(reader("python -m esrt.bench.training", PAGE, SECTIONS).parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
