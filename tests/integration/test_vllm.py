"""The engine `vllm`, with the real vLLM on a processor: what it writes, whom it shares with, how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esrt.cloud.load import load_service
from esrt.cloud.text import Text
from esrt.model import checkpoint
from esrt.model.language_model import load_language_model, load_tokenizer
from esrt.model.outputs import trim
from tests.integration.conftest import CLIPS, VLLM, is_alive, needs_vllm

EOS = 1
NEAR = 0.5
"""Nats by which a token may be less likely than the best, in float32. bfloat16 rounds logits of 16 to 32 to 1/8."""

pytestmark = needs_vllm


@pytest.fixture(scope="module")
def found(model: Path, frames: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What vllm_checks.py saw in vLLM's process, which is dead now."""
    stored = tmp_path_factory.mktemp("frames") / "frames.npz"
    np.savez(stored, frames=np.stack([np.frombuffer(frame, np.uint8) for frame in frames]))
    command = [VLLM, Path(__file__).with_name("vllm_checks.py"), model, stored]
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
