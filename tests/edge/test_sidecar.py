"""OpenAI's own Python package against the sidecar, on real sockets; the cloud behind it is a small one."""

from __future__ import annotations

import io
import logging
import socket
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import openai
import pytest
import uvicorn
from openai import OpenAI
from starlette.responses import JSONResponse, Response

from esrt.audio.io import load
from esrt.config import SAMPLE_RATE
from esrt.edge.async_client import AsyncClient
from esrt.edge.sidecar import create_app

MODEL = "ESRT-tiny"
KEY = "secret-of-the-device"
CAP = 4 << 20


@dataclass
class Sidecar:
    """A sidecar that listens, OpenAI's client for it, and the folder where its temporary files would lie."""

    url: str
    openai: OpenAI
    folder: Path


@pytest.fixture
def sidecar(
    cloud: Any, make_edge: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sidecar]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "cache"))
    cloud.files = {"edge.onnx": make_edge().read_bytes()}
    cloud.key = KEY
    app = create_app(AsyncClient(cloud.url, KEY, patience=0.2), MODEL, upload_cap=CAP)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    with OpenAI(base_url=url, api_key="any", max_retries=0, timeout=120) as client:
        yield Sidecar(url, client, folder)
    server.should_exit = server.force_exit = True
    thread.join(60)


@pytest.fixture(scope="session")
def clip(examples: Path) -> Path:
    return examples / "spanish.flac"


def wav(samples: npt.NDArray[np.float32]) -> bytes:
    """Samples as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(SAMPLE_RATE)
        written.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


@pytest.fixture(scope="session")
def long_clip(clip: Path) -> bytes:
    """A WAV file of three utterances with pauses between them."""
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    return wav(np.concatenate([part for _ in range(3) for part in (load(clip), pause)]))


def wait_until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.02)


def sent(cloud: Any) -> list[Any]:
    """The requests for a translation that the cloud got."""
    return [seen for seen in cloud.seen if seen.path == "/v1/translations"]


def test_a_transcript(sidecar: Sidecar, cloud: Any, clip: Path) -> None:
    said = sidecar.openai.audio.transcriptions.create(model=MODEL, file=clip)
    assert said.text.startswith("uno ")
    (seen,) = sent(cloud)
    assert dict(seen.query) == {"task": "transcribe", "beam": "1"}
    assert seen.headers["authorization"] == f"Bearer {KEY}", "the program's own key goes nowhere"
    assert list(sidecar.folder.iterdir()) == [], "nothing is left of the sound"


def test_every_format(sidecar: Sidecar, clip: Path) -> None:
    create = sidecar.openai.audio.transcriptions.create
    assert create(model="whisper-1", file=clip, response_format="text").endswith("\n")
    srt = create(model="whisper-1", file=clip, response_format="srt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:04,7") and "uno" in srt
    assert create(model="whisper-1", file=clip, response_format="vtt").startswith("WEBVTT\n\n00:00:00.000 --> ")
    verbose = create(model="whisper-1", file=clip, response_format="verbose_json", timestamp_granularities=["segment"])
    assert (verbose.language, round(verbose.duration, 1)) == ("spanish", 4.7)
    assert verbose.segments is not None and verbose.segments[0].text == f" {verbose.text}"
    assert verbose.usage is not None and verbose.usage.seconds == 5


def test_a_translation(sidecar: Sidecar, cloud: Any, clip: Path) -> None:
    create = sidecar.openai.audio.translations.create
    assert create(model=MODEL, file=clip).text.startswith("eng ")
    assert (
        create(model=MODEL, file=clip, prompt="A name.", temperature=0.3, extra_body={"to_language": "de"}).text[:3]
        == "deu"
    )
    verbose = create(model=MODEL, file=clip, response_format="verbose_json", extra_body={"to_language": "fra"})
    assert verbose.language == "french" and verbose.segments
    assert sent(cloud)[0].query == [("to", "eng"), ("task", "translate"), ("beam", "1")]
    assert len(sent(cloud)[0].body) < 1_000 and len(sent(cloud)[1].body) < 300, "known features are named"


def test_a_language_is_passed_on(sidecar: Sidecar, cloud: Any, clip: Path) -> None:
    sidecar.openai.audio.transcriptions.create(model=MODEL, file=clip, language="es", prompt="x", temperature=0)
    assert ("from", "spa") in sent(cloud)[0].query


def test_a_stream(sidecar: Sidecar, long_clip: bytes) -> None:
    events = list(sidecar.openai.audio.transcriptions.create(model=MODEL, file=("a.wav", long_clip), stream=True))
    *deltas, done = events
    assert [event.type for event in deltas] == ["transcript.text.delta"] * 3
    assert done.type == "transcript.text.done"
    assert done.text == "".join(event.delta for event in deltas if event.type == "transcript.text.delta")
    assert done.text.count("uno") == 3


def test_a_stream_of_silence(sidecar: Sidecar, cloud: Any) -> None:
    silence = ("silence.wav", wav(np.zeros(SAMPLE_RATE, np.float32)))
    (done,) = sidecar.openai.audio.transcriptions.create(model=MODEL, file=silence, stream=True)
    assert (done.type, getattr(done, "text", None)) == ("transcript.text.done", "")
    assert sidecar.openai.audio.translations.create(model=MODEL, file=silence).text == ""
    assert sent(cloud) == [], "no cloud hears of silence"


def test_models(sidecar: Sidecar) -> None:
    assert [model.id for model in sidecar.openai.models.list()] == [MODEL]
    assert sidecar.openai.models.retrieve("whisper-1").id == MODEL
    with pytest.raises(openai.NotFoundError):
        sidecar.openai.models.retrieve("gpt-5")


@pytest.mark.parametrize(
    ("named", "kind", "code", "param"),
    [
        ({"file": ("a.wav", b"")}, openai.BadRequestError, "audio_empty", "file"),
        ({"file": ("a.wav", b"This is a letter.\n" * 99)}, openai.BadRequestError, "audio_not_readable", "file"),
        ({"model": "gpt-5"}, openai.NotFoundError, "model_not_found", "model"),
        ({"language": "klingon"}, openai.BadRequestError, "unknown_language", "language"),
        ({"extra_body": {"to_language": "deu"}}, openai.BadRequestError, "unsupported_value", "to_language"),
        ({"file": ("a.wav", b"RIFF" * CAP)}, openai.APIStatusError, "file_too_large", "file"),
    ],
    ids=["empty", "text", "model", "language", "to_language", "too large"],
)
def test_bad_input(
    sidecar: Sidecar,
    cloud: Any,
    clip: Path,
    caplog: pytest.LogCaptureFixture,
    named: Any,
    kind: Any,
    code: str,
    param: str,
) -> None:
    with pytest.raises(kind) as caught:
        sidecar.openai.audio.transcriptions.create(**{"model": MODEL, "file": clip, **named})
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error" and caught.value.message
    assert sent(cloud) == []
    assert not caplog.records, "what a program did wrong is for the program"
    assert list(sidecar.folder.iterdir()) == []


def error_of(response: httpx.Response) -> tuple[int, str]:
    body = response.json()["error"]
    assert body.keys() == {"message", "type", "param", "code"} and body["message"]
    return response.status_code, body["code"]


def test_requests_that_no_sdk_makes(sidecar: Sidecar, clip: Path) -> None:
    url = f"{sidecar.url}/audio/transcriptions"
    file = {"file": clip.read_bytes()}
    assert error_of(httpx.post(url, json={"model": MODEL})) == (400, "invalid_form")
    assert error_of(httpx.post(url, data={"model": MODEL}, files={"other": b"x"})) == (
        400,
        "missing_required_parameter",
    )
    assert error_of(httpx.post(url, files=file)) == (400, "missing_required_parameter")
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert error_of(httpx.post(url, content=b"no form at all", headers=kind)) == (400, "invalid_form")
    assert error_of(httpx.post(url, headers={"Content-Type": "multipart/form-data"})) == (400, "invalid_form")
    assert error_of(httpx.get(url)) == (405, "method_not_allowed")
    assert error_of(httpx.post(f"{sidecar.url}/chat/completions")) == (404, "unknown_url")


def test_a_body_without_a_length_is_counted(sidecar: Sidecar) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(2 * CAP >> 16):
            yield b"\0" * (1 << 16)

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        response = httpx.post(f"{sidecar.url}/audio/transcriptions", content=endless(), headers=kind, timeout=120)
        assert error_of(response) == (413, "file_too_large")
    except httpx.WriteError:  # it had hung up before all of it was sent
        pass
    assert list(sidecar.folder.iterdir()) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
    ],
)
def test_pages_of_other_sites_are_refused(sidecar: Sidecar, headers: dict[str, str]) -> None:
    assert error_of(httpx.get(f"{sidecar.url}/models", headers=headers)) == (403, "not_local")


def test_programs_of_this_device_may_say_where_they_are(sidecar: Sidecar) -> None:
    for headers in ({"Origin": "http://localhost:3000"}, {"Origin": "app://obsidian.md"}, {"Host": "localhost:8081"}):
        assert httpx.get(f"{sidecar.url}/models", headers=headers).status_code == 200


def test_a_key_that_the_cloud_refuses(sidecar: Sidecar, cloud: Any, clip: Path) -> None:
    cloud.key = "another"
    with pytest.raises(openai.AuthenticationError) as caught:
        sidecar.openai.audio.transcriptions.create(model=MODEL, file=clip)
    assert caught.value.code == "invalid_api_key" and "esrt sidecar" in caught.value.message


def test_a_cloud_that_is_gone(sidecar: Sidecar, cloud: Any, clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    cloud.stop()
    with pytest.raises(openai.InternalServerError) as caught:
        sidecar.openai.audio.transcriptions.create(model=MODEL, file=clip)
    assert (caught.value.status_code, caught.value.code) == (502, "cloud_unreachable")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert not caplog.records


def test_a_cloud_that_fails_in_the_middle_of_a_stream(sidecar: Sidecar, cloud: Any, long_clip: bytes) -> None:
    silence = wav(np.zeros(SAMPLE_RATE, np.float32))
    sidecar.openai.audio.translations.create(model=MODEL, file=("a.wav", silence))  # it has its edge model now
    cloud.first.append(cloud_says("Hola."))
    cloud.first.extend(Response("no", 500) for _ in range(10))
    with pytest.raises(openai.APIError) as caught:
        heard = []
        for event in sidecar.openai.audio.transcriptions.create(model=MODEL, file=("a.wav", long_clip), stream=True):
            heard.append(event)
    assert [event.type for event in heard] == ["transcript.text.delta"]
    assert getattr(caught.value, "body", {})["code"] == "cloud_error"


def cloud_says(text: str) -> Response:
    usage = {"bytes": 1, "tokens": 1, "seconds": 0.1}
    return JSONResponse({"source": "spa", "transcript": text, "translations": {}, "features": "", "usage": usage})


def test_a_program_that_leaves_ends_the_work(sidecar: Sidecar, cloud: Any, long_clip: bytes) -> None:
    over = threading.Event()

    def never() -> Response:
        over.wait(300)
        return cloud_says("Hola.")

    sidecar.openai.audio.transcriptions.create(model=MODEL, file=("a.wav", wav(np.zeros(SAMPLE_RATE, np.float32))))
    cloud.first.extend([cloud_says("Hola."), never])
    stream = sidecar.openai.audio.transcriptions.create(model=MODEL, file=("a.wav", long_clip), stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: not any(thread.name == "esrt-edge" for thread in threading.enumerate()))
    over.set()
    assert list(sidecar.folder.iterdir()) == []


def test_a_damaged_sound_is_a_line_of_the_log(sidecar: Sidecar, clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = clip.read_bytes()
    middle, hole = len(whole) // 2, len(whole) // 10
    sound = whole[:middle] + bytes(hole) + whole[middle + hole :]
    said = sidecar.openai.audio.transcriptions.create(model=MODEL, file=("private.flac", sound))
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("esrt")]
    assert line.startswith("The audio is damaged") and said.text not in line


def test_nothing_is_logged(sidecar: Sidecar, clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="esrt"):
        said = sidecar.openai.audio.transcriptions.create(model=MODEL, file=clip)
    assert said.text not in caplog.text and KEY not in caplog.text
