"""Clients in one event loop. They speak HTTP over bare streams: what measures a server must itself cost almost nothing.

Each asks for a stream of events, as it is the only way to see the first token.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from urllib.parse import urlsplit

import anyio

from esrt.bench.server import Server
from esrt.errors import UsageError
from esrt.languages import CORE

MOST_SECONDS = 600.0
"""For one answer: nothing here waits for ever."""


@dataclass(frozen=True)
class Job:
    """What to ask: a frame and its targets."""

    frame: bytes
    to: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What a client saw. `first` and `seconds`: from the request's first byte to the first token and to the end.

    `status` is the answer's, or 0 where the connection broke; `whole`: the answer was not cut short and had no error.
    """

    status: int
    seconds: float
    first: float | None = None
    tokens: int = 0
    whole: bool = False


class Connection:
    """One connection that is kept open, to one server."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = urlsplit(url).netloc
        self._reader, self._writer = reader, writer

    async def ask(self, job: Job) -> Outcome:
        """Send one job and read its answer. Never raises: a failure is an Outcome, too."""
        began, heard = time.perf_counter(), _Heard()
        try:
            with anyio.fail_after(MOST_SECONDS):
                query = "&".join(f"to={code}" for code in job.to)
                head = f"POST /v1/translations?{query} HTTP/1.1\r\nHost: {self._host}\r\nAccept: text/event-stream\r\n"
                head += f"Content-Type: application/octet-stream\r\nContent-Length: {len(job.frame)}\r\n\r\n"
                self._writer.write(head.encode() + job.frame)
                await self._read(heard)
        except (OSError, EOFError, TimeoutError, ValueError):
            pass
        first = None if heard.first is None else heard.first - began
        return Outcome(heard.status, time.perf_counter() - began, first, heard.tokens, heard.whole)

    async def _read(self, heard: _Heard) -> None:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        heard.status = int(lines[0].split(" ", 2)[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if "content-length" in fields:
            await self._reader.readexactly(int(fields["content-length"]))
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            heard.take((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readexactly(2)


@dataclass
class _Heard:
    """An answer so far."""

    status: int = 0
    first: float | None = None
    tokens: int = 0
    whole: bool = False
    rest: bytes = b""

    def take(self, chunk: bytes) -> None:
        """The next bytes of the events."""
        *events, self.rest = (self.rest + chunk).split(b"\n\n")
        for event in events:
            if self.first is None:
                self.first = time.perf_counter()
            if event.startswith(b"event: done\n"):
                self.tokens = json.loads(event.partition(b"\ndata: ")[2])["usage"]["tokens"]
                self.whole = True


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A new connection."""
    host = urlsplit(url)
    reader, writer = await asyncio.open_connection(host.hostname, host.port)
    try:
        yield Connection(url, reader, writer)
    finally:
        writer.close()


async def _alone(url: str, job: Job) -> Outcome:
    """A job over a connection of its own, whose making counts."""
    began = time.perf_counter()
    try:
        async with connected(url) as connection:
            before = time.perf_counter() - began
            found = await connection.ask(job)
    except OSError:
        return Outcome(0, time.perf_counter() - began)
    first = None if found.first is None else found.first + before
    return Outcome(found.status, found.seconds + before, first, found.tokens, found.whole)


async def closed(url: str, jobs: Iterable[Job], clients: int) -> list[Outcome]:
    """So many clients, each with a connection of its own, that take the next job when they have an answer."""
    found, left = [], iter(jobs)

    async def client() -> None:
        while True:
            async with connected(url) as connection:
                for job in left:
                    found.append(await connection.ask(job))
                    if not found[-1].status:
                        break
                else:
                    return

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


async def poisson(url: str, jobs: Sequence[Job], rate: float, seed: int = 0) -> list[Outcome]:
    """Each job from a new client, `rate` a second on average, whether those before have been answered or not."""
    chance = random.Random(seed)
    starts = accumulate(chance.expovariate(rate) for _ in jobs)

    async def client(job: Job, start: float) -> Outcome:
        await asyncio.sleep(start)
        return await _alone(url, job)

    return await asyncio.gather(*map(client, jobs, starts))


async def burst(url: str, jobs: Sequence[Job]) -> list[Outcome]:
    """All jobs at once, over connections that are open before."""
    async with AsyncExitStack() as open_ones:
        connections = [await open_ones.enter_async_context(connected(url)) for _ in jobs]
        return await asyncio.gather(*(one.ask(job) for one, job in zip(connections, jobs, strict=True)))


@dataclass(frozen=True)
class Load:
    """What came of some jobs: each outcome, and what they took together: seconds by the clock and the processor."""

    outcomes: Sequence[Outcome]
    seconds: float
    processor: float
    memory: int  # bytes of the server afterwards

    @property
    def done(self) -> list[Outcome]:
        """Those with a whole answer."""
        return [outcome for outcome in self.outcomes if outcome.whole]

    @property
    def refused(self) -> list[Outcome]:
        """Those that the server had no room for."""
        return [outcome for outcome in self.outcomes if outcome.status == 429]

    @property
    def tokens(self) -> float:
        """Tokens a second."""
        return sum(outcome.tokens for outcome in self.done) / self.seconds


def drive(server: Server, asking: Coroutine[Any, Any, list[Outcome]]) -> Load:
    """Let clients ask a server. Raises UsageError `cloud_failed` where it cannot be reached (any more)."""
    clock, processor = time.perf_counter(), server.processor()
    try:
        outcomes = asyncio.run(asking)
    except OSError as error:
        raise UsageError("cloud_failed", f"The server at {server.url} cannot be reached: {error}.") from error
    seconds = time.perf_counter() - clock
    return Load(outcomes, seconds, server.processor() - processor, server.memory())


def answered(load: Load, engine: str) -> Load:
    """The same, if every request had a whole answer: else a speed would say nothing. Raises UsageError `unanswered`."""
    if missing := len(load.outcomes) - len(load.done):
        raise UsageError("unanswered", f"{engine}: {missing} of {len(load.outcomes)} requests had no whole answer.")
    return load


def jobs(frames: Sequence[bytes], count: int, targets: int) -> list[Job]:
    """`count` jobs: the frames over and over, each into the next `targets` of the languages."""
    starts = range(0, count * targets, targets)
    return [
        Job(frames[number % len(frames)], tuple(CORE[(start + offset) % len(CORE)] for offset in range(targets)))
        for number, start in enumerate(starts)
    ]
