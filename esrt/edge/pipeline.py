"""Segments of speech -> transcript and translations: encode, send, join. While one is decoded, the next is encoded."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from esrt import languages
from esrt.audio import subtitles
from esrt.audio.samples import Samples
from esrt.audio.segments import Audio, Segment, segments
from esrt.errors import CloudError
from esrt.wire.codecs import check_codec
from esrt.wire.frame import Frame
from esrt.wire.schemas import Drafting, TranslationResponse

if TYPE_CHECKING:
    from esrt.edge.encoder import EdgeInfo

Task = Literal["translate", "transcribe", "caption"]

Item = TypeVar("Item")

# Frames that wait for the cloud. More would gain nothing: the cloud decodes one at a time.
AHEAD = 1


class Encodes(Protocol):
    """What turns samples into features: `esrt.edge.encoder.Encoder`."""

    info: EdgeInfo
    codecs: list[str]

    def frame(self, samples: Samples, codec: str) -> Frame:
        """float32 [n], 16 kHz -> the features as they are sent."""
        ...


class Sends(Protocol):
    """What brings a frame to a cloud and its answer back: `esrt.edge.client.Client`, or a cloud in this process."""

    def translate(
        self, frame: bytes, /, to: list[str], source: str | None = None, task: Task = "translate"
    ) -> TranslationResponse:
        """The answer to one frame."""
        ...


@dataclass(frozen=True)
class SegmentResult:
    """What was said from second `start` to second `end`, and what it took: see Result.

    `source` is the language's code, None where the model heard no speech. `drafting` is there where the device drafted.
    """

    start: float
    end: float
    source: str | None
    transcript: str
    translations: dict[str, str]
    wire_bytes: int = 0
    edge_seconds: float = 0.0
    cloud_seconds: float = 0.0
    drafting: Drafting | None = None


@dataclass(frozen=True)
class Result:
    """A whole clip's texts. `source` is the code of the language spoken longest, None if nothing was said.

    `wire_bytes` counts the frames' bytes; the seconds are those spent encoding, and those until the answers were here.
    The two go on at the same time.
    """

    source: str | None
    transcript: str
    translations: dict[str, str]
    segments: tuple[SegmentResult, ...]
    wire_bytes: int
    edge_seconds: float
    cloud_seconds: float

    @property
    def drafting(self) -> Drafting | None:
        """How a device that drafts came by all of it."""
        found = [segment.drafting for segment in self.segments if segment.drafting is not None]
        return sum(found[1:], found[0]) if found else None


def translate(
    audio: Audio,
    encoder: Encodes,
    send: Sends,
    to: Sequence[str] = (),
    source: str | None = None,
    codec: str = "int8",
) -> Result:
    """All of `translate_segments(segments(audio, encoder.info.longest), ...)`, joined."""
    return join(list(translate_segments(segments(audio, encoder.info.longest), encoder, send, to, source, codec)), to)


def translate_segments(
    spoken: Iterable[Segment],
    encoder: Encodes,
    send: Sends,
    to: Sequence[str] = (),
    source: str | None = None,
    codec: str = "int8",
) -> Generator[SegmentResult, None, None]:
    """Transcribe segments and translate them into the languages `to`; none: transcribe only. In order, as they come.

    Each segment is one frame. A thread reads and encodes ahead while `send` waits for the answer to the frame before;
    `close` on the iterator ends it. Without `source` the model finds the language, and it stays unknown to the network.
    Raises UsageError `unknown_language`, `unknown_codec` or `codec_not_in_model`, and, after all that came before,
    whatever `spoken`, the encoder and `send` raise.
    """
    targets = _codes(to)
    named = languages.get(source).code if source is not None else None
    check_codec(codec, encoder.codecs)
    return _answers(_ahead(_frames(spoken, encoder, codec)), send, targets, named)


def join(results: Sequence[SegmentResult], to: Sequence[str] = ()) -> Result:
    """The texts of a whole clip, from those of its segments in order."""
    found = _longest(results)
    return Result(
        source=found,
        transcript=subtitles.join((result.transcript for result in results), found),
        translations={code: subtitles.join((r.translations[code] for r in results), code) for code in _codes(to)},
        segments=tuple(results),
        wire_bytes=sum(result.wire_bytes for result in results),
        edge_seconds=sum(result.edge_seconds for result in results),
        cloud_seconds=sum(result.cloud_seconds for result in results),
    )


@dataclass(frozen=True)
class _Frame:
    """A segment that is ready to be sent."""

    start: float
    end: float
    data: bytes
    seconds: float


def _frames(spoken: Iterable[Segment], encoder: Encodes, codec: str) -> Generator[_Frame, None, None]:
    for segment in spoken:
        began = time.perf_counter()
        data = encoder.frame(segment.samples, codec).to_bytes()
        yield _Frame(segment.start, segment.end, data, time.perf_counter() - began)


def _answers(
    frames: Generator[_Frame, None, None], send: Sends, targets: list[str], source: str | None
) -> Generator[SegmentResult, None, None]:
    with closing(frames):
        for frame in frames:
            began = time.perf_counter()
            answer = send.translate(
                frame.data, to=targets, source=source, task="translate" if targets else "transcribe"
            )
            seconds = time.perf_counter() - began
            missing = [code for code in targets if code not in answer.translations]
            if missing:
                raise CloudError(
                    "bad_response", f"The cloud's answer lacks the translation into {missing[0]}: try again."
                )
            yield SegmentResult(
                start=frame.start,
                end=frame.end,
                source=answer.source,
                transcript=answer.transcript,
                translations={code: answer.translations[code] for code in targets},
                wire_bytes=len(frame.data),
                edge_seconds=frame.seconds,
                cloud_seconds=seconds,
                drafting=answer.drafting,
            )


def _ahead(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """The same items in the same order, made by a thread of its own: one is in the making while AHEAD of them wait.

    What making one raises is raised here, after all items before it.
    """
    made: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(AHEAD)
    left = threading.Event()

    def put(what: tuple[Item] | BaseException | None) -> None:
        while not left.is_set():
            with suppress(queue.Full):
                return made.put(what, timeout=0.1)

    def work() -> None:
        try:
            with closing(items):
                for item in items:
                    put((item,))
                    if left.is_set():
                        return
            put(None)
        except BaseException as error:
            put(error)

    worker = threading.Thread(target=work, name="esrt-edge", daemon=True)
    worker.start()
    try:
        while (got := made.get()) is not None:
            if isinstance(got, BaseException):
                raise got
            yield got[0]
    finally:
        left.set()
        worker.join()


def _codes(to: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(languages.get(code).code for code in to))


def _longest(results: Iterable[SegmentResult]) -> str | None:
    seconds: dict[str, float] = {}
    for result in results:
        if result.source is not None:
            seconds[result.source] = seconds.get(result.source, 0.0) + result.end - result.start
    return max(seconds, key=seconds.__getitem__) if seconds else None
