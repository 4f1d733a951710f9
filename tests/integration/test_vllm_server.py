"""`esrt serve --engine vllm` as a server, with the real vLLM on a processor: what it answers, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from esrt.languages import CORE
from esrt.wire.schemas import Problem, TranslationResponse
from tests.integration.conftest import VLLM, is_alive, needs_vllm

pytestmark = needs_vllm


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any]) -> Iterator[Any]:
    # Four texts at once, so that a request for many languages lasts.
    server = start_server("--no-auth", "--port", "0", "--engine", "vllm", "--", "--max-num-seqs", "4", python=str(VLLM))
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http:
        while http.get("/readyz").status_code != 200:
            time.sleep(0.1)
    yield server


def metric(url: str, name: str) -> float:
    """The sum of a metric over its labels."""
    text = httpx.get(f"{url}/metrics", trust_env=False, timeout=60).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def test_whole_and_in_pieces(server: Any, frames: list[bytes]) -> None:
    url = f"{server.url}/v1/translations?to=deu&to=por"  # none of the clips speaks one of these
    settings: dict[str, Any] = {"trust_env": False, "timeout": 300}
    whole = TranslationResponse.from_json(httpx.post(url, content=frames[0], **settings).json())
    assert whole.transcript and all(whole.translations.values())
    pieces: dict[str, str] = {}
    streamed = httpx.post(url, content=frames[0], headers={"Accept": "text/event-stream"}, **settings).text
    for event in streamed.strip().split("\n\n")[:-1]:
        name, data = (line.split(": ", 1)[1] for line in event.splitlines())
        told = json.loads(data)
        key = name if name == "transcript" else told["language"]
        pieces[key] = pieces.get(key, "") + told["text"]
    assert pieces == {"transcript": whole.transcript, **whole.translations}
    assert streamed.count("event: translation") > 4
    refused = httpx.post(f"{url}&beam=4", content=frames[0], **settings)
    assert (refused.status_code, Problem.from_json(refused.content).code) == (400, "beam_not_supported")


def test_a_client_that_leaves_frees_its_places(server: Any, frames: list[bytes]) -> None:
    targets = "&".join(f"to={code}" for code in CORE)
    url = f"{server.url}/v1/translations?{targets}"
    with (
        httpx.Client(trust_env=False, timeout=300) as http,
        http.stream("POST", url, content=frames[4], headers={"Accept": "text/event-stream"}) as events,
    ):
        next(line for line in events.iter_lines() if line.startswith("event: transcript"))
        before = metric(server.url, "esrt_tokens_total")
    while metric(server.url, "esrt_engine_load"):
        time.sleep(0.05)
    assert metric(server.url, "esrt_tokens_total") == before  # which counts answers that were decoded to their end
    assert httpx.post(
        f"{server.url}/v1/translations?to=deu", content=frames[1], trust_env=False, timeout=300
    ).is_success


def test_a_dead_engine_ends_the_server(server: Any, frames: list[bytes]) -> None:
    """Whoever waits gets a 503, and the process ends with one line, for a supervisor to start it again."""
    family = list(descendants(server.process.pid))
    (core,) = (pid for pid in family if Path(f"/proc/{pid}/comm").read_text().startswith("VLLM::EngineCor"))
    targets = "&".join(f"to={code}" for code in CORE)

    def ask(frame: bytes) -> httpx.Response:
        return httpx.post(f"{server.url}/v1/translations?{targets}", content=frame, trust_env=False, timeout=300)

    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(ask, frame) for frame in frames[2:7]]
        while metric(server.url, "esrt_engine_load") < 5:
            time.sleep(0.02)
        os.kill(core, signal.SIGKILL)
        answers = [future.result() for future in waiting]
    assert {answer.status_code for answer in answers} == {503}
    assert {Problem.from_json(answer.content).code for answer in answers} == {"not_ready"}
    assert all("retry-after" in answer.headers for answer in answers)
    assert server.process.wait(60) == 2
    ends = time.monotonic() + 60
    while any(is_alive(pid) for pid in family):
        assert time.monotonic() < ends
        time.sleep(0.1)
    # Python may add what its children left behind.
    assert sum(line.endswith("[engine_failed]") for line in server.log.splitlines()) == 1, server.log
    assert "Traceback" not in server.log, server.log


def descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            yield child
            yield from descendants(child)


@pytest.mark.parametrize("flags", [["--no-such-flag", "1"], ["--dtype", "int3"]])
def test_flags_that_vllm_does_not_know(flags: list[str]) -> None:
    command = [str(VLLM), "-m", "esrt", "serve", "--no-auth", "--port", "0", "--engine", "vllm", "--", *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.splitlines()[-1].endswith("[vllm_flags]"), result.stderr
    assert flags[0] in result.stderr.splitlines()[-1]


def test_where_vllm_is_missing(run: Callable[..., Any]) -> None:
    result = run("serve", "--no-auth", "--port", "0", "--engine", "vllm")
    assert result.returncode == 2
    assert "pip install" in result.stderr and result.stderr.endswith("[not_installed]\n")
    stray = run("serve", "--no-auth", "--port", "0", "--", "--tensor-parallel-size", "2")
    assert stray.returncode == 2 and "--engine vllm" in stray.stderr
