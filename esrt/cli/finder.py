"""`esrt finder`: fit the part of a trained model that finds the spoken language."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from esrt import languages
from esrt.cli import common

if TYPE_CHECKING:
    from esrt.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "finder",
        "Fit the part of a trained model that finds the spoken language where its language model errs.",
        """
esrt finder runs/first/model --data data --manifest human,synth
esrt finder runs/first/model --data data --manifest human --clips 5000
esrt finder runs/first/model --data data --manifest human,tuxpaint --source eng,spa,fra
""",
    )
    common.trained(parser, "finder")
    parser.add_argument(
        "--clips", metavar="N", type=common.count, default=500, help="clips of a language and manifest (default 500)"
    )
    parser.add_argument(
        "--source", metavar="LANGS", type=languages.parse_list, help="languages to tell apart (default: all there)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit, and say which languages are found now."""
    from esrt.train import finder

    codes = finder.run(Path(args.model), Path(args.data), args.manifest.split(","), args.clips, args.source)
    print(f"{args.model}: finds {', '.join(codes)}")
    return 0
