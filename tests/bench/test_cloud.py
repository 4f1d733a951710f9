"""What measures the cloud's half: real servers of a tiny model, real sockets, and the tables of given figures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from esrt.bench.cloud import burst, clients, fork, frames, load, setting, speed
from esrt.bench.cloud.__main__ import PAGE, SECTIONS, main
from esrt.bench.cloud.clients import Job, Load, Outcome
from esrt.bench.server import Server, serving
from esrt.cli.bench import BENCHES
from esrt.errors import ESRTError, UsageError
from esrt.model import checkpoint, manifest
from esrt.wire.codecs import encode
from tests.cloud.conftest import llm, make_folder, talking, tokenizer  # noqa: F401
from tests.edge.conftest import describe, write_edge

ROOT = Path(__file__).parent.parent.parent


def cells(text: str) -> list[list[str]]:
    """The rows of the first table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def refused(error: pytest.ExceptionInfo[ESRTError]) -> str:
    assert "\n" not in str(error.value)
    return error.value.code


@pytest.fixture(scope="module")
def tiny(make_folder: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("model")
    make_folder(folder)
    (folder / "whisper").mkdir()
    manifest.write(folder)
    return folder


@pytest.fixture(scope="module")
def features(tiny: Path) -> list[bytes]:
    """Frames of the tiny model, whose edge half nobody could run."""
    rows = np.random.default_rng(5).standard_normal((48, 6, 24)).astype(np.float32)
    tables, fingerprint = checkpoint.load_tables(tiny), checkpoint.fingerprint(tiny)
    return [encode(one, "int8", tables, fingerprint).to_bytes() for one in rows]


@pytest.fixture
def real(tiny: Path, features: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sections take their frames from here: the tiny model's folder."""

    def make(folder: Path, paths: Sequence[str], count: int) -> list[bytes]:
        assert folder == tiny and paths
        return [features[number % len(features)] for number in range(count)]

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(frames, "make", make)
    return tiny


def measured(section: str, model: Path, folder: Path, *options: str) -> str:
    """A section's text, as its command leaves it on a page."""
    page = folder / "cloud.md"
    page.write_text(f"<!-- {section} -->\n<!-- /{section} -->\n", encoding="utf-8")
    assert main([section, "--model", str(model), "--page", str(page), *options]) == 0
    return page.read_text(encoding="utf-8")


def test_the_page_has_every_section() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for section in SECTIONS:
        assert f"<!-- {section.__name__} -->\n" in text and f"<!-- /{section.__name__} -->" in text
        assert f"esrt bench cloud {section.__name__}" in text


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ([], ["warmth"], ["burst", "--capacity", "0"], ["load", "--rate", "x"], ["speed", "--engines", "gpt"]):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2
    assert "'x' is not a number of requests a second" in capsys.readouterr().err
    assert main(["load", "--model", "/none/such"]) == 2
    assert "[model_not_found]" in capsys.readouterr().err


def test_the_verb_hands_on(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    told = run("bench", "cloud", "burst", "--help")
    assert told.returncode == 0 and "--capacity" in told.stdout
    assert run("bench", "edge", "--help").returncode == 0
    wrong = run("bench", "nothing")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    assert all(f"'{part}'" in wrong.stderr for part in BENCHES)


def test_load(real: Path, tmp_path: Path) -> None:
    text = measured("load", real, tmp_path, "--clients", "3", "--requests", "6", "--rate", "20", "--targets", "2")
    rows = cells(text)
    assert [row[0] for row in rows] == ["3 in a circle", "Poisson, 20/s", "6 at once"]
    for row in rows:
        assert row[1:4] == ["6", "6", "0"]
        first, whole = [float(cell) for cell in row[4:7]], [float(cell) for cell in row[7:10]]
        assert first == sorted(first) and whole == sorted(whole) and first[0] <= whole[0]
        assert float(row[10]) > 0 and float(row[13]) > 50, "tokens a second, MB"
    svg = xml.etree.ElementTree.parse(tmp_path / "cloud-load.svg").getroot()
    assert len(svg.findall("{*}polyline")) == 3


def test_burst(real: Path, tmp_path: Path) -> None:
    found = {name: value for name, value, _ in cells(measured("burst", real, tmp_path, "--capacity", "3"))}
    assert found["requests at once"] == "30"
    accepted = int(found["accepted, and answered in whole"])
    assert accepted >= 3 and int(found["refused with 429"]) == 30 - accepted
    assert found["accepted, and lost"] == found["anything else: other codes, broken connections"] == "0"
    assert found["ready afterwards, the same process"] == "yes"


def test_fork(real: Path, tmp_path: Path) -> None:
    options = ("--engines", "transformers", "--targets", "4", "--rounds", "1")
    rows = cells(measured("fork", real, tmp_path, *options))
    assert [row[0].removeprefix("transformers, ") for row in rows] == [fork.AT_ONCE, fork.IN_TURN, fork.FORKED]
    assert rows[2][3] == "1.0" and all(float(row[1]) > 0 for row in rows)


def test_speed(real: Path, tmp_path: Path) -> None:
    options = ("--engines", "transformers", "--clients", "4", "--requests", "8", "--rounds", "1")
    (row,) = cells(measured("speed", real, tmp_path, *options))
    assert row[0] == "transformers" and float(row[1]) > 0


def test_speeds_are_compared() -> None:
    text = speed.report({"transformers": [10, 30, 20], "vllm": [57, 1, 99], speed.OFFLINE: [60]})
    assert cells(text)[0] == ["transformers", "20", "10 to 30"]
    assert "vllm over transformers: **2.85**" in text and "vllm over vllm, offline: **0.95**" in text


def test_the_table_of_a_burst() -> None:
    refused = [Outcome(429, 0.02)] * 7
    found = [Outcome(200, 3.0, 1.0, 9, True), Outcome(200, 2.0, 1.0), Outcome(0, 1.0), *refused]
    text = burst.report(Load(found, 4.0, 1.0, 5), 100_000_000, 110_000_000, 60, False)
    rows = {name: value for name, value, _ in cells(text)}
    assert list(rows.values()) == [
        "10",
        "1",
        "1",
        "7",
        "1",
        "20 / 20 / 20",
        "3.0 / 3.0 / 3.0",
        "100, 110",
        "+10.0 %",
        "no",
    ]


def test_what_has_no_answer_has_no_speed() -> None:
    with pytest.raises(UsageError) as caught:
        clients.answered(Load([Outcome(200, 1.0, 0.5, 3, True), Outcome(429, 0.1)], 1.0, 0.1, 1), "vllm")
    assert refused(caught) == "unanswered" and "1 of 2" in str(caught.value)
    assert load.percentiles([]) == ["-", "-", "-"]


ANSWERS = {
    b"whole": (b"200 OK", b"event: transcript\ndata: {}\n\n", b'event: done\ndata: {"usage": {"tokens": 7}}\n\n', b""),
    b"error": (b"200 OK", b"event: transcript\ndata: {}\n\n", b"event: error\ndata: {}\n\n", b""),
    b"short": (b"200 OK", b"event: transcript\ndata: {}\n\n"),
}


@pytest.fixture
def wire() -> Iterator[str]:
    """A server that answers as the frame says, and closes the connection after a `short` or `none`."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r")[0]))
                if body == b"none":
                    return
                if body == b"full":
                    writer.write(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}")
                    continue
                status, *chunks = ANSWERS[body]
                writer.write(b"HTTP/1.1 %s\r\ntransfer-encoding: chunked\r\n\r\n" % status)
                for chunk in chunks:
                    writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    await asyncio.sleep(0.01)
                if body == b"short":
                    return

    found: queue.SimpleQueue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    async def listen() -> None:
        ends = asyncio.Event()
        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            found.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), ends))
            await ends.wait()

    thread = threading.Thread(target=lambda: asyncio.run(listen()))
    thread.start()
    port, loop, ends = found.get(timeout=60)
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(ends.set)
    thread.join()


def test_what_a_client_sees(wire: str) -> None:
    kinds = [b"whole", b"error", b"short", b"none", b"full", b"whole"]
    each = [Job(kind, ("deu",)) for kind in kinds]
    for outcomes in (
        asyncio.run(clients.closed(wire, each, 1)),
        asyncio.run(clients.burst(wire, each)),
        asyncio.run(clients.poisson(wire, each, 1000)),
    ):
        assert [(one.status, one.whole, one.tokens) for one in outcomes] == [
            (200, True, 7), (200, False, 0), (200, False, 0), (0, False, 0), (429, False, 0), (200, True, 7),
        ]  # fmt: skip
        assert [one.first is None for one in outcomes] == [False, False, False, True, True, False]
        assert all(0 <= (one.first or 0) <= one.seconds for one in outcomes)


def test_a_server_that_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(UsageError) as caught:
        clients.drive(Server(url, os.getpid()), clients.closed(url, [Job(b"", ("deu",))], 1))
    assert refused(caught) == "cloud_failed"
    (lost,) = asyncio.run(clients.poisson(url, [Job(b"", ("deu",))], 100))
    assert (lost.status, lost.whole) == (0, False)


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, serving(str(tmp_path / "none")):
        pass
    assert refused(caught) == "cloud_failed" and "esrt serve ended with 2" in str(caught.value)
    with pytest.raises(UsageError) as caught, serving("x", python=str(tmp_path / "python")):
        pass
    assert refused(caught) == "cloud_failed"


def test_what_a_process_takes() -> None:
    with subprocess.Popen([sys.executable, "-c", "input(b'1' * 50_000_000 and '')"], stdin=subprocess.PIPE) as child:
        here = Server("", os.getpid())
        assert here.processor() >= Server("", child.pid).processor() >= 0
        ends = time.monotonic() + 60
        while here.memory() < Server("", child.pid).memory() + 10_000_000 or Server("", child.pid).memory() == 0:
            assert time.monotonic() < ends
        child.kill()


def test_real_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_edge(tmp_path / "edge.onnx", json.dumps(describe()))
    monkeypatch.chdir(ROOT)
    paths = frames.clips(None)
    assert {Path(path).stem for path in paths} >= {"french", "russian", "spanish", "vm-whichbox"}
    assert frames.clips(Path("examples")) == [path for path in paths if path.startswith("examples")]
    made = frames.make(tmp_path, paths[:2], 5)
    assert len(set(made)) == 5 and made == frames.make(tmp_path, paths[:2], 5)
    with pytest.raises(UsageError) as caught:
        frames.clips(tmp_path)
    assert refused(caught) == "no_clips"


def test_jobs_go_round_the_languages() -> None:
    found = clients.jobs([b"a", b"b"], 40, 3)
    assert [job.frame for job in found[:3]] == [b"a", b"b", b"a"]
    assert all(len(set(job.to)) == 3 for job in found) and found[0].to[0] == found[15].to[0]
    assert setting.python(Namespace(vllm=Path("p")), "vllm") == "p"
