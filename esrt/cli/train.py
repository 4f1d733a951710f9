"""`esrt train`: run one recipe, or go on with a run that was stopped."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from esrt.cli import common
from esrt.errors import UsageError

if TYPE_CHECKING:
    from esrt.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "train",
        "Run a training recipe; a run that was stopped goes on where it was.",
        """
esrt train --list                                      the recipes, their stages and tasks
esrt train esrt-270m --data data --run runs/first
esrt train esrt-270m --data data --run runs/first      again: goes on from the last checkpoint
esrt train esrt-270m --data data --run runs/more --from runs/first/model --stage III
esrt train esrt-4b --dry-run                           the memory it needs
accelerate launch -m esrt train esrt-4b --data data --run runs/4b     on all GPUs
""",
    )
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="name of a recipe")
    parser.add_argument("--data", metavar="DIR", help="folder of the manifests and cached features")
    parser.add_argument("--run", dest="folder", metavar="DIR", help="folder for checkpoints and model")
    parser.add_argument("--from", dest="start", metavar="MODEL", help="begin with the weights of this model")
    parser.add_argument("--stage", metavar="NAME", help="this stage only (0: 0a and 0b), from --run's state or --from")
    parser.add_argument("--frozen-llm", action="store_true", help="LoRA learns in no stage")
    parser.add_argument("--list", action="store_true", help="print the recipes")
    parser.add_argument("--dry-run", action="store_true", help="print the memory the recipe needs, and train nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, and say where the model is; or say what could be trained, or what it would need."""
    from esrt.train import recipes

    if args.list:
        print(recipes.table())
        return 0
    if args.recipe is None:
        raise UsageError("usage", "Name a recipe; `esrt train --list` has them all.")
    recipe = recipes.get(args.recipe, args.stage)
    if args.start is not None:
        recipe = replace(recipe, start=args.start)
    later = recipe.stages[0] != recipes.get(args.recipe).stages[0]
    if args.frozen_llm:
        recipe = recipes.frozen(recipe)
    if args.dry_run:
        from esrt.train import memory

        print(memory.table(recipe))
        return 0
    if args.data is None or args.folder is None:
        raise UsageError("usage", "Training needs --data and --run: see `esrt train --help`.")
    from esrt.train import checkpoint
    from esrt.train.run import run as train

    if later and recipe.start is None and checkpoint.place(Path(args.folder)) is None:
        text = f"There is no run in {args.folder} that --stage {args.stage} could go on from: name it, or --from MODEL."
        raise UsageError("no_run", text)
    train(recipe, Path(args.data), Path(args.folder))
    return 0
