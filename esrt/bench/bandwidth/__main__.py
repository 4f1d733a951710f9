"""What an utterance costs to send, as sound and as frames, and in the texts; one command a section.

How to run, from the root of a checkout (needs `pip install '.[cloud,eval,tiny]'` and openssl):

    esrt bench bandwidth bytes   --data data --clips 25
    esrt bench bandwidth quality --data data --clips 25

Each writes its section of docs/benchmarks/bandwidth.md anew. `data` is a folder with the manifest test.jsonl; without
it, the six clips of human speech of this repository are taken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from esrt.bench.page import Options, Section, reader, run

PAGE = Path("docs/benchmarks/bandwidth.md")


def bytes(args: argparse.Namespace) -> str:
    """Bytes of an utterance over a real socket."""
    from esrt.bench.bandwidth import sizes

    return sizes.run(args.model, args.data / "test.jsonl", args.clips)


def quality(args: argparse.Namespace) -> str:
    """What each format costs in the texts."""
    from esrt.bench.bandwidth import quality

    manifest, picture = args.data / "test.jsonl", args.page.with_suffix(".svg")
    return quality.run(args.model, manifest, args.clips, args.run, picture)


SHARED: Options = {
    "model": {"default": "ESRT-270M", "help": "name or folder (default ESRT-270M)"},
    "data": {"type": Path, "default": Path("examples"), "help": "folder with test.jsonl (default examples)"},
    "clips": {"type": int, "default": 25, "help": "of each language, at most (default 25)"},
}
SECTIONS: dict[Section, Options] = {
    bytes: SHARED,
    quality: {
        **SHARED,
        "run": {
            "type": Path,
            "default": Path("runs/bandwidth"),
            "help": "folder of the texts, which another run goes on from (default runs/bandwidth)",
        },
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement and writes its section; what it says is printed too."""
    return run(reader("esrt bench bandwidth", PAGE, SECTIONS).parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
