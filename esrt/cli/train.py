"""`esrt train`: run one recipe, or go on with a run that was stopped."""

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
        "train",
        "Run a training recipe; a run that was stopped goes on where it was.",
        """
esrt train esrt-270m --data data --run runs/first
esrt train esrt-270m --data data --run runs/first    # again: goes on from the last checkpoint
""",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe (docs/training.md tells of them)")
    parser.add_argument("--data", metavar="DIR", required=True, help="folder of the manifests and cached features")
    parser.add_argument("--run", dest="folder", metavar="DIR", required=True, help="folder for checkpoints and model")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, and say where the model is."""
    from esrt.train.run import run as train

    print(train(args.recipe, Path(args.data), Path(args.folder)))
    return 0
