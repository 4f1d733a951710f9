"""The split, with real processes: `esrt serve` in one, `esrt translate --cloud` in another, and a proxy that counts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esrt.config import PRESETS
from esrt.wire import frame

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]
ADAPTER = PRESETS["ESRT-270M"].adapter
FRAME_BYTES = frame.size(frame.INT8, ADAPTER.queries, ADAPTER.width)
MAGIC = b"ESRT\x01"
# Request lines and headers of everything a client asks for one clip.
HEADERS = 2_000


def answer(result: subprocess.CompletedProcess[str]) -> Any:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def server(start_server: Start) -> Any:
    return start_server("--no-auth", "--port", "0")


@pytest.fixture(scope="module")
def in_one_process(run: Run, examples: Path, model: Path) -> Any:
    """What both halves in one process say of the Spanish clip."""
    return answer(run("translate", examples / "spanish.flac", "--to", "eng,fra", "--model", model, "--format", "json"))


def test_only_one_small_frame_crosses_the_network(
    run: Run, examples: Path, server: Any, proxy_to: Any, in_one_process: Any
) -> None:
    proxy = proxy_to(server.port)
    command = ("translate", examples / "spanish.flac", "--cloud", proxy.url, "--format", "json", "--to")
    run(*command, "eng")  # the first time, the device fetches its half of the model
    proxy.forget()

    said = answer(run(*command, "eng,fra"))

    assert said["source"] and said["transcript"] and set(said["translations"]) == {"eng", "fra"}
    assert said["bytes"] == FRAME_BYTES
    assert FRAME_BYTES < len(proxy.sent) < FRAME_BYTES + HEADERS, "bytes from the device to the cloud"
    assert proxy.sent.count(MAGIC) == 1, "one upload serves all target languages"
    assert proxy.received < 10_000, "an answer is text, and the edge model was fetched before"
    # The spoken language, the file's name and format are nobody's business but the device's.
    for secret in (b"spa", b"from=", b"flac", b"RIFF"):
        assert secret not in proxy.sent.replace(proxy.sent[proxy.sent.index(MAGIC) :][:FRAME_BYTES], b"")
    # Through the network or not: the same frame, the same service, the same answer.
    for key in ("source", "transcript", "translations", "bytes"):
        assert said[key] == in_one_process[key]


def test_frames_of_all_clips_have_one_size(run: Run, examples: Path, server: Any) -> None:
    clips = [examples / f"{name}.flac" for name in ("french", "russian", "spanish")]
    result = run("transcribe", *clips, "--cloud", server.url, "--format", "json")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["audio"] for row in rows] == [str(clip) for clip in clips]
    assert {row["bytes"] for row in rows} == {FRAME_BYTES}
    assert len({row["transcript"] for row in rows}) == 3


@pytest.mark.parametrize(("codec", "number"), [("bf16", frame.BF16), ("rvq32", frame.RVQ32)])
def test_the_codec_is_chosen_on_the_device(run: Run, examples: Path, server: Any, codec: str, number: int) -> None:
    said = answer(
        run("transcribe", examples / "french.flac", "--cloud", server.url, "--codec", codec, "--format", "json")
    )
    assert said["bytes"] == frame.size(number, ADAPTER.queries, ADAPTER.width)
    assert said["source"] == "fra" and said["transcript"]


def test_killing_the_server_between_two_requests_loses_nothing(
    run: Run, examples: Path, start_server: Start, proxy_to: Any
) -> None:
    """One `esrt translate` of two files; the server dies after the first answer and comes back empty."""
    server = start_server("--no-auth", "--port", "0")
    # The device's address for the cloud stays, whatever port the next server gets.
    proxy = proxy_to(server.port)
    clips = [examples / "french.flac", examples / "russian.flac"]
    command = ["translate", *map(str, clips), "--to", "eng", "--cloud", proxy.url, "--format", "json"]
    client = subprocess.Popen(
        [sys.executable, "-m", "esrt", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    first = json.loads(client.stdout.readline())
    server.kill()
    again = start_server("--no-auth", "--port", "0")
    proxy.port = again.port
    rest, errors = client.communicate(timeout=300)

    assert client.returncode == 0, errors
    second = json.loads(rest)
    assert [first["audio"], second["audio"]] == [str(clip) for clip in clips]
    assert first["translations"]["eng"] and second["translations"]["eng"]
    assert first["transcript"] != second["transcript"]


def test_features_that_the_cloud_forgot_are_uploaded_again(
    model: Path, examples: Path, start_server: Start, proxy_to: Any
) -> None:
    from esrt.audio.io import load
    from esrt.edge.client import Client
    from esrt.edge.encoder import Encoder
    from esrt.wire import codecs

    encoder = Encoder(model / "edge.onnx")
    rows = encoder.encode(load(examples / "french.flac"))
    features = codecs.encode(rows, "int8", encoder.tables, encoder.fingerprint).to_bytes()
    server = start_server("--no-auth", "--port", "0")
    proxy = proxy_to(server.port)
    client = Client(proxy.url)

    first = client.translate(features, to=["eng"])
    assert proxy.sent.count(MAGIC) == 1
    client.translate(features, to=["spa"])
    assert proxy.sent.count(MAGIC) == 1, "known features are named, not sent again"
    server.kill()
    proxy.port = start_server("--no-auth", "--port", "0").port
    again = client.translate(features, to=["eng"])
    assert proxy.sent.count(MAGIC) == 2
    assert (again.transcript, again.translations) == (first.transcript, first.translations)


def test_a_server_ends_in_order(start_server: Start) -> None:
    server = start_server("--no-auth", "--port", "0")
    with urllib.request.urlopen(f"{server.url}/readyz", timeout=60) as ready:
        assert ready.status == 200
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 30
    assert "Traceback" not in server.log
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{server.url}/readyz", timeout=5)


def test_the_log_holds_no_text_and_no_key(run: Run, examples: Path, keyed_server: Any) -> None:
    server, key = keyed_server
    clip = examples / "spanish.flac"
    said = answer(run("translate", clip, "--to", "eng", "--cloud", server.url, "--key-file", key, "--format", "json"))
    for secret in (said["transcript"], said["translations"]["eng"], key.read_text().strip()):
        assert secret and secret not in server.log
