"""How a cloud is asked that is busy, is slow, dies and comes back, or was never there; over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from esrt.decoding.ugsd import Settings
from esrt.edge.client import Client
from esrt.edge.talk import Answer, Lost, Pause, Peer, Request, ask
from esrt.errors import CloudError, UsageError
from esrt.translator import Translator
from tests.edge.answers import problem, refused

NewFrame = Callable[[int], bytes]
Connect = Callable[..., Any]
TRANSLATE = "POST /v1/translations"


def test_a_server_that_dies_and_comes_back_loses_nothing(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    client = connect(cloud.url)
    client.translate(new_frame(1), ["deu"])
    cloud.stop()
    back = threading.Timer(0.4, cloud.start)
    back.start()
    assert client.translate(new_frame(1), ["fra"]).translations.keys() == {"fra"}
    back.join()
    assert cloud.seen[-1].body == new_frame(1)


def test_a_connection_that_breaks_in_the_middle_is_tried_again(
    connect: Connect, cloud: Any, new_frame: NewFrame
) -> None:
    def break_off() -> Response:
        return Response(b"half of it", headers={"content-length": "1000"})

    cloud.first.extend([break_off, break_off])
    client = connect(cloud.url)
    assert client.translate(new_frame(1), ["deu"]).transcript == "uno 3"
    assert [seen.body for seen in cloud.seen] == [new_frame(1)] * 3


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_busy_cloud_is_asked_again(connect: Connect, cloud: Any, new_frame: NewFrame, status: int) -> None:
    cloud.first.extend([problem(status, "busy"), Response("<html>gateway</html>", status)])
    assert connect(cloud.url).translate(new_frame(1), ["deu"]).transcript == "uno 3"


def test_an_engine_that_failed_is_asked_again_but_not_for_ever(
    connect: Connect, cloud: Any, new_frame: NewFrame
) -> None:
    cloud.first.extend(problem(500, "engine_failed") for _ in range(2))
    assert connect(cloud.url).translate(new_frame(1), ["deu"]).transcript == "uno 3"
    cloud.first.extend(problem(500, "engine_failed", detail="It failed.") for _ in range(9))
    before = len(cloud.seen)
    error = refused(lambda: connect(cloud.url).translate(new_frame(2), ["deu"]))
    assert (error.code, error.status, len(cloud.seen) - before) == ("engine_failed", 500, 3)


def test_a_deadline_is_not_tried_twice(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    cloud.first.append(problem(504, "deadline"))
    with pytest.raises(CloudError) as refused:
        connect(cloud.url).translate(new_frame(1), ["deu"])
    assert (refused.value.code, refused.value.status, len(cloud.seen)) == ("deadline", 504, 1)


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(connect: Connect, cloud: Any, new_frame: NewFrame, as_date: bool) -> None:
    after = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    cloud.first.append(problem(429, "too_many_requests", {"Retry-After": after}))
    began = time.monotonic()
    connect(cloud.url).translate(new_frame(1), ["deu"])
    assert time.monotonic() - began > 0.9


def test_a_wrong_clock_here_does_not_make_it_wait() -> None:
    """A date of the cloud's is compared with the cloud's own clock, where it tells what that says."""
    for date, least, most in ((formatdate(0, usegmt=True), 60, 61), ("whenever", 0, 1)):
        talk = ask(Peer("http://cloud", answered=True, patience=99), Request("GET", "/"))
        assert isinstance(next(talk), Request)
        pause = talk.send(Answer(503, {"retry-after": formatdate(60, usegmt=True), "date": date}, b""))
        assert isinstance(pause, Pause) and least <= pause.seconds <= most


def test_patience_ends(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    client = connect(cloud.url, patience=2)
    cloud.first.extend(problem(503, "overloaded", detail="Too many wait here.") for _ in range(100))
    error = refused(lambda: client.translate(new_frame(1), ["deu"]))
    assert (error.code, error.status, str(error)) == ("overloaded", 503, "Too many wait here.")
    assert 2 <= len(cloud.seen) <= 50
    cloud.first.clear()
    cloud.first.append(problem(429, "too_many_requests", {"Retry-After": "3600"}))
    before = len(cloud.seen)
    assert refused(lambda: client.translate(new_frame(1), ["deu"])).code == "too_many_requests"
    assert len(cloud.seen) == before + 1, "an hour is too long to wait"


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "bad_request"), (403, "forbidden"), (409, "conflict"), (413, "frame_too_large"), (500, "internal")],
)
def test_a_refusal_is_final(connect: Connect, cloud: Any, new_frame: NewFrame, status: int, code: str) -> None:
    cloud.first.append(problem(status, code, detail="Because\nof \x1b[31mthis."))
    error = refused(lambda: connect(cloud.url).translate(new_frame(1), ["deu"]))
    assert (error.code, error.status, str(error)) == (code, status, "Because of [31mthis.")
    assert len(cloud.seen) == 1


def test_a_cloud_with_another_model_says_what_to_do(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    cloud.first.append(problem(409, "frame_wrong_model"))
    error = refused(lambda: connect(cloud.url).translate(new_frame(1), ["deu"]))
    assert error.code == "frame_wrong_model" and "start again here" in str(error) and cloud.url in str(error)


def test_keys(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    cloud.key = "right"
    assert connect(cloud.url, "right").translate(new_frame(1), ["deu"])
    for wrong in ("wrong", None):
        error = refused(connect(cloud.url, wrong).models)
        assert (error.code, error.status) == ("unauthorized", 401)
    cloud.first.append(Response("no", 401))
    assert refused(connect(cloud.url).models).code == "unauthorized"
    for odd in ("two words", "", "gr\u00fcn", "a\r\nX-Other: b"):
        with pytest.raises(UsageError) as caught:
            connect(cloud.url, odd)
        assert caught.value.code == "bad_key" and (not odd or odd not in str(caught.value))


def test_a_cloud_that_was_never_there(
    connect: Connect, cloud: Any, new_frame: NewFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.stop()
    client = connect(cloud.url, patience=0.2)
    error = refused(lambda: client.translate(new_frame(1), ["deu"]))
    assert (error.code, error.status) == ("cloud_unreachable", 0)
    assert cloud.url in str(error)
    assert client.bytes_sent == client.bytes_received == 0


def test_a_wrong_address_is_said_sooner_than_a_lost_cloud() -> None:
    def attempts(peer: Peer) -> int:
        talk = ask(peer, Request("GET", "/v1/models"))
        next(talk)
        for count in range(1, 100):
            try:
                talk.send(Lost("refused"))
            except CloudError as error:
                assert error.code == "cloud_unreachable"
                return count
            talk.send(None)
        raise AssertionError("it never ends")

    assert attempts(Peer("http://a", 5.0, 0.1)) == 1 < attempts(Peer("http://a", 5.0, 0.1, True))


def test_patience_counts_the_first_attempt_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that drops what is sent lets each attempt last. One that broke off later had got on until then."""
    now = 0.0
    monkeypatch.setattr("esrt.edge.talk.time", SimpleNamespace(monotonic=lambda: now))
    for lost in (Lost("nobody", unreached=True), Lost("broke off")):
        talk = ask(Peer("http://cloud", patience=1.0), Request("GET", "/"))
        next(talk)
        now += 1.0
        if lost.unreached:
            with pytest.raises(CloudError):
                talk.send(lost)
        else:
            assert isinstance(talk.send(lost), Pause)


def test_how_long_connecting_may_take() -> None:
    said = {}

    def nobody(request: httpx.Request) -> httpx.Response:
        said.update(request.extensions["timeout"])
        raise httpx.ConnectTimeout("")

    for timeout, connect, seconds in ((120.0, 10.0, 10.0), (120.0, 1.0, 1.0), (0.5, 1.0, 0.5)):
        with Client("http://cloud", None, timeout, httpx.MockTransport(nobody), 0.0, connect=connect) as client:
            assert refused(client.models).code == "cloud_unreachable"
        assert said["connect"] == seconds


def test_a_device_that_drafts_does_not_wait_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can go on alone."""
    named: dict[str, Any] = {}
    monkeypatch.setattr("esrt.translator.prepare", Path)
    monkeypatch.setattr("esrt.translator.Encoder", lambda *_, **__: None)
    monkeypatch.setattr("esrt.decoding.drafter.load", lambda _: None)
    monkeypatch.setattr("esrt.edge.client.Client", lambda *_, **given: named.update(given))
    Translator.drafting("drafter", "http://cloud", Settings())
    assert named == {"timeout": 10.0, "patience": 1.0, "connect": 1.0}


def test_a_slow_cloud_is_not_asked_twice(connect: Connect, cloud: Any, new_frame: NewFrame) -> None:
    def late() -> Response:
        time.sleep(2)
        return Response()

    cloud.first.append(late)
    error = refused(lambda: connect(cloud.url, timeout=1).translate(new_frame(1), ["deu"]))
    assert (error.code, error.status) == ("cloud_timeout", 0)
    assert cloud.url in str(error) and "over 1 s" in str(error)
    assert len(cloud.seen) == 1
