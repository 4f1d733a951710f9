"""Ranks of drafted blocks: alone, in company, from a kept cache and from none."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM

from esrt.cloud.engines.base import Ranks, Rows, Sampling
from esrt.cloud.engines.kept import Kept
from esrt.cloud.engines.keyvalues import forward
from esrt.cloud.engines.transformers import TransformersEngine
from esrt.cloud.engines.verify import _ranks
from esrt.errors import CloudError

EOS = 1


def some_rows(seed: int, length: int) -> Rows:
    return np.random.default_rng(seed).standard_normal((length, 32)).astype(np.float32)


def by_hand(llm: Gemma3ForCausalLM, rows: Rows, block: list[int]) -> Ranks:
    """Without cache, batch or mask of ours."""
    with torch.inference_mode():
        logits = llm(inputs_embeds=torch.from_numpy(rows)[None], use_cache=False).logits[0, -len(block) - 1 : -1]
    order = logits.argsort(-1, descending=True).tolist()
    return Ranks([row.index(token) + 1 for row, token in zip(order, block, strict=True)], [row[0] for row in order])


def with_block(engine: TransformersEngine, rows: Rows, block: list[int]) -> Rows:
    return np.concatenate([rows, engine.embed(block)])


def run(llm: Gemma3ForCausalLM, work: Any) -> Any:
    async def main() -> Any:
        engine = TransformersEngine(llm, [EOS])
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_many_clients_at_once_get_what_each_gets_alone(llm: Gemma3ForCausalLM) -> None:
    """Blocks and prefixes of all lengths in one pass, longer than the sliding window too, while a text is written."""
    cases = [(seed, length, size) for seed, (length, size) in enumerate([(3, 1), (40, 7), (17, 3), (90, 5), (1, 5)])]
    blocks = [np.random.default_rng(seed).integers(3, 200, size).tolist() for seed, _, size in cases]

    async def work(engine: TransformersEngine) -> tuple[list[Ranks], list[Rows]]:
        sequences = [
            with_block(engine, some_rows(seed, length), block)
            for (seed, length, _), block in zip(cases, blocks, strict=True)
        ]
        text = engine.generate(some_rows(9, 20), Sampling(30))
        await anext(text)
        found = await asyncio.gather(
            *(
                engine.verify(place, rows, block)
                for place, (rows, block) in enumerate(zip(sequences, blocks, strict=True))
            )
        )
        await text.aclose()
        return found, sequences

    found, sequences = run(llm, work)
    assert found == [by_hand(llm, rows, block) for rows, block in zip(sequences, blocks, strict=True)]


def test_a_clip_goes_on_from_what_is_kept_and_from_its_prefix_alone(llm: Gemma3ForCausalLM) -> None:
    """Block after block, each corrected; under one key, and under another each time, which keeps nothing of use."""
    blocks = [[5, 6, 7], [8, 9, 10, 11, 12], [13], [14, 15, 16, 17, 18, 19, 20]]

    async def work(engine: TransformersEngine) -> list[tuple[Ranks, Ranks, Rows, list[int]]]:
        rows, seen = some_rows(4, 20), []
        for number, block in enumerate(blocks):
            whole = with_block(engine, rows, block)
            kept, anew = await engine.verify("clip", whole, block), await engine.verify(number, whole, block)
            seen.append((kept, anew, whole, block))
            rows = with_block(engine, rows, [*block[: len(block) // 2], 99])  # what was refused is not there any more
        assert engine._checker.kept.bytes > 0
        return seen

    for kept, anew, rows, block in run(llm, work):
        assert kept == anew == by_hand(llm, rows, block)


def test_of_equals_the_lower_id_is_first() -> None:
    """As argmax has it, or rank 1 would not be the greedy text."""
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]])
    assert _ranks(logits, [2, 1]) == Ranks([2, 2], [1, 0])
    assert _ranks(logits, [1, 0]) == Ranks([1, 1], [1, 0])
    assert _ranks(torch.tensor([[0.0, -torch.inf, 1.0], [0, 0, 0]]), [1]).ranks == [3]


def test_what_is_kept_is_bounded_in_bytes_and_time(llm: Gemma3ForCausalLM) -> None:
    clock = [0.0]
    rows = some_rows(1, 10)
    with torch.inference_mode():
        _, kv = forward(llm, torch.from_numpy(rows)[None], None)
    kept: Kept[str] = Kept(3 * kv.bytes, 60, lambda: clock[0])
    for name in "abcd":
        kept.put(name, rows, kv)
    assert kept.bytes == 3 * kv.bytes
    assert kept.take("a", rows, 9) is None  # the oldest went
    assert (found := kept.take("b", rows, 9)) is not None and found.positions.shape == (1, 9)
    assert kept.take("b", rows + 1, 9) is None  # other rows under the same name
    clock[0] = 30
    assert kept.take("b", rows, 9) is not None
    clock[0] = 61
    kept.put("e", rows, kv)
    assert kept.bytes == 2 * kv.bytes and kept.take("d", rows, 9) is None
    assert kept.take("b", rows, 9) is not None, "used since"
    clock[0] = 122
    kept.put("e", rows, kv)
    assert kept.bytes == kv.bytes


def test_an_engine_that_is_closed_or_fails_says_so(llm: Gemma3ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(engine: TransformersEngine) -> None:
        whole = with_block(engine, some_rows(1, 4), [5])
        with monkeypatch.context() as broken:
            broken.setattr("esrt.cloud.engines.verify.extend", lambda *_: 1 / 0)
            with pytest.raises(CloudError) as failed:
                await engine.verify("clip", whole, [5])
            assert failed.value.code == "engine_failed"
        assert (await engine.verify("clip", whole, [5])).ranks == by_hand(llm, whole, [5]).ranks
        await engine.close()
        with pytest.raises(CloudError) as closed:
            await engine.verify("clip", whole, [5])
        assert closed.value.code == "not_ready"
        with pytest.raises(ValueError, match="ids at the end"):
            await engine.verify("clip", whole, [])

    run(llm, work)
