"""Speech in, texts out: both halves in one process, joined by the bytes of a frame, or one half here and a cloud."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from esrt import languages
from esrt.audio.io import Sound
from esrt.audio.segments import Audio, Segment
from esrt.audio.segments import segments as cut
from esrt.edge import pipeline
from esrt.edge.encoder import Encoder, Timing
from esrt.errors import UsageError
from esrt.wire.schemas import TranslationRequest, TranslationResponse
from esrt.wire.verification import Verdict, VerificationRequest

if TYPE_CHECKING:
    from esrt.cloud.service import Service
    from esrt.cloud.verifications import Verifications
    from esrt.decoding.ugsd import Settings

Answer = TypeVar("Answer")


UNREACHABLE_SECONDS = 1.0
"""For which a device that drafts tries to reach its cloud: it can go on alone, and does not wait as one that cannot."""


class Cloud(pipeline.Sends, Protocol):
    """Whatever answers for a frame: a client of a real cloud, or the service in this process."""

    def close(self) -> None:
        """Let go of connections and threads."""
        ...


class Translator:
    """A model that is ready to translate. Use it in a `with`, or call `close` when done."""

    def __init__(self, model: str = "ESRT-270M", codec: str = "int8", timing: Timing = "fast") -> None:
        """Load both halves of a model (a name or a folder); the first time its base weights are fetched and converted.

        `codec` is how the tensor between the halves is packed: bf16, int8, int4, rvq32, rvq16 or rvq8, from the largest
        to the smallest; `timing` the encoder's. Raises ModelError.
        """
        from esrt.cloud.load import load_service

        folder = prepare(model)
        self._set(Encoder(folder / "edge.onnx", timing=timing), LocalCloud(load_service(folder)), codec)

    @classmethod
    def remote(
        cls,
        url: str,
        key: str | None = None,
        codec: str = "int8",
        timing: Timing = "fast",
        edge: str | Path | None = None,
    ) -> Translator:
        """The device's half here and the cloud's at `url`. No torch is needed.

        `edge` is the device's half, an ONNX file that you trust; left out, the cloud hands it out. Raises
        ModelError, and CloudError when the cloud cannot be reached or refuses the key.
        """
        from esrt.edge.client import Client

        client = Client(url, key, timing=timing, edge=edge)
        with bar() as show:
            encoder = client.encoder(lambda done, size: show("fetching the device's half", done / size))
        translator = cls.__new__(cls)
        translator._set(encoder, client, codec)
        return translator

    @classmethod
    def drafting(
        cls,
        drafter: str,
        url: str,
        settings: Settings,
        key: str | None = None,
        codec: str = "int8",
        timing: Timing = "fast",
        patience: float = 10.0,
    ) -> Translator:
        """UGSD: a drafter (a model's name or folder) writes here, and the cloud at `url` checks what it is unsure of.

        Nothing is sent before that. A cloud that is gone, or takes longer than `patience` seconds for a check, is said
        in each result's `drafting`. The drafter runs on torch. Raises ModelError, UsageError.
        """
        from esrt.decoding import drafter as drafters
        from esrt.decoding.speech import Speculative
        from esrt.edge.client import Client

        folder = prepare(drafter)
        client = Client(url, key, timeout=patience, patience=UNREACHABLE_SECONDS, connect=UNREACHABLE_SECONDS)
        translator = cls.__new__(cls)
        encoder = Encoder(folder / "edge.onnx", timing=timing)
        translator._set(encoder, Speculative(drafters.load(folder), client, settings), codec)
        return translator

    def _set(self, encoder: Encoder, cloud: Cloud, codec: str) -> None:
        self._encoder, self._cloud, self._codec = encoder, cloud, codec

    def protect(self) -> None:
        """From now on every clip is shifted and its level changed at random before it is encoded (docs/privacy.md)."""
        self._encoder.protect = True

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that name the device's half: what another made may be told otherwise."""
        return self._encoder.fingerprint

    def segments(
        self,
        audio: Audio,
        to: Sequence[str] = (),
        source: str | None = None,
        done: Sequence[pipeline.SegmentResult] = (),
    ) -> Generator[pipeline.SegmentResult, None, None]:
        """Transcript and translations of each stretch of speech, in order, as soon as it is there.

        None is longer than the model hears well at once: 8 s for ESRT-270M, 30 s at most.

        `audio` is a file of any length, by its path or open, or samples (float [n], 16 kHz, mono); it is read while the
        cloud answers, and never held whole. Silence and music have no segment. Languages are ISO 639-3 or BCP 47 codes;
        none in `to`: transcripts only. Without `source` the model finds the language, and it stays unknown to whoever
        watches the network. `done` are results of a run that broke off: they are not made again, and not given again.
        `close` ends the work early. Warns where parts of a file were damaged. Raises UsageError (`resume_mismatch`
        where `done` is not of this audio), AudioError, CloudError, each after all results before it.
        """
        opened = audio if isinstance(audio, Sound | np.ndarray) else Sound(audio)
        spoken = _after(done, cut(opened, self._encoder.info.longest))
        results = pipeline.translate_segments(spoken, self._encoder, self._cloud, to, source, self._codec)
        return _warning(results, opened, owned=opened is not audio)

    def translate(self, audio: Audio, to: Sequence[str], source: str | None = None) -> pipeline.Result:
        """All of `segments` at once, and their texts joined."""
        return pipeline.join(list(self.segments(audio, to, source)), to)

    def transcribe(self, audio: Audio, source: str | None = None) -> pipeline.Result:
        """The transcript alone; see `translate`."""
        return self.translate(audio, [], source)

    def close(self) -> None:
        """Let go of the model or the connection."""
        self._cloud.close()

    def __enter__(self) -> Translator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OfflineTranslator:
    """A whisperM2M that translates alone, with no network and no cloud's half; it is used like a Translator."""

    def __init__(self, model: str) -> None:
        """Load a model: a folder that `esrt m2m train` wrote, or its name in the cache. Raises ModelError."""
        from esrt.m2m.offline import Offline

        self._model = Offline(model)

    def protect(self) -> None:
        """Nothing is sent: there is nothing to hide."""

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that name the model."""
        return self._model.fingerprint

    def segments(
        self,
        audio: Audio,
        to: Sequence[str] = (),
        source: str | None = None,
        done: Sequence[pipeline.SegmentResult] = (),
    ) -> Generator[pipeline.SegmentResult, None, None]:
        """As `Translator.segments`. Raises UsageError `offline_language` for one that the model does not know."""
        targets = list(dict.fromkeys(languages.get(code).code for code in to))
        named = languages.get(source).code if source is not None else None
        self._model.check([*targets, *([named] if named else [])])
        opened = audio if isinstance(audio, Sound | np.ndarray) else Sound(audio)

        def results() -> Generator[pipeline.SegmentResult, None, None]:
            with closing(_after(done, cut(opened))) as spoken:
                for segment in spoken:
                    found, texts = self._model.translate(segment.samples, targets, named)
                    translations = {code: texts[code] for code in targets}
                    yield pipeline.SegmentResult(segment.start, segment.end, found, texts[found], translations)

        return _warning(results(), opened, owned=opened is not audio)

    def close(self) -> None:
        """Nothing is held."""


class LocalCloud:
    """The cloud's service in this process: takes the same bytes as a server does, and checks them the same way."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._verifications: Verifications | None = None
        self.bytes_sent = self.bytes_received = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="esrt-cloud", daemon=True)
        self._thread.start()

    def translate(
        self, frame: bytes, to: list[str], source: str | None = None, task: pipeline.Task = "translate"
    ) -> TranslationResponse:
        """The answer to one frame. Raises FrameError, CloudError."""
        request = TranslationRequest("", to, source, task)
        return self._wait(self._service.translate(self._service.read(frame), request))

    def verify(self, frame: bytes, request: VerificationRequest) -> Verdict:
        """The verdict on a block that was drafted from `frame`. Raises FrameError, UsageError, CloudError."""
        from esrt.cloud.verifications import Verifications

        if self._verifications is None:
            self._verifications = Verifications(self._service)
        return self._wait(self._verifications.verify("", self._service.read(frame), request))

    def close(self) -> None:
        """Stop the engine and the event loop."""
        if self._loop.is_closed():
            return
        self._wait(self._service.engine.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C among them: nobody wants the answer any more
            future.cancel()
            raise


def _after(
    done: Sequence[pipeline.SegmentResult], spoken: Generator[Segment, None, None]
) -> Generator[Segment, None, None]:
    """The segments that follow those that are done. Raises UsageError `resume_mismatch`."""
    with closing(spoken):
        for result in done:
            segment = next(spoken, None)
            if segment is None or (segment.start, segment.end) != (result.start, result.end):
                raise UsageError(
                    "resume_mismatch",
                    "What is done already is not of this audio, or was cut elsewhere: begin anew, without --resume.",
                )
        yield from spoken


def _warning(
    results: Generator[pipeline.SegmentResult, None, None], audio: Sound | np.ndarray, owned: bool
) -> Generator[pipeline.SegmentResult, None, None]:
    """The results; then a warning if parts of our own sound were damaged, which is closed in any case."""
    with closing(audio) if owned and isinstance(audio, Sound) else nullcontext(), closing(results):
        yield from results
    if owned and isinstance(audio, Sound) and audio.damage is not None:
        warnings.warn(str(audio.damage), stacklevel=2)


def prepare(name: str, trust_remote_code: bool = False) -> Path:
    """The folder of a model (a name or a folder) that is ready to run, built first where need be. Raises ModelError."""
    from esrt import hub

    with bar() as show:
        return hub.resolve(name, show, trust_remote_code)


@contextmanager
def bar() -> Iterator[Callable[[str, float], None]]:
    """A progress bar for a step that may be long: on stderr, on a terminal only. Tell it (what, share of 0 to 1)."""
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}"
    with tqdm(total=100, disable=None, delay=1, leave=False, bar_format=form) as shown:

        def show(what: str, share: float) -> None:
            shown.set_description_str(what, refresh=False)
            shown.update(round(100 * share) - shown.n)

        yield show
