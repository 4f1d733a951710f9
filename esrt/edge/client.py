"""A client of the cloud over HTTP: blocking, safe to share between threads. What is said is in `exchange`."""

from __future__ import annotations

import ipaddress
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

import httpx

from esrt import languages
from esrt.edge import exchange
from esrt.edge.exchange import Answer, Lost, Peer, Talk, Value, one_line
from esrt.errors import CloudError, ModelError, UsageError
from esrt.model.manifest import sha256
from esrt.wire.schemas import EdgeFile, ModelCard, TranslationRequest, TranslationResponse, models_from_json

TIMEOUT_SECONDS = 120.0
CONNECT_SECONDS = 10.0
ANSWER_CAP = 8 << 20
_CHUNK = 1 << 20


class Client:
    """One cloud. Use it in a `with`, or call `close` when done.

    `bytes_sent` and `bytes_received` count HTTP as it is before TLS, heads and bodies, of every attempt.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        transport: httpx.BaseTransport | None = None,
        patience: float = 60.0,
    ) -> None:
        """`timeout`: seconds until an answer must begin; `patience`: seconds to keep asking a cloud that went away.

        Raises UsageError `bad_url` or `bad_key`.
        """
        base = _base(url)
        headers = {"User-Agent": "esrt", "Accept": "application/json", "Accept-Encoding": "identity"}
        if key is not None:
            if not re.fullmatch(r"[!-~]+", key.strip()):
                raise UsageError("bad_key", "A key is one word of plain characters: check the key file.")
            headers["Authorization"] = f"Bearer {key.strip()}"
        self._http = httpx.Client(
            base_url=base,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            transport=transport,
            # A cookie would let a cloud tell devices of one key apart.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            # No proxy of the environment leads to this device's own loopback.
            trust_env=not _is_loopback(base.host),
        )
        self._timeout = timeout
        self._peer = Peer(str(base.copy_with(username=None, password=None)).rstrip("/"), patience)
        self._lock = threading.Lock()
        self.bytes_sent = 0
        self.bytes_received = 0

    def translate(
        self,
        frame: bytes,
        to: Sequence[str],
        source: str | None = None,
        task: Literal["translate", "transcribe"] = "translate",
        beam: int = 1,
    ) -> TranslationResponse:
        """The answer to one frame, in one round trip. Languages are codes that `languages.get` knows.

        A frame that the cloud holds already is not sent again, unless the cloud forgot it. The frame is tried until it
        is answered or `patience` ends. Raises UsageError `unknown_language`, FrameError, CloudError.
        """
        targets = list(dict.fromkeys(languages.get(code).code for code in to))
        spoken = languages.get(source).code if source is not None else None
        return self._hold(exchange.translation(self._peer, frame, TranslationRequest("", targets, spoken, task, beam)))

    def upload(self, frame: bytes) -> str:
        """Store one frame in the cloud, to be translated later; returns the features' id. Raises as `translate`."""
        return self._hold(exchange.upload(self._peer, frame))

    def models(self) -> list[ModelCard]:
        """What the cloud serves, at least one. Raises CloudError."""
        cards = models_from_json(self._hold(exchange.ask(self._peer, exchange.Request("GET", "/v1/models"))).body)
        if not cards:
            raise CloudError("bad_response", "The cloud serves no model: ask whoever runs it.")
        return cards

    def download_edge(self, folder: str | Path, progress: Callable[[int, int], None] | None = None) -> Path:
        """The edge model that belongs to this cloud, in `folder`; downloaded if it is not there whole already.

        The file's name holds its SHA-256, so models of several clouds share a folder. `progress` is told bytes so far
        and in all. Raises CloudError, or ModelError `edge_not_saved`.
        """
        edge = self.models()[0].edge
        if not re.fullmatch(r"[0-9a-f]{64}", edge.sha256):  # part of a file's name here
            raise CloudError("bad_response", "The cloud's answer cannot be read: `edge.sha256` must be 64 hex digits.")
        path = Path(folder) / f"edge-{edge.sha256[:16]}.onnx"
        try:
            if not path.is_file() or sha256(path) != edge.sha256:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._download(edge, path, progress)
        except OSError as error:
            reason = error.strerror or error
            raise ModelError("edge_not_saved", f"The edge model cannot be kept in {folder}: {reason}.") from error
        return path

    def wait_ready(self, seconds: float) -> None:
        """Return once the cloud is ready. Raises CloudError if it is not within `seconds`."""
        self._hold(exchange.readiness(self._peer, seconds))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _download(self, edge: EdgeFile, path: Path, progress: Callable[[int, int], None] | None) -> None:
        """Write beside `path`, check, then rename: what has the name is whole."""
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".edge-", delete=False) as file:
            beside = Path(file.name)
            try:
                sink = _Sink(file, edge.bytes, progress)
                self._hold(exchange.ask(self._peer, exchange.Request("GET", f"/v1/edge/{edge.file}")), sink)
                file.close()
                if sha256(beside) != edge.sha256:
                    raise CloudError("edge_model_damaged", "The edge model was damaged on its way: download it again.")
                beside.replace(path)
            finally:
                file.close()
                beside.unlink(missing_ok=True)

    def _hold(self, talk: Talk[Value], sink: _Sink | None = None) -> Value:
        """Hold a conversation to its end. A body of success goes into `sink` if there is one."""
        heard: Answer | Lost | None = None
        while True:
            try:
                step = talk.send(heard)
            except StopIteration as end:
                value: Value = end.value
                return value
            if isinstance(step, exchange.Pause):
                time.sleep(step.seconds)
                heard = None
            else:
                heard = self._send(step, sink)

    def _send(self, what: exchange.Request, sink: _Sink | None) -> Answer | Lost:
        kind = {"Content-Type": what.kind} if what.kind else {}
        request = self._http.build_request(
            what.method, what.path.lstrip("/"), params=what.query or None, content=what.body or None, headers=kind
        )
        size = _size_sent(request)
        self._count(sent=size)
        try:
            response = self._http.send(request, stream=True)
            try:
                into = sink if sink is not None and response.is_success else _Sink()
                into.fill(response)
            finally:
                response.close()
                self._count(received=_size_received(response))
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status_code, headers, into.body)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            self._count(sent=-size)
            return Lost(one_line(str(error)) or "no connection")
        except httpx.TimeoutException:
            return Lost(f"over {self._timeout:g} s", late=True)
        except httpx.TransportError as error:
            return Lost(one_line(str(error)) or "the connection was lost")

    def _count(self, sent: int = 0, received: int = 0) -> None:
        with self._lock:
            self.bytes_sent += sent
            self.bytes_received += received


class _Sink:
    """Where a body goes: a file of `size` bytes, or memory. Never more than that, whatever the other side sends."""

    def __init__(
        self, file: IO[bytes] | None = None, size: int = ANSWER_CAP, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._file = file
        self._size = size
        self._progress = progress
        self.body = b""

    def fill(self, response: httpx.Response) -> None:
        """Read the whole body, from its start on each attempt."""
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
        chunks = []
        count = 0
        for chunk in response.iter_raw(_CHUNK):
            count += len(chunk)
            if count > self._size:
                raise CloudError("bad_response", "The cloud's answer is larger than any should be. Is its URL right?")
            if self._file is None:
                chunks.append(chunk)
            else:
                self._file.write(chunk)
            if self._progress is not None:
                self._progress(count, self._size)
        self.body = b"".join(chunks)


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


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _size_sent(request: httpx.Request) -> int:
    line = len(request.method) + 1 + len(request.url.raw_path) + len(" HTTP/1.1\r\n")
    return line + _size_headers(request.headers) + len(request.content)


def _size_received(response: httpx.Response) -> int:
    reason: bytes = response.extensions.get("reason_phrase", b"")
    line = len("HTTP/1.1 200 \r\n") + len(reason)
    return line + _size_headers(response.headers) + response.num_bytes_downloaded


def _size_headers(headers: httpx.Headers) -> int:
    return sum(len(name) + len(value) + len(": \r\n") for name, value in headers.raw) + len("\r\n")
