"""Connections on which no request comes, or not all of its head, and too many of them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from transformers import Gemma3ForCausalLM

from esrt.cloud import connections
from esrt.cloud.service import Service

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
PATIENCE = 20.0


@pytest.fixture
def server(
    serve: Callable[..., AbstractContextManager[Any]],
    make_service: Callable[..., Service],
    talking: Gemma3ForCausalLM,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with serve(make_service(talking)) as running:
        yield running


def connect(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def ended(connection: socket.socket) -> bool:
    """Whether the server closes it; what it may still have to say is read before."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, HEAD + b"\r\n" + HEAD], ids=["none", "letter", "head", "second"])
def test_silence_is_ended(server: Any, sent: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(sent)
        assert ended(connection)
    assert httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 200


def test_a_head_that_comes_in_drops_is_ended(server: Any) -> None:
    """Each byte in time, and never the whole: the time is that of the head, not of its next byte."""
    with connect(server) as connection:
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < PATIENCE:
                connection.sendall(b"x")
                time.sleep(0.05)


ENDLESS = {
    "head": (HEAD, b"X-A: " + b"a" * 1000 + b"\r\n"),
    "one header": (HEAD + b"X-A: ", b"a" * 1000),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: " + b"a" * 1000 + b"\r\n"),
    "answered": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 1000),
}


@pytest.mark.parametrize("start, more", ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_ended(server: Any, monkeypatch: pytest.MonkeyPatch, start: bytes, more: bytes) -> None:
    """The parser has no limit of its own, and gathers a header until it is whole."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 60)
    with connect(server) as connection:
        connection.sendall(start)
        with pytest.raises(OSError):
            for _ in range(100_000):
                connection.sendall(more)


def test_who_speaks_is_left_alone(server: Any, frame_of: Callable[..., bytes]) -> None:
    """A body may take longer than a head, and between two requests a connection rests."""
    frame = frame_of(1)
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(HEAD + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(0.8)
        head = f"PUT /v1/features/{frame[-16:].hex()} HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(head.encode() + f"Content-Length: {len(frame)}\r\n\r\n".encode() + frame[:100])
        time.sleep(1)
        connection.sendall(frame[100:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 201")


def test_who_does_not_read_is_ended(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that its client has stopped holds its place for a while, and not for ever."""
    monkeypatch.setattr(connections, "STUCK_SECONDS", 0.5)
    monkeypatch.setattr(connections, "HEAD_SECONDS", 60)
    get = b"GET /v1/edge/edge.onnx HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(100 * get)  # 30 MB, which fill every buffer on the way
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - began < PATIENCE:
                connection.sendall(b"G")
                time.sleep(0.05)


def test_only_so_many_connections(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 60)
    monkeypatch.setattr(connections, "most", lambda: 2)
    with connect(server), connect(server) as second:
        second.sendall(HEAD + b"\r\n")
        assert second.recv(65536).startswith(b"HTTP/1.1 200")
        with connect(server) as third:
            assert ended(third)
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        try:
            assert httpx.get(f"{server.url}/healthz", trust_env=False).status_code == 200
            return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail("the places of those who left are not free again")


def test_there_is_always_room_for_somebody() -> None:
    assert connections.most() >= 1


def test_a_limit_that_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="no such limits there")
    before, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert connections.most.__wrapped__() == max(1, before - connections.SPARE_FILES)
