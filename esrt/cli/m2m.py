"""`esrt m2m`: models that translate on the device alone: train one, make it smaller, measure one."""

from __future__ import annotations

import argparse
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
        "m2m",
        "Translate on the device alone: whisperM2M, and KVSPN which drafts for it.",
        """
esrt m2m train m2m-base --data data --run runs/m2m         again: goes on from the last checkpoint
esrt m2m prune runs/m2m/model --data data --run runs/small --layers 5 --heads 6 --units 1536
esrt m2m bench runs/m2m/model --data data                  seconds and quality on data/test.jsonl
esrt translate clip.wav --to fra --offline runs/m2m/model
""",
    )
    verb = parser.add_subparsers(metavar="train|prune|bench", required=True)

    train = verb.add_parser("train", help="run a recipe: m2m-base or m2m-medium-12")
    train.add_argument("recipe", metavar="RECIPE", help="m2m-base (a processor) or m2m-medium-12 (the paper's)")
    train.set_defaults(run=_train)

    prune = verb.add_parser("prune", help="make a smaller model, taught by the larger, and say what that cost")
    prune.add_argument("model", metavar="MODEL", help="folder of the model to make smaller")
    prune.add_argument("--layers", type=common.count, default=5, help="layers of the decoder (default 5)")
    prune.add_argument("--heads", type=common.count, default=6, help="heads of each attention (default 6)")
    prune.add_argument("--units", type=common.count, default=1536, help="units of each feed-forward (default 1536)")
    prune.add_argument("--precision", choices=("int8", "float32"), default="int8", help="of products (default int8)")
    prune.set_defaults(run=_prune)
    for one in (train, prune):
        one.add_argument("--data", required=True, metavar="DIR", help="folder of the manifests and cached features")
        one.add_argument("--run", dest="folder", required=True, metavar="DIR", help="folder for checkpoints and model")
        one.add_argument("--steps", metavar="N,N", help="steps of each stage, in place of the recipe's")

    bench = verb.add_parser("bench", help="seconds and quality on held-out clips, with and without its drafter")
    bench.add_argument("model", metavar="MODEL", help="folder of a model")
    bench.add_argument("--data", required=True, metavar="DIR", help="folder with test.jsonl")
    bench.set_defaults(run=_bench)
    for one in (prune, bench):
        one.add_argument("--clips", type=common.count, default=8, help="held-out clips a language (default 8)")


def _train(args: argparse.Namespace) -> int:
    from accelerate import PartialState

    from esrt.m2m import recipes
    from esrt.m2m.train import train

    recipe = recipes.with_steps(recipes.get(args.recipe), _steps(args))
    model = train(recipe, Path(args.data), Path(args.folder))
    if PartialState().is_main_process:
        print(model)
    return 0


def _prune(args: argparse.Namespace) -> int:
    from accelerate import PartialState

    from esrt.m2m import recipes, report, score
    from esrt.m2m.config import FILE, M2MConfig
    from esrt.m2m.model import find
    from esrt.m2m.prune import Size
    from esrt.m2m.train import train

    model = find(args.model)
    config = M2MConfig.load(model / FILE)
    recipe = recipes.with_steps(recipes.pruned(config.name), _steps(args))
    size = Size(args.layers, args.heads, args.units)
    manifest = Path(args.data) / "test.jsonl"
    # Training takes long: say now where nothing could be measured.
    score.choose(manifest, config.languages, args.clips)
    small = train(recipe, Path(args.data), Path(args.folder), model, size, args.precision)
    if PartialState().is_main_process:
        print(report.compare([model, small], manifest, args.clips))
        print(small)
    return 0


def _bench(args: argparse.Namespace) -> int:
    from esrt.m2m import report
    from esrt.m2m.model import find

    print(report.compare([find(args.model)], Path(args.data) / "test.jsonl", args.clips))
    return 0


def _steps(args: argparse.Namespace) -> list[int] | None:
    if args.steps is None:
        return None
    try:
        return [common.count(part) for part in args.steps.split(",")]
    except argparse.ArgumentTypeError as error:
        raise UsageError("usage", f"--steps: {error}.") from error
