"""`esrt serve --engine vllm` with the real vLLM on a processor: what it writes, whom it shares with, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from esrt.audio.io import load
from esrt.cloud.load import load_service
from esrt.cloud.text import Text
from esrt.edge.encoder import Encoder
from esrt.languages import CORE
from esrt.model import checkpoint
from esrt.model.language_model import load_language_model, load_tokenizer
from esrt.model.outputs import trim
from esrt.wire.codecs import encode
from esrt.wire.schemas import Problem, TranslationResponse

PYTHON = Path(sys.prefix) / "vllm" / "bin" / "python"
HERE = Path(__file__).parent
CLIPS = 50
EOS = 1
NEAR = 0.5
"""Nats by which a token may be less likely than the best, in float32. bfloat16 rounds logits of 16 to 32 to 1/8."""

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed: `make .venv/.vllm` does it")


@pytest.fixture(scope="module")
def frames(model: Path, examples: Path) -> list[bytes]:
    """Human speech in four languages, cut differently each time."""
    encoder = Encoder(model / "edge.onnx", threads=1)
    sounds = [load(path) for path in sorted([*examples.glob("*.flac"), *(HERE.parent / "data").rglob("*.flac")])]
    made = []
    for number in range(CLIPS):
        again, which = divmod(number, len(sounds))
        sound = sounds[which][again * 2_000 :][: 30_000 + again * 3_000]  # about two seconds
        made.append(encode(encoder.encode(sound), "int8", encoder.tables, encoder.fingerprint).to_bytes())
    assert len(set(made)) == CLIPS
    return made


@pytest.fixture(scope="module")
def found(model: Path, frames: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What vllm_checks.py saw in vLLM's process, which is dead now."""
    stored = tmp_path_factory.mktemp("frames") / "frames.npz"
    np.savez(stored, frames=np.stack([np.frombuffer(frame, np.uint8) for frame in frames]))
    command = [PYTHON, HERE / "vllm_checks.py", model, stored]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=1200)
    assert result.returncode == -signal.SIGKILL, result.stderr[-3000:]
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def test_the_same_texts_as_the_transformers_engine(model: Path, frames: list[bytes], found: dict[str, Any]) -> None:
    """Every token that vLLM writes is the best there, or as good as the best, to the same model in float32."""
    service = load_service(model)

    async def transcripts(audio: list[Any]) -> list[list[int]]:
        from esrt.cloud.engines.base import Sampling

        async def one(rows: Any) -> list[int]:
            return [token async for token in service.engine.generate(rows, sampling)]

        sampling = Sampling(200, frozenset(service._text.codes))
        answers = await asyncio.gather(*(one(rows) for rows in audio))
        known = [
            np.concatenate([rows, service.engine.embed([*text["heard"], *text["known"]])])
            for rows, text in zip(audio, found["texts"], strict=True)
        ]
        told = await asyncio.gather(*(one(rows) for rows in known))
        await service.engine.close()
        return [*answers, *told]

    audio = [service.audio(service.read(frame)) for frame in frames]
    theirs = asyncio.run(transcripts(audio))
    llm = load_language_model(model / "llm", torch.float32).eval()
    outputs = checkpoint.load_outputs(model)
    assert outputs is not None
    trim(llm, outputs)
    worst, differ = 0.0, 0
    for clip, text in enumerate(found["texts"]):
        likely = _log_probabilities(llm, audio[clip], [*text["heard"], *text["known"], *text["told"]])
        for ids, other, after in [
            (text["heard"], theirs[clip], 0),
            (text["told"], theirs[CLIPS + clip], len(text["heard"]) + len(text["known"])),
        ]:
            mine = [*ids, EOS] if not ids or ids[-1] not in service._text.codes else ids
            rows = likely[after : after + len(mine)]
            chosen = rows.gather(1, torch.tensor(mine)[:, None])[:, 0]
            worst = max(worst, float((rows.max(1).values - chosen).max()))
            if ids != other:
                differ += 1
                place = next(i for i, (a, b) in enumerate(zip([*ids, EOS], [*other, EOS], strict=False)) if a != b)
                a, b = [*ids, EOS][place], [*other, EOS][place]
                gap = float(rows[place, a] - rows[place, b])
                print(f"clip {clip}, token {place}: {a} for {b}, {gap:+.3f} nats")
                assert abs(gap) < NEAR
    print(f"{differ} of {2 * CLIPS} texts differ; the worst token is {worst:.3f} nats below the best")
    assert worst < NEAR and differ < CLIPS / 2
    assert len({tuple(text["heard"]) for text in found["texts"]}) > CLIPS / 2


def _log_probabilities(llm: Any, audio: Any, ids: list[int]) -> torch.Tensor:
    """[n + 1, vocabulary]: of what follows the audio rows, and of what follows each of `ids`."""
    with torch.inference_mode():
        rows = torch.cat([torch.from_numpy(audio), llm.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))])
        logits = llm(inputs_embeds=rows[None], logits_to_keep=len(ids) + 1).logits[0]
        return torch.log_softmax(logits, -1)


def test_only_some_ids_are_written_where_a_request_says_so(model: Path, found: dict[str, Any]) -> None:
    last, tag, word = found["named"]
    tokenizer = load_tokenizer(model / "llm").backend_tokenizer
    assert tag == last and tag in Text(tokenizer).codes
    assert word in tokenizer.encode("x y z").ids


def test_what_one_clip_shares(found: dict[str, Any]) -> None:
    """Whole blocks of rows are computed once for each salt, and once for all targets of a clip."""
    rows, shared = zip(*found["salts"], strict=True)
    assert set(rows) == {80}
    assert shared == (0, 64, 0, 64, 64)
    together, alone = found["fork"]["together"], found["fork"]["alone"]
    assert len(together) == 45 and len(alone) == 8
    assert all(cached >= 64 for _, cached in together[1:])
    computed, whole = sum(n - cached for n, cached in together), sum(n for n, _ in together)
    print(f"44 targets of one clip: {computed} rows computed of {whole}")
    assert [cached for _, cached in alone[::2]] == [0, 0, 0, 0]  # the transcript of a new salt shares nothing
    assert min(cached for _, cached in alone[1::2]) >= 64


def test_ranks_of_a_drafted_block(model: Path, found: dict[str, Any]) -> None:
    """Its own greedy text stands, up to ties in bfloat16; of another block all that comes before its wrong token.

    What it may not write ranks behind all that it may.
    """
    outputs = checkpoint.load_outputs(model)
    assert outputs is not None
    own, other, never = found["verified"]
    for checked in (own, other, never):
        assert checked["best"][:3] == own["block"][:3]
        assert max(checked["ranks"][:2]) <= 2 and len(checked["ranks"]) == len(checked["best"]) == 5
    assert own["best"] == own["block"] and max(own["ranks"]) <= 2
    assert other["ranks"][2] > 2
    assert set(never["ranks"][2:]) == {len(outputs) + 1}
    assert found["long"] == "bad_request"


def test_a_closed_generator_leaves_its_place(found: dict[str, Any]) -> None:
    closed = found["closed"]
    assert (closed["during"], closed["after"]) == (1, 0)
    assert 3 <= closed["decoded"] < 400


def test_a_beam_is_refused_and_rows_are_gemmas_own(model: Path, found: dict[str, Any]) -> None:
    assert found["beam"] == "beam_not_supported"
    llm = load_language_model(model / "llm", torch.bfloat16)
    expected = llm.get_input_embeddings()(torch.tensor([5, 240_000]))[:, :4]
    assert found["row"] == expected.float().tolist()


def test_vllm_ends_with_a_killed_server(found: dict[str, Any]) -> None:
    """Nobody else would: vLLM's engine waits for ever, with all its memory, for whoever started it."""
    (core,) = found["children"]
    ends = time.monotonic() + 60
    while is_alive(core):
        assert time.monotonic() < ends
        time.sleep(0.1)


# A server


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any]) -> Iterator[Any]:
    # Four texts at once, so that a request for many languages lasts.
    server = start_server(
        "--no-auth", "--port", "0", "--engine", "vllm", "--", "--max-num-seqs", "4", python=str(PYTHON)
    )
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


def is_alive(pid: int) -> bool:
    """Not a zombie either: those have no program."""
    return Path(f"/proc/{pid}/exe").exists()


# Arguments


@pytest.mark.parametrize("flags", [["--no-such-flag", "1"], ["--dtype", "int3"]])
def test_flags_that_vllm_does_not_know(flags: list[str]) -> None:
    command = [str(PYTHON), "-m", "esrt", "serve", "--no-auth", "--port", "0", "--engine", "vllm", "--", *flags]
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
