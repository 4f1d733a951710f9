"""An emulated link: a TCP proxy on loopback with delay, jitter, loss and bandwidth, which can be cut.

A proxy, because network namespaces with `tc` want root and a kernel of one's own. What it sees is a stream, so a lost
packet is what it is to whoever reads a stream: a wait until it is sent again.
"""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

PACKET = 1400
RETRANSMISSION_SECONDS = 0.2
"""What a lost packet costs a stream beside a round trip: the shortest timeout of a usual TCP."""


@dataclass(frozen=True)
class Conditions:
    """`round_trip` and `jitter` (at most, of each way) in seconds; `loss` of packets; `bandwidth` in bytes a second."""

    round_trip: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    bandwidth: float = float("inf")


class Link:
    """`with Link("127.0.0.1", port, Conditions(0.05)) as link:` listens at `link.url`. Safe to cut from any thread."""

    def __init__(self, host: str, port: int, conditions: Conditions, seed: int = 0) -> None:
        self._to = (host, port)
        self._conditions, self._random = conditions, random.Random(seed)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0
        self.bytes_up = self.bytes_down = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Link:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        asyncio.run_coroutine_threadsafe(self._settle(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """End all connections and take no more."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _settle(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        # The handshake of TCP takes a round trip before the first byte.
        await asyncio.sleep(self._conditions.round_trip)
        for source, sink, up in ((reader, back, True), (there, writer, False)):
            task = asyncio.ensure_future(self._carry(source, sink, up))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, up: bool) -> None:
        """Bytes leave as fast as the bandwidth lets them, and each arrives when its way is over, in order."""
        now = self._loop.time
        free = due = 0.0
        arrivals: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.ensure_future(self._deliver(arrivals, sink))
        try:
            while data := await source.read(PACKET):
                if up:
                    self.bytes_up += len(data)
                else:
                    self.bytes_down += len(data)
                free = max(free, now()) + len(data) / self._conditions.bandwidth
                due = max(due, free + self._way())
                arrivals.put_nowait((due, data))
            arrivals.put_nowait((max(due, now()), b""))
            await delivery
        except (OSError, asyncio.CancelledError):
            delivery.cancel()
        finally:
            self._writers.discard(sink)
            with suppress(OSError):
                sink.close()

    def _way(self) -> float:
        conditions = self._conditions
        seconds = conditions.round_trip / 2 + self._random.uniform(0, conditions.jitter)
        while self._random.random() < conditions.loss:
            seconds += conditions.round_trip + RETRANSMISSION_SECONDS
        return seconds

    async def _deliver(self, arrivals: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        while True:
            due, data = await arrivals.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if not data:
                return
            sink.write(data)
            await sink.drain()
