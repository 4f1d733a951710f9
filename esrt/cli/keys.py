"""`esrt keys`: who may ask `esrt serve`. A running server follows within a second."""

from __future__ import annotations

import argparse
import os
import sys
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
        "keys",
        "Make, list and revoke the keys of a server.",
        """
esrt keys add laptop --key-file keys.txt --out laptop.key    keys.txt gets the key's hash; without --out it is printed
esrt keys list --key-file keys.txt
esrt keys revoke laptop --key-file keys.txt              a running server forgets it within a second
""",
    )
    verb = parser.add_subparsers(metavar="add|list|revoke", required=True)
    for name, run, help in (
        ("add", _add, "make a key, print it, and add its hash to the file"),
        ("list", _list, "the names of all keys"),
        ("revoke", _revoke, "take a key out of the file"),
    ):
        one = verb.add_parser(name, help=help)
        if name != "list":
            one.add_argument("name", metavar="NAME", help="whose key it is: letters, digits, dots, dashes, underscores")
        if name == "add":
            one.add_argument("--out", metavar="FILE", help="a new file for the key, readable by you alone, not stdout")
        one.add_argument("--key-file", metavar="F", required=True, help="the server's keys: name:sha256hex a line")
        one.set_defaults(run=run)


def _add(args: argparse.Namespace) -> int:
    from esrt.cloud.key_file import add_key, revoke_key

    path = Path(args.key_file)
    key = add_key(args.name, path)
    try:
        if args.out is None:
            os.write(sys.stdout.fileno(), f"{key}\n".encode())  # what print cannot write it tries again at the end
        else:
            with os.fdopen(os.open(args.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"{key}\n")
    except OSError as error:  # nobody has the key now
        revoke_key(args.name, path)
        where = args.out or "standard output"
        raise UsageError("key_not_saved", f"{where} cannot be written ({error.strerror}): no key was made.") from error
    return 0


def _list(args: argparse.Namespace) -> int:
    from esrt.cloud.key_file import names

    for name in names(Path(args.key_file)):
        print(name)
    return 0


def _revoke(args: argparse.Namespace) -> int:
    from esrt.cloud.key_file import revoke_key

    revoke_key(args.name, Path(args.key_file))
    print(f"esrt: {args.name} is revoked; a running server forgets the key within a second", file=sys.stderr)
    return 0
