"""Long files through the real command and a small cloud: files, progress, Ctrl-C, and all that goes wrong midway."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from esrt.audio.io import load
from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE
from esrt.errors import UsageError
from esrt.translator import Translator
from esrt.wire import frame
from tests.edge.answers import problem

EXAMPLES = Path(__file__).parents[2] / "examples"
SEGMENTS = 6
MAIN = "import sys; from esrt.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def talk() -> Samples:
    """SEGMENTS utterances, 2 s of silence between them."""
    clips = [load(EXAMPLES / f"{name}.flac") for name in ("french", "russian", "spanish")]
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    return np.concatenate([part for at in range(SEGMENTS) for part in (clips[at % 3] * (1 - 0.05 * at), pause)])


@pytest.fixture
def wav(talk: Samples, tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((talk * 32767).astype("<i2").tobytes())
    return path


@dataclass
class Steady:
    """Answers alike for the same frame. Answer number `hold` waits for `go`; number `fail` is what `failure` makes."""

    count: int = 0
    hold: int = 0
    go: threading.Event = field(default_factory=threading.Event)
    fail: int = 0
    failure: Callable[[], Response | None] = lambda: None

    def __call__(self, request: Request, body: bytes) -> Response:
        self.count += 1
        if self.count == self.hold:
            self.go.wait(120)
        if self.count == self.fail and (failed := self.failure()) is not None:
            return failed
        if request.headers["content-type"] == "application/json":
            features, to = json.loads(body)["features"], json.loads(body)["to"]
        else:
            features, to = frame.read(body, cap=10_000).id, request.query_params.getlist("to")
        answer = {
            "source": "spa",
            "transcript": f"dijo {features[:6]}",
            "translations": {code: f"{code} {features[:6]}" for code in to},
            "features": features,
            "usage": {"bytes": len(body), "tokens": 3, "seconds": 0.5},
        }
        return JSONResponse(answer)


@pytest.fixture
def steady(cloud: Any, make_edge: Callable[..., Path]) -> Iterator[Steady]:
    cloud.files = {"edge.onnx": make_edge().read_bytes()}
    cloud._translate = Steady()
    yield cloud._translate
    cloud._translate.go.set()


@dataclass
class Command:
    """Starts `esrt translate --to deu,fra` in a process of its own, with a cache of its own."""

    url: str
    folder: Path

    def start(self, *arguments: str | Path, script: str = MAIN, stderr: int = subprocess.PIPE, **named: Any) -> Any:
        command = [sys.executable, "-c", script, "translate", "--to", "deu,fra", "--cloud", self.url]
        environment = {**os.environ, "ESRT_CACHE": str(self.folder / "cache")}
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            **named,
        )

    def run(self, *arguments: str | Path, **named: Any) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = self.start(*arguments, **named)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err


@pytest.fixture
def command(cloud: Any, tmp_path: Path) -> Command:
    return Command(cloud.url, tmp_path)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_file_a_language(command: Command, steady: Steady, wav: Path) -> None:
    code, out, err = command.run(wav, "--format", "srt", "--out", "new/subtitles")
    assert (code, err) == (0, "")
    folder = command.folder / "new" / "subtitles"
    assert sorted(out.split()) == [f"new/subtitles/talk.{code}.srt" for code in ("deu", "fra", "spa")]
    assert sorted(texts(folder)) == [f"talk.{code}.srt" for code in ("deu", "fra", "spa")]
    times = {tuple(re.findall(r"[\d:,]{12}", text)) for text in texts(folder).values()}
    assert len(times) == 1 and len(next(iter(times))) == 2 * SEGMENTS and list(*times) == sorted(*times)
    assert texts(folder)["talk.deu.srt"].count("\ndeu ") == SEGMENTS

    # A file whose results are there is not done again.
    asked = steady.count
    code, out, err = command.run(wav, "--format", "srt", "--out", "new/subtitles", "--resume")
    assert (code, out) == (0, "") and err.endswith("talk.wav: the results that are there are newer, and stay\n")
    assert steady.count == asked == SEGMENTS


def test_ctrl_c_and_resume(command: Command, steady: Steady, wav: Path) -> None:
    steady.hold = 4
    process = command.start(wav, "--out", "out", "--format", "vtt")
    wait_for(lambda: steady.count == 4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    (line,) = err.splitlines()
    assert re.fullmatch(r"esrt: Interrupted: .*talk\.wav is done up to 00:00:\d\d, .* --resume .*\[interrupted\]", line)
    partly = texts(command.folder / "out")
    assert partly.pop("talk.esrt.jsonl").count("\n") == 1 + 3
    assert (
        set(partly)
        == {f"talk.{code}.vtt" for code in ("deu", "fra", "spa")}
        == {Path(line).name for line in out.split()}
    )
    assert all(text.count(" --> ") == 3 for text in partly.values())

    steady.go.set()
    steady.count = steady.hold = 0
    assert command.run(wav, "--out", "out", "--format", "vtt", "--resume")[::2] == (0, "")
    assert steady.count == SEGMENTS - 3, "what was done is not done again"
    assert command.run(wav, "--out", "whole", "--format", "vtt")[::2] == (0, "")
    assert texts(command.folder / "out") == texts(command.folder / "whole")


def test_the_second_ctrl_c_ends_at_once(command: Command, steady: Steady, wav: Path) -> None:
    steady.hold = 2
    hangs = (
        "import sys, time; from esrt.cli.journal import Journal;"
        "Journal.keep = lambda *_: (print('hangs', file=sys.stderr, flush=True), time.sleep(600)); "
    )
    process = command.start(wav, script=hangs + MAIN)
    wait_for(lambda: steady.count == 2)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "hangs\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=300) == ("", "")
    assert process.returncode == 130


def test_the_cloud_goes_away_midway(cloud: Any, command: Command, steady: Steady, wav: Path) -> None:
    """With results on stdout: what is done is printed, and kept in the current folder."""

    def go_away() -> None:
        cloud.server.should_exit = cloud.server.force_exit = True
        # It would look at these some time later, and answer until then.
        for listener in cloud.server.servers:
            listener.close()
        for connection in list(cloud.server.server_state.connections):
            connection.transport.abort()

    steady.fail, steady.failure = 3, go_away
    impatient = (
        "from esrt.edge.client import Client; first = Client.__init__;"
        "Client.__init__ = lambda *a, **k: first(*a, **{**k, 'patience': 0.5}); "
    )
    code, out, err = command.run(wav, "--format", "verbose_json", script=impatient + MAIN)
    assert code == 2
    (line,) = err.splitlines()
    assert "talk.wav is done up to 00:00:" in line and "--resume" in line and line.endswith(" [cloud_unreachable]")
    done = json.loads(out)["segments"]
    assert len(done) == 2

    cloud.stop()
    cloud.start()
    steady.count = steady.fail = 0
    code, out, err = command.run(wav, "--format", "verbose_json", "--resume")
    assert (code, err) == (0, "")
    whole = json.loads(out)
    assert whole["segments"][: len(done)] == done and len(whole["segments"]) == SEGMENTS == len(done) + steady.count
    assert whole["duration"] == pytest.approx(len(load(wav)) / SAMPLE_RATE, abs=0.01)
    assert not list(command.folder.glob("*.jsonl"))


def test_a_full_disk_loses_nothing(command: Command, steady: Steady, wav: Path) -> None:
    assert command.run(wav, "--out", "whole", "--format", "tsv")[0] == 0  # and the edge model is here

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))

    code, _, err = command.run(wav, "--out", "out", "--format", "tsv", preexec_fn=small_disk)
    assert code == 2
    (line,) = err.splitlines()
    assert "talk.wav is done up to 00:00:" in line and "cannot be written" in line
    assert line.endswith(" [output_not_saved]")
    kept = (command.folder / "out" / "talk.esrt.jsonl").read_bytes().count(b"\n") - 1
    assert 0 < kept < SEGMENTS
    steady.count = 0
    assert command.run(wav, "--out", "out", "--format", "tsv", "--resume")[::2] == (0, "")
    assert steady.count == SEGMENTS - kept
    assert texts(command.folder / "out") == texts(command.folder / "whole")


def test_stdout_that_is_full(command: Command, steady: Steady, wav: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "esrt", "transcribe", str(wav), "--cloud", command.url],
            cwd=command.folder,
            env={**os.environ, "ESRT_CACHE": str(command.folder / "cache")},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
        _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    (line,) = err.splitlines()
    assert "stdout cannot be written: No space left on device" in line and "--resume" in line


def _damaged_mp3(path: Path, sound: Samples) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono")
        part = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        part.sample_rate = SAMPLE_RATE
        size = stream.codec_context.frame_size
        resampler = av.AudioResampler(stream.format, "mono", SAMPLE_RATE, frame_size=size)
        for piece in [*resampler.resample(part), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(3_000) + whole[middle + 3_000 :])
    return path


def test_a_damaged_middle(command: Command, steady: Steady, talk: Samples) -> None:
    path = _damaged_mp3(command.folder / "talk.mp3", talk)
    code, out, err = command.run(path, "--format", "json")
    assert code == 2
    (line,) = err.splitlines()
    assert "talk.mp3 is damaged" in line and line.endswith(" [audio_damaged]")
    assert json.loads(out)["transcript"].count("dijo") >= SEGMENTS - 1


def test_other_options_are_not_resumed(command: Command, steady: Steady, wav: Path) -> None:
    (command.folder / "talk.esrt.jsonl").write_text('{"esrt": 1, "to": ["ita"]}\n')
    code, out, err = command.run(wav, "--out", ".", "--resume")
    assert (code, out) == (2, "") and err.endswith(" [resume_mismatch]\n") and steady.count == 0
    assert (command.folder / "talk.esrt.jsonl").exists()


def test_two_files_of_one_name_on_stdout(command: Command, steady: Steady, wav: Path) -> None:
    """What is kept of one is neither deleted by the other nor taken for it."""
    monday, tuesday = (command.folder / day / ("a long name " * 20 + ".wav") for day in ("monday", "tuesday"))
    for path in (monday, tuesday):
        path.parent.mkdir()
        shutil.copy(wav, path)
    steady.fail, steady.failure = 3, lambda: problem(400, "bad_request")
    code, _, err = command.run(monday)
    assert code == 2 and "--resume" in err
    steady.fail = 0
    assert command.run(tuesday, "--resume")[::2] == (0, "")
    steady.count = 0
    assert command.run(monday, "--resume")[::2] == (0, "") and steady.count == SEGMENTS - 2
    assert not list(command.folder.glob("*.jsonl"))


def test_stdout_takes_any_script(command: Command, steady: Steady, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a locale that has not all letters; and a name that is no text in any."""
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    odd = wav.rename(wav.with_name(os.fsdecode("\u0440\u0435\u0447\u044c-".encode() + b"\xff.wav")))
    code, out, err = command.run(odd, encoding="utf-8", errors="surrogateescape")
    assert (code, err) == (0, "") and out.splitlines()[0] == str(odd)
    assert command.run(odd, "--out", "out", encoding="utf-8", errors="surrogateescape")[::2] == (0, "")


def test_a_bar_on_a_terminal(command: Command, steady: Steady, wav: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    steady.hold = 3
    process = command.start(wav, stderr=theirs)
    os.close(theirs)
    wait_for(lambda: steady.count == 3)
    time.sleep(1.5)  # a bar that is gone at once would only flicker: it comes after a second
    steady.go.set()
    shown = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other side has closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert re.search(rb"talk\.wav: +\d+% \|.*\| \d\d:\d\d, .*left", shown), shown


def test_from_python(
    cloud: Any, steady: Steady, wav: Path, talk: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "cache"))
    with Translator.remote(cloud.url) as translator:
        found = list(translator.segments(wav, to=["de"]))
        assert len(found) == SEGMENTS and all(result.translations["deu"] for result in found)
        whole = translator.translate(str(wav), to=["deu"])
        assert [(s.start, s.transcript) for s in whole.segments] == [(s.start, s.transcript) for s in found]
        assert whole.transcript == " ".join(result.transcript for result in found)
        rest = translator.segments(wav, to=["deu"], done=found[:4])
        assert [result.transcript for result in rest] == [result.transcript for result in found[4:]]
        with pytest.raises(UsageError, match="not of this audio"):
            next(translator.segments(talk[SAMPLE_RATE:], to=["deu"], done=found[:1]))
        with pytest.warns(UserWarning, match="is damaged") as told:
            assert translator.transcribe(_damaged_mp3(tmp_path / "talk.mp3", talk)).transcript
        assert sum("is damaged" in str(one.message) for one in told) == 1
