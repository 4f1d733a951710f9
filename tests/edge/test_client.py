"""The client against a real server on a real socket: one that forgets, is busy, is slow, dies and comes back."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from esrt.errors import CloudError, FrameError, UsageError
from esrt.wire.frame import read
from tests.edge.answers import problem, refused

NewFrame = Callable[[int], bytes]
Connect = Callable[..., Any]
TRANSLATE = "POST /v1/translations"


def test_one_round_trip(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    with connect(cloud.url, key="secret\n") as client:
        answer = client.translate(new_frame(1), to=["de", "fra", "deu"])
    assert (answer.source, answer.transcript) == ("spa", "uno 1")
    assert answer.translations == {"deu": "deu 1", "fra": "fra 1"}
    assert answer.features == read(new_frame(1), cap=1_000).id
    (seen,) = cloud.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/translations", new_frame(1))
    assert sorted(seen.query) == [("beam", "1"), ("task", "translate"), ("to", "deu"), ("to", "fra")]
    assert seen.headers["authorization"] == "Bearer secret"
    assert seen.headers["content-type"] == "application/octet-stream"
    assert seen.headers["user-agent"] == "esrt", "nothing of the device"


def test_known_features_are_named_and_not_sent_again(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    client = connect(cloud.url)
    client.translate(new_frame(1), ["deu"])
    client.translate(new_frame(1), ["fra"], source="es", beam=5)
    client.translate(new_frame(1), [], task="transcribe")
    client.translate(new_frame(2), ["deu"])
    first, second, third, fourth = cloud.seen
    assert first.body == new_frame(1) and fourth.body == new_frame(2)
    features = read(new_frame(1), cap=1_000).id
    assert second.headers["content-type"] == "application/json" and len(second.body) < 200
    assert httpx.Response(200, content=second.body).json() == {
        "features": features,
        "to": ["fra"],
        "from": "spa",
        "task": "translate",
        "beam": 5,
    }
    assert httpx.Response(200, content=third.body).json()["task"] == "transcribe"


def test_what_was_uploaded_is_not_sent_along(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    """But uploaded again where it is asked for: the cloud may have lost it since, and keeps it for as long again."""
    client = connect(cloud.url)
    features = client.upload(new_frame(1))
    assert client.upload(new_frame(1)) == features
    client.translate(new_frame(1), ["deu"])
    assert cloud.asked() == [f"PUT /v1/features/{features}"] * 2 + [TRANSLATE]
    assert cloud.seen[2].headers["content-type"] == "application/json"


def test_features_that_are_forgotten_are_sent_along(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    client = connect(cloud.url)
    features = client.translate(new_frame(1), ["deu"]).features
    client.forget(features)
    client.forget(features)
    client.translate(new_frame(1), ["deu"])
    assert cloud.asked() == [TRANSLATE, f"DELETE /v1/features/{features}", f"DELETE /v1/features/{features}", TRANSLATE]
    assert cloud.seen[3].body == new_frame(1)
    for wrong in ("", "../models", features.upper(), f"{features}\n"):
        with pytest.raises(UsageError) as caught:
            client.forget(wrong)
        assert caught.value.code == "bad_request"


def test_a_cloud_without_room_is_no_error(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    client = connect(cloud.url)
    cloud.first.append(problem(507, "features_not_kept"))
    features = client.upload(new_frame(1))
    assert client.translate(new_frame(1), ["deu"]).features == features
    assert cloud.asked() == [f"PUT /v1/features/{features}", TRANSLATE]
    assert cloud.seen[1].body == new_frame(1), "sent along, as it was not kept"
    cloud.first.append(problem(507, "something_else"))
    assert refused(lambda: client.upload(new_frame(2))).code == "something_else"


def test_what_the_cloud_forgot_is_sent_again(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    client = connect(cloud.url)
    client.translate(new_frame(1), ["deu"])
    cloud.stored.clear()
    assert client.translate(new_frame(1), ["fra"]).translations == {"fra": "fra 3"}
    assert [seen.body == new_frame(1) for seen in cloud.seen] == [True, False, True]
    client.translate(new_frame(1), ["fra"])
    assert cloud.seen[3].body != new_frame(1), "known again"


def test_an_address_that_is_no_esrt_cloud(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    client = connect(cloud.url)
    for answer, code in [
        (Response("<html>Welcome</html>"), "bad_response"),
        (Response(b"\xff\xfe"), "bad_response"),
        (JSONResponse({"transcript": "x"}), "bad_response"),
        (JSONResponse([1]), "bad_response"),
        (Response("<html>no</html>", 404), "cloud_error"),
        (Response(status_code=301, headers={"location": "https://elsewhere.example/"}), "cloud_error"),
        (problem(418, "I am; a <teapot>"), "cloud_error"),
        (Response(b" " * (9 << 20)), "bad_response"),
    ]:
        cloud.first.append(answer)
        assert refused(lambda: client.translate(new_frame(1), ["deu"])).code == code


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://example.org", "http://", "https://[::1", "clip.wav"])
def test_what_is_no_address(connect: Connect, url: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(url)
    assert caught.value.code == "bad_url"


def test_an_address_may_have_a_path(connect: Connect, cloud: Any) -> None:
    with pytest.raises(CloudError):
        connect(f"{cloud.url}/esrt/").models()
    assert cloud.asked() == ["GET /esrt/v1/models"]


def test_wrong_calls_send_nothing(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    client = connect(cloud.url)
    with pytest.raises(UsageError):
        client.translate(new_frame(1), ["klingon"])
    for damaged in (b"", b"RIFF", new_frame(1)[:-1]):
        with pytest.raises(FrameError):
            client.translate(damaged, ["deu"])
        with pytest.raises(FrameError):
            client.upload(damaged)
    assert cloud.seen == []


def test_a_proxy_of_the_environment_does_not_stand_before_loopback(
    connect: Connect, cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert connect(cloud.url).models()


def test_no_cookies_are_kept(connect: Connect, cloud: Any) -> None:
    cloud.first.append(problem(400, "no", {"Set-Cookie": "device=7"}))
    client = connect(cloud.url)
    refused(client.models)
    client.models()
    assert "cookie" not in cloud.seen[1].headers


def test_threads_share_a_client(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    client = connect(cloud.url)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: client.translate(new_frame(number), ["deu"]), range(40)))
    assert [answer.features for answer in answers] == [read(new_frame(n), cap=1_000).id for n in range(40)]


def test_bytes_are_those_on_the_socket(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    up, down = bytearray(), bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def copy(source: socket.socket, sink: socket.socket, log: bytearray) -> None:
            while data := source.recv(1 << 16):
                log.extend(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

        def serve() -> None:
            near, _ = listener.accept()
            with near, socket.create_connection(("127.0.0.1", cloud.port)) as far:
                answers = threading.Thread(target=copy, args=(far, near, down))
                answers.start()
                copy(near, far, up)
                answers.join()

        relay = threading.Thread(target=serve)
        relay.start()
        with connect(f"http://127.0.0.1:{port}", key="k") as client:
            client.translate(new_frame(1), ["deu", "fra"])
            client.translate(new_frame(1), ["spa"], source="spa")
            client.forget(client.upload(new_frame(2)))
            client.models()
            sent, received = client.bytes_sent, client.bytes_received
        relay.join()
    assert (sent, received) == (len(up), len(down))


def test_models(connect: Connect, cloud: Any) -> None:
    (card,) = connect(cloud.url).models()
    assert (card.name, card.queries, card.width) == ("ESRT-tiny", 4, 8)
    cloud.first.append(JSONResponse({"models": []}))
    assert refused(connect(cloud.url).models).code == "bad_response"


def test_waiting_until_the_cloud_is_ready(connect: Connect, cloud: Any) -> None:
    cloud.first.extend([problem(503, "not_ready"), problem(503, "not_ready")])
    connect(cloud.url).wait_ready(5)
    assert cloud.asked() == ["GET /readyz"] * 3
    cloud.first.extend(problem(503, "not_ready") for _ in range(1_000))
    assert refused(lambda: connect(cloud.url).wait_ready(0.2)).code == "not_ready"
    cloud.stop()
    cloud.first.clear()
    assert refused(lambda: connect(cloud.url).wait_ready(0.1)).code == "cloud_unreachable"
    threading.Timer(0.2, cloud.start).start()
    connect(cloud.url).wait_ready(10)


def test_the_import_is_light() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import esrt.edge.client"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = {line.rsplit("|", 1)[-1].strip() for line in run.stderr.splitlines()}
    assert {"esrt.edge.exchange", "esrt.edge.talk"} <= modules
    heavy = {"torch", "onnxruntime", "onnx", "transformers", "av", "scipy"}
    assert not {name for name in modules if name.split(".")[0] in heavy}
