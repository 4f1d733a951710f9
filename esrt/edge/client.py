"""A client of the cloud over HTTP: blocking, safe to share between threads. What is said is in `exchange`."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, overload

import httpx

from esrt.edge import exchange, fetch
from esrt.edge.exchange import Task
from esrt.edge.fetch import Progress
from esrt.edge.http import CONNECT_SECONDS, PATIENCE_SECONDS, TIMEOUT_SECONDS, Line
from esrt.edge.talk import Answer, Lost, Pause, Request, Talk, Value, readiness
from esrt.wire.schemas import ModelCard, TranslationResponse
from esrt.wire.verification import Verdict, VerificationRequest

if TYPE_CHECKING:
    from esrt.audio.segments import Audio
    from esrt.edge.encoder import Encoder, Timing
    from esrt.edge.pipeline import Result, SegmentResult


class Client(Line):
    """One cloud. Use it in a `with`, or call `close` when done.

    `bytes_sent` and `bytes_received` count HTTP as it is before TLS, heads and bodies, of every attempt.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        transport: httpx.BaseTransport | None = None,
        patience: float = PATIENCE_SECONDS,
        timing: Timing = "fast",
        codec: str = "int8",
        connect: float = CONNECT_SECONDS,
        edge: str | Path | None = None,
    ) -> None:
        """`timeout`: seconds until an answer must begin; `patience`: seconds to keep asking a cloud that went away;
        `connect`: seconds until there must be a connection, each time.

        `timing` is the encoder's: `constant` hides how long a sound is from whoever sees when frames leave. `codec` is
        how its features are packed: one of `encoder().codecs`. `edge` is the device's half, an ONNX file that you
        trust; left out, whatever the cloud hands out runs here.

        Raises UsageError `bad_url` or `bad_key`.
        """
        super().__init__(url, key, timeout, patience, connect)
        self._http = self._open(httpx.Client, transport)
        self._encoder: Encoder | None = None
        self._timing, self._codec = timing, codec
        self._edge = None if edge is None else Path(edge)
        self._loading = threading.Lock()

    @overload
    def translate(
        self, speech: bytes, /, to: Sequence[str], source: str | None = None, task: Task = "translate", beam: int = 1
    ) -> TranslationResponse: ...

    @overload
    def translate(self, speech: Audio, /, to: Sequence[str], source: str | None = None) -> Result: ...

    def translate(
        self,
        speech: bytes | Audio,
        /,
        to: Sequence[str],
        source: str | None = None,
        task: Task = "translate",
        beam: int = 1,
    ) -> TranslationResponse | Result:
        """Transcript and translations of a sound (a path, an open file, samples), or of one frame (bytes).

        Languages are codes that `languages.get` knows. A sound is encoded here, see `segments`; no language `to` gives
        a transcript only. Of a frame, `task` and `beam` may be said too; it takes one round trip, and one that the
        cloud holds already is not sent again, unless the cloud forgot it. A frame is tried until it is answered or
        `patience` ends. Raises UsageError, AudioError, FrameError, ModelError, CloudError.
        """
        if isinstance(speech, bytes):
            return self._hold(exchange.translation(self._peer, speech, to, source, task, beam))
        from esrt.edge import pipeline

        return pipeline.translate(speech, self.encoder(), self, to, source, self._codec)

    def segments(
        self, speech: Audio, to: Sequence[str] = (), source: str | None = None
    ) -> Generator[SegmentResult, None, None]:
        """Each segment of a sound with its times, transcript and translations, as soon as the cloud has answered.

        A segment is no longer than the model hears well at once (`encoder().info.longest`), and silence is in none; the
        next is encoded while this one is waited for. Memory stays flat, however long the sound is. Warns where parts of
        a file were damaged. Raises as `translate`, after the segments that came before.
        """
        from esrt.audio.segments import segments
        from esrt.edge import pipeline

        encoder = self.encoder()
        spoken = segments(speech, encoder.info.longest)
        return pipeline.translate_segments(spoken, encoder, self, to, source, self._codec)

    def encoder(self, progress: Progress | None = None) -> Encoder:
        """The device's half: the `edge` that was named, or this cloud's, fetched where need be. Loaded once.

        `progress` is told bytes so far and in all, if anything is to be fetched. Raises ModelError, CloudError.
        """
        with self._loading:
            if self._encoder is None:
                path, card = self._hold(fetch.model_of(self._peer, self._edge, progress))
                self._encoder = fetch.load(path, card, self._peer.url, self._timing, self._edge is not None)
            return self._encoder

    def verify(self, frame: bytes, request: VerificationRequest) -> Verdict:
        """Have a block checked that a drafter made from `frame`; the frame is sent the first time only.

        Raises CloudError: `pair_mismatch` where the drafter was made for another model; else as `translate`.
        """
        return self._hold(exchange.verification(self._peer, frame, request))

    def upload(self, frame: bytes) -> str:
        """Store one frame in the cloud, to be translated later; returns the features' id. Raises as `translate`.

        A cloud that has no room for it now is no error: `translate` sends the frame along then.
        """
        return self._hold(exchange.upload(self._peer, frame))

    def forget(self, features: str) -> None:
        """Have the cloud delete the features of this id, which `upload` and every answer name.

        Nothing tells whether they were still there. Raises UsageError, CloudError.
        """
        self._hold(exchange.forget(self._peer, features))

    def models(self) -> list[ModelCard]:
        """What the cloud serves, at least one. Raises CloudError."""
        return self._hold(exchange.models(self._peer))

    def download_edge(self, folder: str | Path | None = None, progress: Progress | None = None) -> Path:
        """The edge model's ONNX file, in a folder of its own under `folder` (or our cache); see `fetch.edge_model`."""
        path, _ = self._hold(fetch.edge_model(self._peer, None if folder is None else Path(folder), progress))
        return path

    def wait_ready(self, seconds: float) -> None:
        """Return once the cloud is ready. Raises CloudError if it is not within `seconds`."""
        self._hold(readiness(self._peer, seconds))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold(self, talk: Talk[Value]) -> Value:
        """Hold a conversation to its end."""
        with closing(talk):
            try:
                step = next(talk)
                while True:
                    try:
                        heard = self._do(step)
                    except Exception as error:  # a sink's full disk: the conversation knows what to say of it
                        step = talk.throw(error)
                    else:
                        step = talk.send(heard)
            except StopIteration as end:
                value: Value = end.value
                return value

    def _do(self, step: Request | Pause) -> Answer | Lost | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        request = self._begin(self._http, step)
        try:
            response = self._http.send(request, stream=True)
            try:
                body = self._body(step, response)
                for chunk in response.iter_raw():
                    body.take(chunk)
            finally:
                response.close()
                self._end(response)
            return body.answer()
        except httpx.TransportError as error:
            return self._lost(request, error)
