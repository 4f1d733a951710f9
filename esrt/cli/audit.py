"""`esrt audit`: what an attacker learns who holds frames."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from esrt.cli import common
from esrt.errors import UsageError

if TYPE_CHECKING:
    from esrt.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "audit",
        "Measure what an attacker learns who holds frames: trained attackers, a table of what they find, and costs.",
        """
esrt audit --data data --manifest human --test asterisk-test,fillets-test --out audit.md
esrt audit --data data --manifest human --test fillets-test --codec bf16,rvq8,rvq32+shift+gain --out audit.md
esrt audit --data data --manifest human,tuxpaint --test asterisk-test --adversary runs/private/model \\
  --codec bf16,rvq32,rvq32+adversary --quality 8 --out audit.md
""",
    )
    parser.add_argument("--data", metavar="DIR", required=True, help="folder of the manifests")
    parser.add_argument("--manifest", metavar="NAMES", required=True, help="voices and texts that attackers train on")
    parser.add_argument("--test", metavar="NAMES", required=True, help="real voices that attackers are tested on")
    parser.add_argument("--out", metavar="PAGE", required=True, help="Markdown page; its figures go beside it as JSON")
    parser.add_argument("--model", metavar="NAME", default=common.DEFAULT_MODEL, help="model name or folder")
    parser.add_argument("--adversary", metavar="NAME", help="the same, trained by esrt-270m-private: for +adversary")
    parser.add_argument(
        "--codec",
        metavar="NAMES",
        default="audio,opus16,bf16,rvq32",
        help="what is attacked: audio, opus16, a codec, or one with +gain, +shift, +adversary before it "
        "(default audio,opus16,bf16,rvq32)",
    )
    parser.add_argument("--invert", metavar="NAMES", default="", help="which of them are turned back to sound")
    parser.add_argument("--quality", type=common.count, metavar="N", help="BLEU and chrF too, of N clips a language")
    parser.add_argument("--work", metavar="DIR", default="audit", help="keeps rows and sounds (default audit)")
    for name, default, what in (
        ("speakers", 6, "synthetic voices a language to train on"),
        ("scored", 4, "others to be tested on"),
        ("each", 5, "clips of each voice"),
        ("epochs", 12, "times that an attacker sees each clip"),
        ("heard", 16, "clips turned back to sound"),
    ):
        parser.add_argument(
            f"--{name}", type=common.count, metavar="N", default=default, help=f"{what} (default {default})"
        )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Attack, and print the page."""
    from esrt.bench import privacy
    from esrt.privacy.views import parse

    views = [parse(name) for name in args.codec.split(",")]
    inverted = [parse(name) for name in args.invert.split(",") if name]
    if any("adversary" in view.defences for view in (*views, *inverted)) and not args.adversary:
        raise UsageError("no_adversary", "+adversary needs --adversary: a model that esrt-270m-private trained.")
    print(privacy.audit(args, views, inverted))
    return 0
