"""`esrt languages`: the table of languages."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from esrt.cli import common
from esrt.languages import LANGUAGES

if TYPE_CHECKING:
    from esrt.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "languages",
        "List the 102 languages that have a tag, and which 45 of them the paper trains on.",
        """
esrt languages
esrt languages | grep high
""",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print one line a language; `-` stands where the paper says nothing of it."""
    rows = [("CODE", "BCP 47", "NAME", "FAMILY", "RESOURCES")]
    rows += [(each.code, each.bcp47, each.name, each.family or "-", each.tier or "-") for each in LANGUAGES.values()]
    for code, bcp47, name, family, tier in rows:
        print(f"{code:<6}{bcp47:<8}{name:<18}{family:<16}{tier}")
    return 0
