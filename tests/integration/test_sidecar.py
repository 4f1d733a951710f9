"""Real processes: `esrt serve`, `esrt sidecar` before it, programs that know OpenAI's API only, and a proxy between."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from esrt.config import PRESETS
from esrt.wire import frame

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]
MODEL = "ESRT-270M"
ADAPTER = PRESETS[MODEL].adapter
FRAME_BYTES = frame.size(frame.INT8, ADAPTER.queries, ADAPTER.width)


@dataclass
class Here:
    """A sidecar, what it sends to its cloud, and OpenAI's client for it."""

    process: Any
    wire: Any
    openai: OpenAI
    key: str


@pytest.fixture(scope="module")
def here(keyed_server: tuple[Any, Path], start_sidecar: Start, proxy_to: Start) -> Here:
    server, key = keyed_server
    wire = proxy_to(server.port)
    process = start_sidecar("--cloud", wire.url, "--key-file", key)
    client = OpenAI(base_url=f"{process.url}/v1", api_key="not-needed", max_retries=0, timeout=600)
    return Here(process, wire, client, key.read_text().strip())


@dataclass(frozen=True)
class Sent:
    """One HTTP request as it went over the wire."""

    line: str
    headers: dict[str, str]
    body: bytes
    bytes: int


def requests(sent: bytes) -> list[Sent]:
    """All that was sent, and nothing left over."""
    found = []
    while sent:
        head, _, rest = sent.partition(b"\r\n\r\n")
        line, *lines = head.decode("ascii").split("\r\n")
        headers = {name.lower(): value for name, value in (header.split(": ", 1) for header in lines)}
        size = int(headers.get("content-length", "0"))
        assert len(rest) >= size
        found.append(Sent(line, headers, rest[:size], len(head) + 4 + size))
        sent = rest[size:]
    return found


def test_only_frames_leave(here: Here, examples: Path) -> None:
    """Two clips of different lengths, formats and names: what leaves is as long, byte by byte, and says none of it."""
    here.wire.forget()
    sent: list[list[Sent]] = []
    said = []
    for name in ("french", "spanish"):
        clip = examples / f"{name}.flac"
        said.append(here.openai.audio.transcriptions.create(model="whisper-1", file=clip, prompt="Ada").text)
        sent.append(requests(bytes(here.wire.sent)))
        here.wire.forget()
    assert said[0] and said[1] and said[0] != said[1]
    for secret in (*said, here.key, "Traceback"):
        assert secret not in here.process.log
    for (request,) in sent:
        assert request.line == "POST /v1/translations?task=transcribe&beam=1 HTTP/1.1"
        assert len(request.body) == FRAME_BYTES
        frame.read(request.body, cap=FRAME_BYTES, queries=ADAPTER.queries, width=ADAPTER.width)
        assert request.headers == {
            "host": here.wire.url.removeprefix("http://"),
            "accept": "application/json",
            "accept-encoding": "identity",
            "connection": "keep-alive",
            "user-agent": "esrt",
            "authorization": f"Bearer {here.key}",
            "content-type": "application/octet-stream",
            "content-length": str(FRAME_BYTES),
        }
    assert sent[0][0].bytes == sent[1][0].bytes
    assert sent[0][0].headers == sent[1][0].headers and sent[0][0].body != sent[1][0].body


def test_the_same_sound_again_is_small_json(here: Here, examples: Path) -> None:
    here.openai.audio.translations.create(model=MODEL, file=examples / "russian.flac")
    here.wire.forget()
    text = here.openai.audio.translations.create(
        model=MODEL, file=examples / "russian.flac", extra_body={"to_language": "deu"}
    ).text
    (request,) = requests(bytes(here.wire.sent))
    assert text and request.headers["content-type"] == "application/json"
    assert re.fullmatch(
        rb'\{"features": "[0-9a-f]{32}", "to": \["deu"\], "task": "translate", "beam": 1\}', request.body
    )


def test_a_stream(here: Here, examples: Path) -> None:
    clip = examples / "spanish.flac"
    *deltas, done = here.openai.audio.transcriptions.create(model=MODEL, file=clip, stream=True)
    assert done.type == "transcript.text.done" and done.text
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == done.text


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(here: Here, examples: Path) -> None:
    def curl(route: str, *fields: str) -> str:
        form = [word for field in (f"file=@{examples / 'spanish.flac'}", *fields) for word in ("-F", field)]
        command = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "300",
            f"{here.process.url}/v1/audio/{route}",
            *form,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert curl("transcriptions", "model=whisper-1").startswith('{"text": "')
    srt = curl("translations", "model=whisper-1", "response_format=srt", "to_language=fra")
    assert re.match(r"1\n00:00:00,000 --> 00:00:04,7\d\d\n.+\n", srt)
    events = curl("transcriptions", "model=whisper-1", "stream=true").split("\n\n")
    assert events[0].startswith('data: {"type": "transcript.text.delta"')
    assert events[-2].startswith('data: {"type": "transcript.text.done"') and events[-1] == ""
    assert json.loads(curl("transcriptions", "model=gpt-5"))["error"]["code"] == "model_not_found"


def test_too_large_is_refused_before_it_is_read(here: Here) -> None:
    with socket.create_connection(("127.0.0.1", here.process.port), timeout=60) as connection:
        head = (
            "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x"
        )
        connection.sendall(f"{head}\r\nContent-Length: {3 << 30}\r\n\r\n".encode())
        answer = connection.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_it_listens_on_loopback_only(here: Here) -> None:
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1"}:
        if str(address).startswith("127."):
            continue
        with pytest.raises(OSError), socket.create_connection((str(address), here.process.port), timeout=5):
            pass


def test_a_wrong_start_is_one_line(run: Run, keyed_server: Any, tmp_path: Path) -> None:
    server, _ = keyed_server
    wrong = tmp_path / "wrong.key"
    wrong.write_text("not-the-key\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for options, code in [
            (["--cloud", server.url, "--key-file", wrong], "unauthorized"),
            (["--cloud", "example"], "bad_url"),
            (["--cloud", server.url, "--port", port], "port_taken"),
            (["--cloud", server.url, "--key-file", tmp_path / "none"], "key_not_readable"),
        ]:
            result = run("sidecar", *("--port", "0"), *options)
            assert result.returncode == 2 and result.stderr.endswith(f"[{code}]\n"), result.stderr
            assert len(result.stderr.splitlines()) == 1 and "Traceback" not in result.stderr


def test_it_ends_in_order(keyed_server: Any, start_sidecar: Start) -> None:
    server, key = keyed_server
    sidecar = start_sidecar("--cloud", server.url, "--key-file", key)
    client = OpenAI(base_url=f"{sidecar.url}/v1", api_key="-", max_retries=0, timeout=600)
    assert [model.id for model in client.models.list()] == [MODEL]
    assert sidecar.stop() == 0
    assert len(sidecar.log.splitlines()) == 1, "nothing but where it listens"
