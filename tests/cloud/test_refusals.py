"""What the cloud refuses, over real sockets: bad queries, JSON and frames, and bodies too large or too slow."""

from __future__ import annotations

import hashlib
import socket
from typing import Any

import httpx
import numpy as np
import pytest

from esrt.cloud import body
from esrt.wire.codecs import Tables, encode
from esrt.wire.frame import Frame
from tests.cloud.asking import problem


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "bad_request"),
        ("to=xxx", "unknown_language"),
        ("to=deu&from=klingon", "unknown_language"),
        ("to=deu&task=sing", "bad_request"),
        ("to=deu&beam=0", "bad_request"),
        ("to=deu&beam=99", "bad_request"),
        ("to=deu&colour=red", "bad_request"),
        ("to=deu&task=transcribe", "bad_request"),
    ],
)
def test_bad_queries(ann: httpx.Client, frame_of: Any, query: str, code: str) -> None:
    problem(ann.post(f"/v1/translations?{query}", content=frame_of(4)), 400, code)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"to": ["deu"]}', b'{"features": "x", "to": ["deu"]}', b"\xff", b"[" * 10_000]
)
def test_bad_json(ann: httpx.Client, content: bytes) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    problem(ann.post("/v1/translations", content=content, headers=headers), 400, "bad_request")


def signed(content: bytes) -> bytes:
    return content + hashlib.blake2b(content, digest_size=16).digest()


def bad_frames() -> dict[str, tuple[int, bytes]]:
    tables = Tables(np.ones(24, np.float32))
    rows = np.ones((20, 24), np.float32)
    good = encode(rows, "int8", tables, bytes(range(8))).to_bytes()
    inner = good[:-16]
    narrow = encode(rows[:, :12], "int8", Tables(np.ones(12, np.float32)), bytes(range(8))).to_bytes()
    infinite = Frame(1, 20, 24, bytes(range(8)), b"\x80\x7f" * 480).to_bytes()
    return {
        "frame_truncated": (400, good[:-1]),
        "frame_bad_magic": (400, signed(b"TRSE" + inner[4:])),
        "frame_bad_version": (400, signed(inner[:4] + b"\x02" + inner[5:])),
        "frame_unknown_codec": (400, signed(inner[:5] + b"\x63" + inner[6:])),
        "frame_wrong_shape": (400, narrow),
        "frame_wrong_model": (409, encode(rows, "int8", tables, b"\0" * 8).to_bytes()),
        "frame_bad_digest": (400, good[:-1] + bytes([good[-1] ^ 1])),
        "frame_not_finite": (400, infinite),
        "frame_out_of_bounds": (400, signed(inner[:-1] + b"\x80")),
        "frame_too_large": (413, good + bytes(1000)),
    }


@pytest.mark.parametrize("code", list(bad_frames()))
def test_bad_frames(ann: httpx.Client, code: str) -> None:
    status, content = bad_frames()[code]
    problem(ann.post("/v1/translations?to=deu", content=content), status, code)
    problem(ann.put(f"/v1/features/{content[-16:].hex()}", content=content), status, code)


def raw(server: Any, head: str, content: bytes = b"") -> bytes:
    """Send bytes as they are, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall((head + f"Host: x\r\nAuthorization: Bearer {'ann' * 4}\r\n\r\n").encode() + content)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


def test_a_large_body_is_refused_before_it_is_sent(server: Any) -> None:
    """Only the head is sent: the answer cannot have waited for the body."""
    head = "POST /v1/translations?to=deu HTTP/1.1\r\nContent-Length: 9000000000\r\n"
    answer = raw(server, head)
    assert answer.startswith(b"HTTP/1.1 413") and b'"frame_too_large"' in answer
    answer = raw(server, head.replace("?to=deu", "") + "Content-Type: application/json\r\n")
    assert answer.startswith(b"HTTP/1.1 413") and b'"body_too_large"' in answer
    answer = raw(server, head.replace("POST /v1/translations?to=deu", "PUT /v1/features/x"))
    assert answer.startswith(b"HTTP/1.1 413") and b'"frame_too_large"' in answer


def test_a_body_of_unknown_length_is_counted(server: Any, ann: httpx.Client, frame_of: Any) -> None:
    frame = frame_of(4)
    whole = ann.post("/v1/translations?to=deu", content=iter([frame[:7], frame[7:]]))
    assert whole.status_code == 200
    head = "POST /v1/translations?to=deu HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
    answer = raw(server, head, b"3e8\r\n" + bytes(1000) + b"\r\n" + b"3e8\r\n" + bytes(1000))  # and never an end
    assert answer.startswith(b"HTTP/1.1 413") and b'"frame_too_large"' in answer


def test_a_body_that_does_not_come(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.2)
    answer = raw(server, "POST /v1/translations?to=deu HTTP/1.1\r\nContent-Length: 520\r\n", b"ESRT")
    assert answer.startswith(b"HTTP/1.1 408") and b'"body_too_slow"' in answer
    monkeypatch.setattr(body, "BODY_SECONDS", 30)
    monkeypatch.setattr(body, "SILENT_SECONDS", 0.2)
    answer = raw(server, "POST /v1/translations?to=deu HTTP/1.1\r\nContent-Length: 520\r\n", b"ESRT")
    assert answer.startswith(b"HTTP/1.1 408") and b'"body_too_slow"' in answer
