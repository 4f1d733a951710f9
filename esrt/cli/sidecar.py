"""`esrt sidecar`: OpenAI's audio API on this device, so that its programs speak to a cloud without their sounds."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from typing import TYPE_CHECKING

from esrt.cli import common, serve
from esrt.cli.speech import read_key, warn_if_plain
from esrt.errors import UsageError
from esrt.wire.codecs import check_codec

if TYPE_CHECKING:
    from esrt.cli.common import Verbs

HOST = "127.0.0.1"


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "sidecar",
        "Serve OpenAI's audio API to this device's programs; only frames go to the cloud.",
        """
esrt sidecar --cloud https://esrt.example.org --key-file laptop.key
curl http://127.0.0.1:8081/v1/audio/translations -F model=whisper-1 -F file=@clip.wav -F to_language=deu
""",
    )
    parser.add_argument("--cloud", required=True, metavar="URL", help="address of `esrt serve`")
    parser.add_argument("--key-file", metavar="F", help="file with the key for --cloud, and nothing else")
    parser.add_argument("--port", type=int, default=8081, help="on loopback; 0 takes a free one (default 8081)")
    common.edge(parser)
    common.codec(parser)
    common.timing(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch the edge model, then serve until SIGINT or SIGTERM."""
    try:
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        # Other extras bring some of these too, and torch with them.
        raise UsageError(
            "not_installed", f"{error.name} is not installed: type `pip install 'esrt[sidecar]'`."
        ) from error
    warn_if_plain(args.cloud)
    key = read_key(args.key_file)
    with serve.bind(HOST, args.port) as listener:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        asyncio.run(_serve(args, key, listener))
    return 0


async def _serve(args: argparse.Namespace, key: str | None, listener: socket.socket) -> None:
    import uvicorn

    from esrt.edge.async_client import AsyncClient
    from esrt.edge.sidecar import create_app
    from esrt.translator import bar

    async with AsyncClient(args.cloud, key, timing=args.timing, codec=args.codec, edge=args.edge) as client:
        with bar() as show:
            encoder = await client.encoder(lambda done, size: show("fetching the device's half", done / size))
        check_codec(args.codec, encoder.codecs)
        name = encoder.info.name
        config = uvicorn.Config(
            create_app(client, name),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=serve.DRAIN_SECONDS,
        )
        serve.listen(listener)
        base = f"http://{HOST}:{listener.getsockname()[1]}/v1"
        print(
            f"esrt: {name} is listening on {base} for this device: OPENAI_BASE_URL={base}", file=sys.stderr, flush=True
        )
        await uvicorn.Server(config).serve(sockets=[listener])
