"""`esrt serve`: the cloud's half as an HTTP server."""

from __future__ import annotations

import argparse
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from esrt.cli import common
from esrt.errors import CloudError, UsageError

if TYPE_CHECKING:
    from esrt.cli.common import Verbs
    from esrt.cloud.feature_cache import FeatureCache
    from esrt.cloud.security import Keys


DRAIN_SECONDS = 30


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "serve",
        "Run the cloud's half as an HTTP server.",
        """
esrt serve --no-auth                             for this machine alone
esrt keys add laptop --key-file keys.txt --out laptop.key
esrt serve --key-file keys.txt --host 0.0.0.0    for whoever has a key
esrt serve --key-file keys.txt --engine vllm -- --tensor-parallel-size 2
""",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one (default 8080)")
    parser.add_argument(
        "--model", default=common.DEFAULT_MODEL, metavar="NAME", help=f"name or folder (default {common.DEFAULT_MODEL})"
    )
    parser.add_argument("--key-file", metavar="F", help="the keys that may ask: name:sha256hex a line")
    parser.add_argument("--no-auth", action="store_true", help="no keys; listens on loopback only")
    parser.add_argument("--tls-cert", metavar="F", help="certificate chain in PEM: speak https")
    parser.add_argument("--tls-key", metavar="F", help="the certificate's private key in PEM")
    parser.add_argument(
        "--rate", type=common.count, default=600, metavar="N", help="requests a minute of one key (default 600)"
    )
    parser.add_argument(
        "--concurrent", type=common.count, default=64, metavar="N", help="requests of one key at once (default 64)"
    )
    parser.add_argument(
        "--queue", type=common.count, default=256, metavar="N", help="translations under way at most (default 256)"
    )
    parser.add_argument(
        "--deadline", type=common.count, default=120, metavar="SECONDS", help="for one translation (default 120)"
    )
    parser.add_argument(
        "--cache", default="memory", metavar="WHERE", help="keeps features: memory (default), a folder, or redis://..."
    )
    parser.add_argument(
        "--cache-bytes",
        type=common.size,
        default=256 << 20,
        metavar="BYTES",
        help="features kept in memory or the folder (default 256M)",
    )
    parser.add_argument(
        "--retention",
        type=common.count,
        default=3600,
        metavar="SECONDS",
        help="features are kept so long (default 3600)",
    )
    parser.add_argument(
        "--engine",
        choices=("transformers", "vllm"),
        default="transformers",
        help="what runs the LLM: transformers (anywhere, default) or vllm (many users; docs/engines.md)",
    )
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="after --: vLLM's own flags")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; wrong arguments and a taken port are said before the model is loaded.

    Raises CloudError `engine_failed` where the engine ended first.
    """
    from esrt.cloud.feature_cache import open_cache
    from esrt.cloud.key_file import KeyFile
    from esrt.cloud.security import check_bind

    if bool(args.key_file) == args.no_auth:
        raise UsageError(
            "no_keys",
            "Say who may ask: --key-file F (`esrt keys add NAME --key-file F --out NAME.key` makes a key), or "
            "--no-auth for this machine alone.",
        )
    keys = KeyFile(Path(args.key_file)).keys if args.key_file else None
    check_bind(args.host, keys and keys())
    tls = check_tls(args.tls_cert, args.tls_key)
    with bind(args.host, args.port) as listener:
        return _serve(args, keys, tls, listener, open_cache(args.cache, args.cache_bytes, args.retention))


def check_tls(cert: str | None, key: str | None) -> tuple[str, str] | None:
    """The files of a certificate and its key, or None where neither is named. Raises UsageError `tls_files`."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UsageError("tls_files", "--tls-cert and --tls-key go together: name both files.")
    try:
        # An empty password, or OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, "")
    except OSError as error:  # an ssl.SSLError is one
        reason = error.strerror if not isinstance(error, ssl.SSLError) else error.reason or "not readable as PEM"
        raise UsageError(
            "tls_files",
            f"{cert} and {key} are no certificate and its key ({reason}): both in PEM, the key without a password.",
        ) from error
    return cert, key


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


def listen(listener: socket.socket) -> None:
    """From now on connections wait to be accepted. Raises UsageError `port_taken` where another came first."""
    try:
        listener.listen()
    except OSError as error:
        port = listener.getsockname()[1]
        raise UsageError("port_taken", f"Another server listens on port {port} already: choose another.") from error


def _serve(
    args: argparse.Namespace,
    keys: Callable[[], Keys] | None,
    tls: tuple[str, str] | None,
    listener: socket.socket,
    cache: FeatureCache,
) -> int:
    from esrt.cloud.app import load_app
    from esrt.cloud.limits import Limits
    from esrt.cloud.load import starter
    from esrt.cloud.server import Server
    from esrt.translator import prepare

    # An operator's SIGTERM is an end in order, before the server runs too; uvicorn hands it back to us after draining.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"esrt: loading {args.model}", file=sys.stderr)
    limits = Limits(args.rate, args.concurrent, args.queue, args.deadline)
    start = starter(args.engine, args.flags)
    app = load_app(prepare(args.model), cache, keys, limits, start)
    listen(listener)
    host = f"[{args.host}]" if ":" in args.host else args.host
    url = f"{'http' if tls is None else 'https'}://{host}:{listener.getsockname()[1]}"
    print(_announcement(url, keys and keys()), file=sys.stderr, flush=True)
    Server(app, DRAIN_SECONDS, tls).run(sockets=[listener])
    if app.state.engine.failed:
        raise CloudError("engine_failed", "The engine has ended by itself: start the server again.")
    return 0


def _announcement(url: str, keys: Keys | None) -> str:
    if keys is None:
        return f"esrt: listening on {url}, no key needed: esrt translate AUDIO --to eng --cloud {url}"
    return (
        f"esrt: listening on {url} for the keys of {', '.join(keys)}: "
        f"esrt translate AUDIO --to eng --cloud {url} --key-file {next(iter(keys), 'NAME')}.key"
    )
