"""`esrt codebooks`: train the tables of the codecs int4, rvq8, rvq16 and rvq32 for a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from esrt.cli import common

if TYPE_CHECKING:
    from esrt.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "codebooks",
        "Train the codebooks of a model's smallest frames (int4, rvq8, rvq16, rvq32); its fingerprint changes.",
        """
esrt codebooks runs/first/model --data data --manifest human,synth
esrt codebooks runs/first/model --data data --manifest human --clips 5000
""",
    )
    common.trained(parser, "codebooks")
    parser.add_argument(
        "--clips", metavar="N", type=common.count, default=2000, help="clips of each manifest (default 2000)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, and say which codecs the model has now."""
    from esrt.model.checkpoint import load_tables
    from esrt.train import codebooks

    folder = Path(args.model)
    codebooks.run(folder, Path(args.data), args.manifest.split(","), args.clips)
    print(f"{folder}: {', '.join(load_tables(folder).codecs)}")
    return 0
