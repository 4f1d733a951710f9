"""What one key may do, what all may, and how long: first the counting alone, then over real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect
from transformers import Gemma3ForCausalLM

from esrt.cloud.limits import Admission, Busy, Limits, Tenants
from esrt.cloud.routes import _EventStream
from esrt.cloud.service import Service
from esrt.edge.client import Client
from esrt.wire.schemas import Problem
from tests.cloud import asking
from tests.cloud.asking import KEYS, STREAM, Serve, long_translations, problem

client = partial(asking.client, timeout=60)


def busy(context: AbstractContextManager[None]) -> Busy:
    with pytest.raises(Busy) as refused, context:
        pass
    assert refused.value.status == 429
    return refused.value


# Counting


def test_the_rate_is_a_bucket_that_fills_evenly() -> None:
    now = 0.0
    tenants = Tenants(Limits(rate=6), lambda: now)
    for _ in range(6):
        with tenants.request("ann"):
            pass
    assert busy(tenants.request("ann")).retry_after == 10
    with tenants.request("bob"):
        pass
    now = 9.0
    assert busy(tenants.request("ann")).retry_after == 1
    now = 10.0
    with tenants.request("ann"):
        pass
    assert busy(tenants.request("ann")).code == "too_many_requests"
    now = 1e6
    for _ in range(6):
        with tenants.request("ann"):
            pass
    assert busy(tenants.request("ann")).retry_after == 10, "no more than a minute's worth is saved up"


def test_requests_of_one_key_at_once() -> None:
    tenants = Tenants(Limits(concurrent=2), lambda: 0.0)
    with tenants.request("ann"), tenants.request("bob"):
        with pytest.raises(ZeroDivisionError), tenants.request("ann"):
            assert busy(tenants.request("ann")).retry_after == 1
            raise ZeroDivisionError
        with tenants.request("ann"):
            pass


def test_room_is_counted_in_requests_and_in_tokens() -> None:
    admission = Admission(Limits(queue=3), one_target=400)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(admission.work(400))
        assert admission.ratio == 1
        assert busy(admission.work(1)).code == "overloaded"
    with admission.work(800):
        with admission.work(400):
            assert (admission.requests, admission.tokens) == (2, 1200)
            assert admission.ratio == 1, "of the tokens"
        assert busy(admission.work(401)).retry_after == 1
    assert (admission.requests, admission.tokens, admission.ratio) == (0, 0, 0)
    with admission.work(1_000_000):  # alone, it has all the room that there ever will be
        assert busy(admission.work(1)).code == "overloaded"


# Over real sockets


def test_over_the_rate(serve: Serve, make_service: Callable[..., Service], talking: Gemma3ForCausalLM) -> None:
    with serve(make_service(talking), KEYS, limits=Limits(rate=3)) as server, client(server) as ann:
        assert [ann.get("/v1/models").status_code for _ in range(3)] == [200] * 3
        refused = ann.post("/v1/translations?to=deu", content=b"x" * 100_000)
        problem(refused, 429, "too_many_requests")
        assert refused.headers["retry-after"] == "20"
        # Only the head is sent: the answer cannot have waited for the body.
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            head = f"POST /v1/translations?to=deu HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {'ann' * 4}\r\n"
            connection.sendall(f"{head}Content-Length: 520\r\n\r\n".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 429")
        assert ann.get("/healthz").status_code == ann.get("/readyz").status_code == 200
        with client(server, "bob") as bob:
            assert bob.get("/v1/models").status_code == 200
        with client(server, "eve") as eve:
            for _ in range(5):
                problem(eve.get("/v1/models"), 401, "unauthorized")


@pytest.mark.usefixtures("slow")
def test_a_key_that_has_too_much_under_way(
    serve: Serve, make_service: Callable[..., Service], endless: Gemma3ForCausalLM, frame_of: Any
) -> None:
    service = make_service(endless, max_new_tokens=1_000_000)
    with serve(service, KEYS, limits=Limits(concurrent=1)) as server, client(server) as ann, client(server) as other:
        with ann.stream("POST", "/v1/translations?to=deu", content=frame_of(1), headers=STREAM) as running:
            chunks = running.iter_text()
            next(chunks)
            refused = other.get("/v1/models")
            problem(refused, 429, "too_many_requests")
            assert refused.headers["retry-after"] == "1"
            with client(server, "bob") as bob:
                assert bob.get("/v1/models").status_code == 200
        # The client has gone, and its place is free again.
        assert within(10, lambda: other.get("/v1/models").status_code == 200)


def within(seconds: float, true: Callable[[], bool]) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if true():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def full(
    serve: Serve, make_service: Callable[..., Service], endless: Gemma3ForCausalLM, frame_of: Any, slow: None
) -> Iterator[Any]:
    """A server that has no room left, for as long as the test runs: two requests, of two that it takes."""
    service = make_service(endless, max_new_tokens=1_000_000)
    with serve(service, KEYS, limits=Limits(queue=2)) as server, client(server) as http, ExitStack() as held:
        for _ in range(2):
            url = "/v1/translations?to=deu"
            running = held.enter_context(http.stream("POST", url, content=frame_of(1), headers=STREAM))
            # A name for it: the connection is closed when the iterator goes.
            server.chunks = [*getattr(server, "chunks", []), running.iter_text()]
            next(server.chunks[-1])
        server.leave = held.close
        yield server


def test_a_burst_of_ten_times_the_room_is_told_without_waiting(full: Any, frame_of: Any) -> None:
    """The work that fills the server goes on meanwhile; `esrt bench cloud burst` measures how soon they are told."""
    together = threading.Barrier(20)

    def ask(seed: int) -> httpx.Response:
        with client(full, "bob") as http:
            assert http.get("/healthz").status_code == 200  # the connection is there
            together.wait()
            return http.post("/v1/translations?to=deu", content=frame_of(seed))

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))
    for response in answers:
        problem(response, 429, "overloaded")
        assert response.headers["retry-after"] == "1"
    assert full.service.engine.load, "nobody waited until there was room"


def test_who_is_refused_before_the_frame_may_keep_it(full: Any, frame_of: Any) -> None:
    with socket.create_connection(("127.0.0.1", full.port), timeout=10) as connection:
        head = f"POST /v1/translations?to=deu HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {'bob' * 4}\r\n"
        connection.sendall(f"{head}Content-Length: 520\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 429")
    with client(full, "bob") as http:
        frame = frame_of(3)
        stored = http.put(f"/v1/features/{frame[-16:].hex()}", content=frame)
        assert stored.status_code == 201, "there is room for what is not to be translated yet"
        problem(http.post("/v1/translations", json={"features": frame[-16:].hex(), "to": ["deu"]}), 429, "overloaded")


def test_frames_that_find_the_room_taken_are_not_even_read(
    serve: Serve, make_service: Callable[..., Service], endless: Gemma3ForCausalLM, frame_of: Any, slow: None
) -> None:
    """The frames of a burst are let in together, while there is still room."""
    service = make_service(endless, max_new_tokens=1_000_000)
    with (
        serve(service, KEYS, limits=Limits(queue=1)) as server,
        client(server) as http,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as late,
    ):
        head = f"POST /v1/translations?to=deu HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {'bob' * 4}\r\n"
        late.sendall(f"{head}Expect: 100-continue\r\nContent-Length: 520\r\n\r\n".encode())
        assert late.recv(65536).startswith(b"HTTP/1.1 100")
        url = "/v1/translations?to=deu"
        with http.stream("POST", url, content=frame_of(1), headers=STREAM) as running:
            chunks = running.iter_text()
            next(chunks)
            late.sendall(bytes(520))  # no frame at all
            assert late.recv(65536).startswith(b"HTTP/1.1 429")


def test_a_client_waits_for_its_turn(full: Any, frame_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to come back, it comes back by itself, and gets its answer once there is room."""
    with Client(full.url, "bob" * 4) as patient:
        threading.Timer(0.5, full.leave).start()
        monkeypatch.setattr(full.service, "_max_new_tokens", 30)  # of requests from now on
        answer = patient.translate(frame_of(7), ["deu"])
    assert answer.transcript and patient.bytes_sent > 2 * len(frame_of(7))


def test_one_request_may_have_more_targets_than_there_is_room_for(
    serve: Serve, make_service: Callable[..., Service], talking: Gemma3ForCausalLM, frame_of: Any
) -> None:
    with serve(make_service(talking), None, limits=Limits(queue=1)) as server, client(server, None) as http:
        targets = ["deu", "fra", "ita", "spa", "por"]
        answer = http.post("/v1/translations", params={"to": targets}, content=frame_of(4))
        assert list(answer.json()["translations"]) == targets


@pytest.mark.usefixtures("slow")
def test_a_deadline_frees_the_place(
    serve: Serve, make_service: Callable[..., Service], endless: Gemma3ForCausalLM, frame_of: Any
) -> None:
    service = make_service(endless, max_new_tokens=1_000_000)
    with serve(service, KEYS, limits=Limits(deadline=0.3)) as server, client(server) as ann:
        began = time.monotonic()
        problem(ann.post("/v1/translations?to=deu", content=frame_of(1)), 504, "deadline")
        assert time.monotonic() - began < 5
        assert within(5, lambda: service.engine.load == 0)

        with ann.stream("POST", "/v1/translations?to=deu", content=frame_of(1), headers=STREAM) as response:
            assert response.status_code == 200
            name, data = "".join(response.iter_text()).strip().split("\n\n")[-1].split("\n")
        assert name == "event: error"
        assert Problem.from_json(data.removeprefix("data: ")).code == "deadline"
        assert within(5, lambda: service.engine.load == 0)


@pytest.mark.usefixtures("slow")
def test_a_deadline_ends_every_branch(
    serve: Serve, make_service: Callable[..., Service], endless: Gemma3ForCausalLM, frame_of: Any
) -> None:
    service = make_service(endless)
    long_translations(service, after=5)
    url = "/v1/translations?to=deu&to=fra&to=ita"
    with serve(service, KEYS, limits=Limits(deadline=1.5)) as server, client(server) as ann:
        with ann.stream("POST", url, content=frame_of(1), headers=STREAM) as response:
            said = "".join(response.iter_text())
        assert said.count("event: translation\n") > 3 and '"code": "deadline"' in said.splitlines()[-2]
        assert within(5, lambda: service.engine.load == 0)


def test_a_client_that_does_not_read_is_given_up() -> None:
    """As it looks to a stream when the buffers are full: `send` does not come back."""
    closed = []

    async def lines() -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "data: {}"
        finally:
            closed.append(True)

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    async def main() -> None:
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        with pytest.raises(ClientDisconnect):
            await asyncio.wait_for(_EventStream(lines(), 0.1)(scope, never, started), 10)

    async def started(message: Any) -> None:
        if message["type"] == "http.response.body":
            await never()

    asyncio.run(main())
    assert closed == [True]
