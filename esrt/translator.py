"""Speech in, texts out: both halves in one process, joined by the bytes of a frame, or one half here and a cloud."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from esrt.audio import io
from esrt.edge import pipeline
from esrt.edge.encoder import Encoder
from esrt.wire.schemas import TranslationRequest, TranslationResponse

if TYPE_CHECKING:
    from esrt.cloud.service import Service

Answer = TypeVar("Answer")


class Cloud(pipeline.Sends, Protocol):
    """Whatever answers for a frame: a client of a real cloud, or the service in this process."""

    def close(self) -> None:
        """Let go of connections and threads."""
        ...


class Translator:
    """A model that is ready to translate. Use it in a `with`, or call `close` when done."""

    def __init__(self, model: str = "ESRT-270M", codec: str = "int8") -> None:
        """Load both halves of a model (a name or a folder); the first time its base weights are fetched and converted.

        `codec` is how the tensor between the halves is packed: int8 or bf16. Raises ModelError.
        """
        from esrt.cloud.load import load_service

        folder = prepare(model)
        self._set(Encoder(folder / "edge.onnx"), LocalCloud(load_service(folder)), codec)

    @classmethod
    def remote(cls, url: str, key: str | None = None, codec: str = "int8") -> Translator:
        """The device's half here and the cloud's at `url`, which also hands out the device's half. No torch is needed.

        Raises CloudError when the cloud cannot be reached or refuses the key.
        """
        from esrt import hub
        from esrt.edge.client import Client

        client = Client(url, key)
        with bar() as show:
            edge = client.download_edge(
                hub.cache_dir() / "edge", lambda done, size: show("fetching the device's half", done / size)
            )
        translator = cls.__new__(cls)
        translator._set(Encoder(edge), client, codec)
        return translator

    def _set(self, encoder: Encoder, cloud: Cloud, codec: str) -> None:
        self._encoder, self._cloud, self._codec = encoder, cloud, codec

    def translate(
        self, audio: str | Path | npt.NDArray[np.float32], to: Sequence[str], source: str | None = None
    ) -> pipeline.Result:
        """Transcript and translations of a sound file, or of samples (float32 [n], 16 kHz, mono).

        Languages are ISO 639-3 or BCP 47 codes. Without `source` the model finds the language, and it stays unknown to
        whoever watches the network. Raises UsageError, AudioError, CloudError.
        """
        samples = audio if isinstance(audio, np.ndarray) else io.load(audio)
        return pipeline.translate(samples, self._encoder, self._cloud, to, source, self._codec)

    def transcribe(self, audio: str | Path | npt.NDArray[np.float32], source: str | None = None) -> pipeline.Result:
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


class LocalCloud:
    """The cloud's service in this process: takes the same bytes as a server does, and checks them the same way."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="esrt-cloud", daemon=True)
        self._thread.start()

    def translate(
        self, frame: bytes, to: list[str], source: str | None = None, task: pipeline.Task = "translate"
    ) -> TranslationResponse:
        """The answer to one frame. Raises FrameError, CloudError."""
        request = TranslationRequest("", to, source, task)
        return self._wait(self._service.translate(self._service.read(frame), request))

    def close(self) -> None:
        """Stop the engine and the event loop."""
        if self._loop.is_closed():
            return
        self._wait(self._service.engine.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def prepare(name: str) -> Path:
    """The folder of a model (a name or a folder) that is ready to run, built first where need be. Raises ModelError."""
    from esrt import hub

    with bar() as show:
        return hub.resolve(name, show)


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
