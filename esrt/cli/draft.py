"""`esrt draft make`: a small model that drafts on the device for a large one in the cloud."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from esrt import languages
from esrt.cli import common
from esrt.errors import UsageError

if TYPE_CHECKING:
    from esrt.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "draft",
        "Make a drafter: a model without most of its LLM's layers, which learned to write as the whole one does.",
        """
esrt draft make ESRT-270M --layers 6 --to eng,deu --data data --run runs/draft --manifest human,synth
esrt translate clip.wav --to eng --draft runs/draft/model --cloud http://127.0.0.1:8080
""",
    )
    verb = parser.add_subparsers(metavar="make", required=True)
    make = verb.add_parser("make", help="drop layers and distil on the whole model's outputs")
    make.add_argument("model", metavar="MODEL", help="name or folder of the model to draft for")
    make.add_argument("--layers", type=common.count, default=6, help="layers of its LLM that stay (default 6)")
    make.add_argument("--to", required=True, metavar="LANGS", help="target languages that it shall draft")
    make.add_argument("--data", required=True, metavar="DIR", help="folder of the manifests and cached features")
    make.add_argument("--manifest", required=True, metavar="NAMES", help=common.MANIFESTS)
    make.add_argument("--run", required=True, dest="folder", metavar="DIR", help="folder for checkpoints and model")
    make.add_argument("--steps", type=common.count, default=2000, help="batches (default 2000)")
    make.add_argument("--batch", type=common.count, default=8, help="clips of a batch (default 8)")
    make.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make it, or go on making it, and say where it is."""
    from esrt.train.draft import Plan, make

    names = args.manifest.split(",")
    if len(set(names)) != len(names):
        raise UsageError("usage", "A manifest is named twice: name each once.")
    weights = dict.fromkeys(names, 1.0)
    plan = Plan(args.layers, tuple(languages.parse_list(args.to)), weights, args.steps, args.batch)
    print(make(args.model, plan, Path(args.data), Path(args.folder)))
    return 0
