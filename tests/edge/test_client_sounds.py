"""Sounds given to the clients: encoded here by the edge model that the cloud hands out, whole or segment by segment."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from starlette.responses import Response

from esrt.audio.io import load
from esrt.config import SAMPLE_RATE
from esrt.edge.async_client import AsyncClient
from esrt.edge.client import Client
from esrt.errors import AudioError
from esrt.translator import Translator

Connect = Callable[..., Any]


@pytest.fixture
def sounds(cloud: Any, make_edge: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cloud that hands out a real edge model, so that clients may be given sounds."""
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "cache"))
    cloud.files = {"edge.onnx": make_edge().read_bytes()}
    return cloud


def test_a_sound(connect: Connect, sounds: Any, examples: Path) -> None:
    client = connect(sounds.url)
    result = client.translate(examples / "spanish.flac", to=["de", "fra"])
    assert (result.source, result.translations.keys()) == ("spa", {"deu", "fra"})
    (segment,) = result.segments
    assert (segment.start, round(segment.end, 1)) == (0.0, 4.7)
    with (examples / "spanish.flac").open("rb") as file:
        assert client.translate(file, to=[]).translations == {}
    assert [path for path in sounds.asked() if "/v1/edge/" in path] == ["GET /v1/edge/edge.onnx"], "once for all sounds"
    with pytest.raises(AudioError):
        client.translate(examples / "nothing.wav", to=["deu"])


def test_no_segment_is_longer_than_the_model_hears_well(
    connect: Connect, sounds: Any, make_edge: Callable[..., Path], examples: Path
) -> None:
    sounds.files = {"edge.onnx": make_edge(longest=2).read_bytes()}
    spanish = examples / "spanish.flac"  # 4.7 s without a pause of a second
    found = [(segment.start, segment.end) for segment in connect(sounds.url).translate(spanish, to=[]).segments]
    assert len(found) >= 3 and all(end - start <= 2 for start, end in found)
    with Client(sounds.url) as client, Translator.remote(sounds.url) as translator:
        for one in (client, translator):
            assert [(segment.start, segment.end) for segment in one.segments(spanish)] == found


def many(examples: Path) -> npt.NDArray[np.float32]:
    """Samples of three utterances with pauses between them."""
    said = load(examples / "spanish.flac")
    return np.concatenate([part for _ in range(3) for part in (said, np.zeros(2 * SAMPLE_RATE, np.float32))])


def test_a_damaged_sound(connect: Connect, sounds: Any, examples: Path, tmp_path: Path) -> None:
    whole = (examples / "spanish.flac").read_bytes()
    middle, hole = len(whole) // 2, len(whole) // 10
    (tmp_path / "talk.flac").write_bytes(whole[:middle] + bytes(hole) + whole[middle + hole :])
    with pytest.warns(UserWarning, match=r"talk\.flac is damaged"):
        assert connect(sounds.url).translate(tmp_path / "talk.flac", to=["deu"]).transcript


def test_segments_as_they_come(sounds: Any, examples: Path) -> None:
    client = Client(sounds.url)
    found = client.segments(many(examples), to=["deu"])
    first = next(found)
    assert first.translations["deu"].startswith("deu ")
    assert first.end < next(found).start
    found.close()
    assert not working()


def test_segments_with_asyncio(sounds: Any, examples: Path) -> None:
    over = threading.Event()

    def silent() -> Response:
        over.wait(300)
        return Response("too late", 400)

    async def work() -> list[float]:
        async with AsyncClient(sounds.url) as client:
            starts = [segment.start async for segment in client.segments(many(examples), to=["deu"])]
            found = client.segments(many(examples))
            async for segment in found:
                assert segment.start == starts[0]
                break
            await found.aclose()
            assert not working()
            # Cancelled while it waits for a cloud that does not answer.
            sounds.first.append(silent)
            waiting = asyncio.create_task(client.translate(many(examples), to=["fra"]))
            count = len(sounds.seen)
            while len(sounds.seen) == count:
                await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not working()
            over.set()
        return starts

    starts = asyncio.run(work())
    assert len(starts) == 3 and starts == sorted(starts)


def test_who_waits_for_the_cloud_holds_no_thread_that_names_need(sounds: Any, examples: Path) -> None:
    """A name is looked up in the loop's default executor, which has a single thread here."""

    async def work() -> str:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with AsyncClient(f"http://localhost:{sounds.port}", patience=2) as client:
            await client.encoder()
            sounds.stop()
            sounds.start()  # no connection is left: the name is looked up once more
            return (await client.translate(examples / "spanish.flac", to=["deu"])).translations["deu"]

    assert asyncio.run(work()).startswith("deu ")


def working() -> bool:
    return any(thread.name == "esrt-edge" for thread in threading.enumerate())
