"""Measurements of UGSD, one command a section.

How to run, from the root of a checkout (needs `pip install '.[cloud,eval,train,tiny]'`, and a drafter):

    esrt draft make ESRT-270M --to eng,deu,fra,spa --data data --manifest human,synth --run runs/draft
    python -m esrt.bench.ugsd translation --data data --draft runs/draft/model
    python -m esrt.bench.ugsd latency     --data data --draft runs/draft/model
    python -m esrt.bench.ugsd captions    --data data --draft runs/caption-draft/model --model runs/captions/model

Each writes its section of docs/benchmarks/ugsd.md anew. `data` is a folder with the manifest test.jsonl, or for
captions prosody-test.jsonl (`esrt data prosody ... --name prosody-test`); those need a model that learned them
(docs/ugsd.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esrt.bench.page import Options, Section, reader, run
from esrt.languages import parse_list

PAGE = Path("docs/benchmarks/ugsd.md")


def translation(args: argparse.Namespace) -> str:
    """Quality and bytes over gamma, gates and ranks."""
    from esrt.bench.ugsd import translation

    return translation.run(args.model, args.draft, args.data / "test.jsonl", args.clips, parse_list(args.to), args.page)


def latency(args: argparse.Namespace) -> str:
    """Seconds at round trips of 10, 50 and 200 ms."""
    from esrt.bench.ugsd import latency

    return latency.run(args.model, args.draft, args.data / "test.jsonl", args.clips, parse_list(args.to), args.gamma)


def captions(args: argparse.Namespace) -> str:
    """Captions' scores over gamma."""
    from esrt.bench.ugsd import captions

    return captions.run(args.model, args.draft, args.data / "prosody-test.jsonl", args.clips, args.page)


SHARED: dict[str, dict[str, Any]] = {
    "model": {"default": "ESRT-270M", "help": "the cloud's, name or folder (default ESRT-270M)"},
    "draft": {"required": True, "help": "the drafter's folder"},
    "data": {"type": Path, "required": True, "help": "folder with test.jsonl or prosody-test.jsonl"},
}
TO: dict[str, Any] = {"default": "eng,deu", "help": "targets (default eng,deu)"}
SECTIONS: dict[Section, Options] = {
    translation: {**SHARED, "to": TO, "clips": {"type": int, "default": 8, "help": "of each language (default 8)"}},
    captions: {**SHARED, "clips": {"type": int, "default": 50, "help": "default 50"}},
    latency: {
        **SHARED,
        "to": TO,
        "clips": {"type": int, "default": 2, "help": "of each language (default 2)"},
        "gamma": {"type": float, "default": 3.0, "help": "default 3"},
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement and writes its section; what it says is printed too."""
    return run(reader("python -m esrt.bench.ugsd", PAGE, SECTIONS).parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
