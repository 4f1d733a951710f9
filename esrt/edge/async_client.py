"""The client of the cloud for programs that use asyncio. What is said is in `exchange`, as for the blocking client."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, overload

import anyio
import httpx

from esrt.edge import exchange, fetch
from esrt.edge.exchange import Task
from esrt.edge.fetch import Progress
from esrt.edge.http import PATIENCE_SECONDS, TIMEOUT_SECONDS, Line
from esrt.edge.talk import Answer, Lost, Pause, Request, Talk, Value, readiness
from esrt.wire.schemas import ModelCard, TranslationResponse
from esrt.wire.verification import Verdict, VerificationRequest

if TYPE_CHECKING:
    from esrt.audio.segments import Audio
    from esrt.edge.encoder import Encoder, Timing
    from esrt.edge.pipeline import Result, SegmentResult


class AsyncClient(Line):
    """One cloud, for one event loop. Use it in an `async with`, or await `close` when done.

    It does what `esrt.Client` does, and its methods are described there. Sounds are read and encoded in threads.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
        patience: float = PATIENCE_SECONDS,
        timing: Timing = "fast",
        codec: str = "int8",
        edge: str | Path | None = None,
    ) -> None:
        """`timeout`: seconds until an answer must begin; `patience`: seconds to keep asking a cloud that went away.

        `timing` is the encoder's: `constant` hides how long a sound is from whoever sees when frames leave. `codec` is
        how its features are packed: one of `encoder().codecs`. `edge` is the device's half, an ONNX file that you
        trust; left out, whatever the cloud hands out runs here.

        Raises UsageError `bad_url` or `bad_key`.
        """
        super().__init__(url, key, timeout, patience)
        self._http = self._open(httpx.AsyncClient, transport)
        self._encoder: Encoder | None = None
        self._timing, self._codec = timing, codec
        self._edge = None if edge is None else Path(edge)
        self._loading = asyncio.Lock()

    @overload
    async def translate(
        self, speech: bytes, /, to: Sequence[str], source: str | None = None, task: Task = "translate", beam: int = 1
    ) -> TranslationResponse: ...

    @overload
    async def translate(self, speech: Audio, /, to: Sequence[str], source: str | None = None) -> Result: ...

    async def translate(
        self,
        speech: bytes | Audio,
        /,
        to: Sequence[str],
        source: str | None = None,
        task: Task = "translate",
        beam: int = 1,
    ) -> TranslationResponse | Result:
        """Transcript and translations of a sound (a path, an open file, samples), or of one frame (bytes)."""
        if isinstance(speech, bytes):
            return await self._hold(exchange.translation(self._peer, speech, to, source, task, beam))
        from esrt.edge import pipeline

        async with aclosing(self.segments(speech, to, source)) as found:
            return pipeline.join([segment async for segment in found], to)

    async def segments(
        self, speech: Audio, to: Sequence[str] = (), source: str | None = None
    ) -> AsyncGenerator[SegmentResult, None]:
        """Each segment of a sound, as soon as the cloud has answered. Closing the generator ends the work."""
        from esrt.audio.segments import segments
        from esrt.edge import pipeline

        # The blocking pipeline in threads; what it sends goes through this client.
        send = _FromThread(self, asyncio.get_running_loop())
        encoder = await self.encoder()
        spoken = segments(speech, encoder.info.longest)
        found = pipeline.translate_segments(spoken, encoder, send, to, source, self._codec)
        # No thread of the loop's own executor, which looks up the cloud's name; nor one of those that all others share.
        alone = anyio.CapacityLimiter(1)
        step: asyncio.Future[SegmentResult | None] | None = None
        try:
            while True:
                step = asyncio.ensure_future(anyio.to_thread.run_sync(next, found, None, limiter=alone))
                segment = await asyncio.shield(step)
                if segment is None:
                    return
                yield segment
        finally:
            send.leave()
            with anyio.CancelScope(shield=True):
                if step is not None:  # a generator that runs cannot be closed
                    await asyncio.gather(step, return_exceptions=True)
                await anyio.to_thread.run_sync(found.close, limiter=alone)

    async def encoder(self, progress: Progress | None = None) -> Encoder:
        """The device's half: the `edge` that was named, or this cloud's, fetched where need be. Loaded once."""
        async with self._loading:
            if self._encoder is None:
                path, card = await self._hold(fetch.model_of(self._peer, self._edge, progress))
                own = self._edge is not None
                self._encoder = await asyncio.to_thread(fetch.load, path, card, self._peer.url, self._timing, own)
            return self._encoder

    async def verify(self, frame: bytes, request: VerificationRequest) -> Verdict:
        """Have a block checked that a drafter made from `frame`; the frame is sent the first time only."""
        return await self._hold(exchange.verification(self._peer, frame, request))

    async def upload(self, frame: bytes) -> str:
        """Store one frame in the cloud, to be translated later; returns the features' id."""
        return await self._hold(exchange.upload(self._peer, frame))

    async def forget(self, features: str) -> None:
        """Have the cloud delete the features of this id, which `upload` and every answer name."""
        await self._hold(exchange.forget(self._peer, features))

    async def models(self) -> list[ModelCard]:
        """What the cloud serves, at least one."""
        return await self._hold(exchange.models(self._peer))

    async def download_edge(self, folder: str | Path | None = None, progress: Progress | None = None) -> Path:
        """The edge model's ONNX file, in a folder of its own under `folder` (or our cache)."""
        path, _ = await self._hold(fetch.edge_model(self._peer, None if folder is None else Path(folder), progress))
        return path

    async def wait_ready(self, seconds: float) -> None:
        """Return once the cloud is ready."""
        await self._hold(readiness(self._peer, seconds))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _hold(self, talk: Talk[Value]) -> Value:
        """Hold a conversation to its end."""
        with closing(talk):
            try:
                step = next(talk)
                while True:
                    try:
                        heard = await self._do(step)
                    except Exception as error:  # a sink's full disk: the conversation knows what to say of it
                        step = talk.throw(error)
                    else:
                        step = talk.send(heard)
            except StopIteration as end:
                value: Value = end.value
                return value

    async def _do(self, step: Request | Pause) -> Answer | Lost | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        request = self._begin(self._http, step)
        try:
            response = await self._http.send(request, stream=True)
            try:
                body = self._body(step, response)
                async for chunk in response.aiter_raw():
                    body.take(chunk)
            finally:
                await response.aclose()
                self._end(response)
            return body.answer()
        except httpx.TransportError as error:
            return self._lost(request, error)


class _FromThread:
    """What the pipeline sends through, in a thread of its own."""

    def __init__(self, client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._asked: concurrent.futures.Future[TranslationResponse] | None = None
        self._left = False

    def translate(
        self, frame: bytes, to: list[str], source: str | None = None, task: Task = "translate"
    ) -> TranslationResponse:
        """The answer to one frame."""
        self._asked = asyncio.run_coroutine_threadsafe(self._client.translate(frame, to, source, task), self._loop)
        if self._left:
            self._asked.cancel()
        return self._asked.result()

    def leave(self) -> None:
        """Nobody waits for an answer any more."""
        self._left = True
        if self._asked is not None:
            self._asked.cancel()
