"""`esrt serve`: the cloud's half as an HTTP server; and new keys for it."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from esrt.cli import common
from esrt.errors import UsageError

if TYPE_CHECKING:
    from esrt.cli.common import Verbs
    from esrt.cloud.security import Keys


DRAIN_SECONDS = 30


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "serve",
        "Run the cloud's half as an HTTP server.",
        """
esrt serve --no-auth                                            for this machine alone
esrt serve --new-key laptop --key-file keys.txt > laptop.key    a new key: its hash goes into keys.txt
esrt serve --key-file keys.txt --host 0.0.0.0                   for whoever has a key
""",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one (default 8080)")
    parser.add_argument(
        "--model", default=common.DEFAULT_MODEL, metavar="NAME", help=f"name or folder (default {common.DEFAULT_MODEL})"
    )
    parser.add_argument("--key-file", metavar="F", help="the keys that may ask: name:sha256hex a line")
    parser.add_argument("--no-auth", action="store_true", help="no keys; listens on loopback only")
    parser.add_argument("--new-key", metavar="NAME", help="add a key to --key-file, print it, and end")
    parser.add_argument(
        "--cache-bytes", type=common.size, default=256 << 20, metavar="BYTES", help="features kept (default 256M)"
    )
    parser.add_argument("--engine", choices=("transformers",), default="transformers", help="what runs the LLM")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; wrong arguments and a taken port are said before the model is loaded."""
    from esrt.cloud.security import check_bind, load_keys

    if args.new_key is not None:
        if not args.key_file:
            raise UsageError("usage", "--new-key goes with --key-file: name the file that shall know the key.")
        print(new_key(args.new_key, Path(args.key_file)))
        return 0
    if bool(args.key_file) == args.no_auth:
        raise UsageError(
            "no_keys",
            "Say who may ask: --key-file F (`esrt serve --new-key NAME --key-file F > NAME.key` makes a key), or "
            "--no-auth for this machine alone.",
        )
    keys = load_keys(Path(args.key_file)) if args.key_file else None
    check_bind(args.host, keys)
    with bind(args.host, args.port) as listener:
        return _serve(args, keys, listener)


def new_key(name: str, path: Path) -> str:
    """Make a key, add its hash to the key file under `name`, and return the key: it stands nowhere else.

    Raises UsageError `usage` for a name that cannot be one, `key_exists`, or what `load_keys` finds wrong in the file.
    """
    from esrt.cloud.security import load_keys

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError("usage", f"{name[:64]!r} cannot name a key: use letters, digits, dots, dashes, underscores.")
    before = ""
    if path.exists():
        before = path.read_text(encoding="utf-8")
        if before.strip() and name in load_keys(path):
            raise UsageError("key_exists", f"{path} has a key for {name} already: choose another name or take it out.")
    key = secrets.token_urlsafe(32)
    line = f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n"
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    # Written beside and then renamed: a server that starts now reads the old file or the new one.
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(before + ("\n" if before and not before.endswith("\n") else "") + line)
    beside.replace(path)
    return key


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the address but does not listen yet. Raises UsageError `port_taken`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        raise UsageError("port_taken", f"Cannot listen on {host} port {port}: {error}.") from error
    return listener


def _serve(args: argparse.Namespace, keys: Keys | None, listener: socket.socket) -> int:
    import uvicorn

    from esrt.cloud.app import create_app
    from esrt.cloud.edge_files import EdgeFiles
    from esrt.cloud.feature_cache import FeatureCache
    from esrt.cloud.load import load_card, load_service
    from esrt.translator import prepare

    # An operator's SIGTERM is an end in order, before the server runs too; uvicorn hands it back to us after draining.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"esrt: loading {args.model}", file=sys.stderr)
    folder = prepare(args.model)
    edge = EdgeFiles(folder)
    app = create_app(load_service(folder), FeatureCache(args.cache_bytes), keys, load_card(folder, edge), edge)
    # Requests in flight get their answer before the process ends; an access log would tell who asked when.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=DRAIN_SECONDS
    )
    listener.listen()
    print(_announcement(args.host, listener.getsockname()[1], keys), file=sys.stderr, flush=True)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _announcement(host: str, port: int, keys: Keys | None) -> str:
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if keys is None:
        return f"esrt: listening on {url}, no key needed: esrt translate AUDIO --to eng --cloud {url}"
    return (
        f"esrt: listening on {url} for the keys of {', '.join(keys)}: "
        f"esrt translate AUDIO --to eng --cloud {url} --key-file {next(iter(keys))}.key"
    )
