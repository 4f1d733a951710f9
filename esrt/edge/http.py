"""What the blocking client and the asynchronous one share: settings, what is counted, what an error means."""

from __future__ import annotations

import re
import ssl
import threading
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx

from esrt.edge.talk import Answer, Lost, Peer, Request, one_line
from esrt.errors import CloudError, UsageError
from esrt.wire.local import is_loopback

TIMEOUT_SECONDS = 120.0
PATIENCE_SECONDS = 60.0
CONNECT_SECONDS = 10.0
ANSWER_CAP = 8 << 20

AnyClient = TypeVar("AnyClient", httpx.Client, httpx.AsyncClient)


class Line:
    """The way to one cloud.

    `bytes_sent` and `bytes_received` count HTTP as it is before TLS, heads and bodies, of every attempt.
    """

    def __init__(
        self, url: str, key: str | None, timeout: float, patience: float, connect: float = CONNECT_SECONDS
    ) -> None:
        """Raises UsageError `bad_url` or `bad_key`, and where it is opened `bad_certificates`."""
        self._base = _base(url)
        self._key = key.strip() if key is not None else None
        if self._key is not None and not re.fullmatch(r"[!-~]+", self._key):
            raise UsageError("bad_key", "A key is one word of plain characters: check the key file.")
        self._timeout, self._connect = timeout, min(timeout, connect)
        self._peer = Peer(str(self._base.copy_with(username=None, password=None)).rstrip("/"), patience)
        self._lock = threading.Lock()
        self.bytes_sent = 0
        self.bytes_received = 0

    def _open(self, kind: type[AnyClient], transport: Any) -> AnyClient:
        headers = {"User-Agent": "esrt", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        return kind(
            base_url=self._base,
            headers=headers,
            timeout=httpx.Timeout(self._timeout, connect=self._connect),
            transport=transport,
            # A cookie would let a cloud tell devices of one key apart.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            verify=_certificates(),
            # No proxy of the environment leads to this device's own loopback.
            trust_env=not is_loopback(self._base.host),
        )

    def _begin(self, http: httpx.Client | httpx.AsyncClient, what: Request) -> httpx.Request:
        """The request that is sent now; it counts as sent."""
        headers = {"Content-Type": what.kind} if what.kind else {}
        if what.sink is not None:
            headers |= what.sink.headers()
        request = http.build_request(
            what.method, what.path.lstrip("/"), params=what.query or None, content=what.body or None, headers=headers
        )
        self._count(sent=_size_sent(request))
        return request

    def _body(self, what: Request, response: httpx.Response) -> Body:
        """What takes the response's body."""
        return Body(what, response)

    def _end(self, response: httpx.Response) -> None:
        """The response is over, whole or not."""
        self._count(received=_size_received(response))

    def _lost(self, request: httpx.Request, error: httpx.TransportError) -> Lost:
        """What it means that there is no answer."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            self._count(sent=-_size_sent(request))
            return Lost(one_line(str(error)) or "no connection", unreached=True)
        if isinstance(error, httpx.TimeoutException):
            return Lost(f"over {self._timeout:g} s", late=True)
        return Lost(one_line(str(error)) or "the connection was lost")

    def _count(self, sent: int = 0, received: int = 0) -> None:
        with self._lock:
            self.bytes_sent += sent
            self.bytes_received += received


class Body:
    """A response's body on its way: into the request's sink, or into memory up to ANSWER_CAP."""

    def __init__(self, what: Request, response: httpx.Response) -> None:
        self._response = response
        self._sink = what.sink if response.is_success else None
        self._chunks: list[bytes] = []
        self._size = 0
        if self._sink is not None:
            self._sink.begin(response.status_code)

    def take(self, chunk: bytes) -> None:
        """The next bytes. Raises CloudError `bad_response` when they are too many."""
        if self._sink is not None:
            self._sink.take(chunk)
            return
        self._size += len(chunk)
        if self._size > ANSWER_CAP:
            raise too_large()
        self._chunks.append(chunk)

    def answer(self) -> Answer:
        """What the cloud said, once the body is whole."""
        headers = {name.lower(): value for name, value in self._response.headers.items()}
        return Answer(self._response.status_code, headers, b"".join(self._chunks))


def too_large() -> CloudError:
    """A body that does not end."""
    return CloudError("bad_response", "The cloud's answer is larger than any should be. Is its URL right?")


def _base(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url.strip().rstrip("/") + "/")
    except httpx.InvalidURL:
        base = httpx.URL("")
    if base.scheme not in ("http", "https") or not base.host:
        raise UsageError(
            "bad_url", f"{one_line(url)!r} is not a cloud's address: give one such as https://example.org."
        )
    return base


def _certificates() -> ssl.SSLContext:
    """Whom to trust: the public authorities, or those that SSL_CERT_FILE or SSL_CERT_DIR names, on loopback too."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # an ssl.SSLError is one
        raise UsageError(
            "bad_certificates", "SSL_CERT_FILE or SSL_CERT_DIR names no certificates in PEM: correct or unset it."
        ) from error


def is_plain(url: str) -> bool:
    """Whether what goes to this address can be read on the way."""
    base = _base(url)
    return base.scheme == "http" and not is_loopback(base.host)


def _size_sent(request: httpx.Request) -> int:
    line = len(request.method) + 1 + len(request.url.raw_path) + len(" HTTP/1.1\r\n")
    return line + _size_headers(request.headers) + len(request.content)


def _size_received(response: httpx.Response) -> int:
    reason: bytes = response.extensions.get("reason_phrase", b"")
    line = len("HTTP/1.1 200 \r\n") + len(reason)
    return line + _size_headers(response.headers) + response.num_bytes_downloaded


def _size_headers(headers: httpx.Headers) -> int:
    return sum(len(name) + len(value) + len(": \r\n") for name, value in headers.raw) + len("\r\n")
