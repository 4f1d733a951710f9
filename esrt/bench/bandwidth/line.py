"""Real requests over a real socket, and how many bytes the device's side of them sends."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx

from esrt.bench.ugsd.link import Conditions, Link
from esrt.edge.client import Client
from esrt.edge.talk import Answer, Request, ask
from esrt.errors import UsageError
from esrt.wire.schemas import TranslationRequest, TranslationResponse, Usage

HOST = "127.0.0.1"
ROUTE = "/v1/translations"
JSON = "application/json"
KEY_BYTES = 32  # a key as long as those that `esrt keys` makes


class Device(Client):
    """ESRT's own client, which sends sounds too, on one connection through a counter.

    `handshake`: the bytes that opening the connection sent beside a request: TLS's, 0 without it.
    """

    def __init__(self, link: Link, trusted: ssl.SSLContext | None) -> None:
        url = link.url if trusted is None else link.url.replace("http:", "https:")
        # A connection that is closed while the next clip is made would cost another handshake.
        kept = httpx.Limits(max_connections=1, keepalive_expiry=None)
        transport = httpx.HTTPTransport(verify=trusted or True, limits=kept)
        super().__init__(url, secrets.token_urlsafe(KEY_BYTES), transport=transport)
        self._link = link
        first, again = (self._through(lambda: self._ask(Request("GET", "/healthz"))) for _ in range(2))
        self.handshake = first - again

    def frames(self, frames: Sequence[bytes], to: Sequence[str]) -> int:
        """Bytes sent for the frames of an utterance, each for all of `to`; this client has sent none of them before."""
        return self._through(lambda: [self.translate(frame, to) for frame in frames])

    def sound(self, data: bytes, kind: str, to: Sequence[str]) -> int:
        """Bytes sent for a sound of media type `kind`: as a frame is sent, once for all of `to`."""
        query = tuple(TranslationRequest("", list(to)).to_query())
        return self._through(lambda: self._ask(Request("POST", ROUTE, query, data, kind)))

    def base64(self, wav: bytes, to: Sequence[str]) -> int:
        """Bytes sent for a WAV as the paper's baseline sends it: Base64 in JSON, anew for each of `to`."""
        text = base64.b64encode(wav).decode()
        bodies = [json.dumps({"audio": text, "to": code}).encode() for code in to]
        return self._through(lambda: [self._ask(Request("POST", ROUTE, (), body, JSON)) for body in bodies])

    def _ask(self, request: Request) -> Answer:
        return self._hold(ask(self._peer, request))

    def _through(self, send: Callable[[], object]) -> int:
        before = self._link.bytes_up
        send()  # once it is answered, all of it has gone through the counter
        return self._link.bytes_up - before


@contextmanager
def cloud(tls: bool) -> Iterator[Callable[[], Device]]:
    """A cloud on loopback that reads and answers without a model; each call connects another device to it.

    Raises UsageError `openssl_missing` where a certificate is to be made and cannot be.
    """
    with ExitStack() as stack:
        server, trusted = ThreadingHTTPServer((HOST, 0), _Answers), None
        stack.callback(server.server_close)
        if tls:
            certificate = _certificate(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            trusted = ssl.create_default_context(cafile=certificate)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        link = stack.enter_context(Link(HOST, server.server_address[1], Conditions()))

        def connect() -> Device:
            device = Device(link, trusted)
            stack.callback(device.close)
            return device

        yield connect


class _Answers(BaseHTTPRequestHandler):
    """Reads each request whole and answers as a cloud does."""

    protocol_version = "HTTP/1.1"  # connections stay open

    def do_GET(self) -> None:
        self._answer(b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        in_body = self.headers["Content-Type"] == JSON
        to = [json.loads(body)["to"]] if in_body else parse_qs(urlsplit(self.path).query)["to"]
        answer = TranslationResponse("eng", "", dict.fromkeys(to, ""), "0" * 32, Usage(len(body), 0, 0.0))
        self._answer(json.dumps(answer.to_json()).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", JSON)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: there are thousands of requests."""


def _certificate(folder: Path) -> Path:
    """A certificate for loopback that signs itself, with its key, in one file."""
    if shutil.which("openssl") is None:
        raise UsageError("openssl_missing", "TLS needs a certificate, which openssl makes: install openssl.")
    file = folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=ESRT bench", "-addext", f"subjectAltName=IP:{HOST}"]
    with file.open("wb") as out:
        subprocess.run([*command, "-keyout", "-", "-out", "-"], check=True, stdout=out, stderr=subprocess.DEVNULL)
    return file
