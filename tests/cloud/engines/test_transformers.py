"""The transformers engine against transformers' own generation, alone and in company."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM

from esrt.cloud.engines import transformers
from esrt.cloud.engines.base import Rows, Sampling
from esrt.cloud.engines.keyvalues import forward
from esrt.cloud.engines.transformers import TransformersEngine
from esrt.errors import CloudError

EOS = 1


def run(llm: Gemma3ForCausalLM, work: Callable[[TransformersEngine], Coroutine[Any, Any, Any]], **settings: Any) -> Any:
    async def main() -> Any:
        async with engine(llm, **settings) as running:
            return await work(running)

    return asyncio.run(asyncio.wait_for(main(), 60))


@contextlib.asynccontextmanager
async def engine(llm: Gemma3ForCausalLM, **settings: Any) -> AsyncIterator[TransformersEngine]:
    running = TransformersEngine(llm, [EOS], **settings)
    try:
        yield running
    finally:
        await running.close()


async def answer(engine: TransformersEngine, rows: Rows, sampling: Sampling) -> list[int]:
    return [token async for token in engine.generate(rows, sampling)]


def some_rows(seed: int, length: int) -> Rows:
    return np.random.default_rng(seed).standard_normal((length, 32)).astype(np.float32)


def by_hand(llm: Gemma3ForCausalLM, rows: Rows, count: int) -> list[int]:
    """Greedy decoding without any cache, batch or mask of ours."""
    ids: list[int] = []
    embeds = torch.from_numpy(rows)[None]
    with torch.inference_mode():
        while len(ids) < count:
            token = int(llm(inputs_embeds=embeds, use_cache=False).logits[0, -1].argmax())
            if token == EOS:
                break
            ids.append(token)
            embeds = torch.cat([embeds, llm.get_input_embeddings()(torch.tensor([[token]]))], dim=1)
    return ids


LENGTHS = [3, 40, 17, 16, 80, 1, 25, 33, 40]


def test_one_by_one_equals_no_cache_at_all(llm: Gemma3ForCausalLM) -> None:
    async def work(engine: TransformersEngine) -> list[list[int]]:
        return [await answer(engine, some_rows(n, n), Sampling(24)) for n in LENGTHS]

    found = run(llm, work)
    assert found == [by_hand(llm, some_rows(n, n), 24) for n in LENGTHS]
    assert len({tuple(tokens) for tokens in found}) > 5  # the model is not one that always says the same


def test_a_batch_of_unequal_lengths_equals_one_by_one(llm: Gemma3ForCausalLM) -> None:
    """Left padding, the cache and the sliding window (16 rows) together."""

    async def work(engine: TransformersEngine) -> list[list[int]]:
        counts = [24, 5, 40, 1, 24, 60, 24, 24, 9]
        pairs = zip(LENGTHS, counts, strict=True)
        return list(await asyncio.gather(*(answer(engine, some_rows(n, n), Sampling(c)) for n, c in pairs)))

    counts = [24, 5, 40, 1, 24, 60, 24, 24, 9]
    expected = [by_hand(llm, some_rows(n, n), c) for n, c in zip(LENGTHS, counts, strict=True)]
    assert run(llm, work, max_batch=16, max_wait=0.2) == expected
    assert run(llm, work, max_batch=3) == expected  # the others join as places become free


def test_requests_join_a_running_batch(llm: Gemma3ForCausalLM) -> None:
    async def work(engine: TransformersEngine) -> list[list[int]]:
        long = engine.generate(some_rows(1, 80), Sampling(120))
        first = [await anext(long), await anext(long)]
        short = await answer(engine, some_rows(2, 20), Sampling(10))
        return [first + [token async for token in long], short]

    expected = [by_hand(llm, some_rows(1, 80), 120), by_hand(llm, some_rows(2, 20), 10)]
    assert run(llm, work) == expected


def test_only_some_ids_are_written_where_a_request_says_so(llm: Gemma3ForCausalLM) -> None:
    """A sequence of the same batch that may write all of them does."""
    only = frozenset({7, 30, 31, 200, 299})

    async def work(engine: TransformersEngine) -> list[list[int]]:
        free, bound = Sampling(12), Sampling(12, only=only)
        return list(await asyncio.gather(*(answer(engine, some_rows(5, 20), each) for each in (free, bound))))

    free, bound = run(llm, work, max_batch=4, max_wait=0.2)
    assert free == by_hand(llm, some_rows(5, 20), 12) and not only.issuperset(free)
    assert len(bound) == 12 and only.issuperset(bound) and len(set(bound)) > 1
    with torch.inference_mode():
        first = llm(inputs_embeds=torch.from_numpy(some_rows(5, 20))[None], use_cache=False).logits[0, -1]
    assert bound[0] == max(only, key=lambda token: float(first[token]))


def test_rows_of_token_ids_give_the_tokens_of_the_ids(llm: Gemma3ForCausalLM) -> None:
    """Gemma multiplies embeddings by sqrt(width) inside its embedding layer; rows are used as they are."""
    ids = [5, 100, 42, 260, 7, 300, 11, 90]
    with torch.inference_mode():
        from_ids = llm.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, eos_token_id=EOS)
    expected = [token for token in from_ids[0, len(ids) :].tolist() if token != EOS]

    async def work(engine: TransformersEngine) -> tuple[Rows, list[int], list[int]]:
        rows = engine.embed(ids)
        plain = rows / np.float32(np.sqrt(32))
        return rows, await answer(engine, rows, Sampling(20)), await answer(engine, plain, Sampling(20))

    rows, found, unscaled = run(llm, work)
    table = llm.get_input_embeddings().weight.detach().numpy()[ids]
    np.testing.assert_allclose(rows, table * np.sqrt(32), rtol=1e-6)
    assert found == expected
    assert unscaled != expected  # so the scale is not something the model forgives


def test_forks_of_a_kept_prefix_equal_whole_prompts(llm: Gemma3ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = some_rows(3, 50)
    shapes: list[tuple[int, ...]] = []

    def counted(llm: Any, rows: torch.Tensor, kv: Any) -> Any:
        shapes.append(tuple(rows.shape))
        return forward(llm, rows, kv)

    monkeypatch.setattr("esrt.cloud.engines.transformers.forward", counted)

    async def work(engine: TransformersEngine) -> list[list[int]]:
        heard = await answer(engine, audio, Sampling(12))
        prompts = [np.concatenate([audio, engine.embed([*heard, 270, tag])]) for tag in (280, 290, 300, 310)]
        forked = await asyncio.gather(*(answer(engine, prompt, Sampling(12)) for prompt in prompts))
        return [heard, *forked, *(by_hand(llm, prompt, 12) for prompt in prompts)]

    heard, *rest = run(llm, work, max_wait=0.1)
    assert heard == by_hand(llm, audio, 12)
    assert rest[:4] == rest[4:]
    # One pass for all four, over what is new of each: the last token of the transcript, the source and the target.
    assert (4, 3, 32) in shapes and (4, 64, 32) not in shapes
    assert run(llm, work, max_wait=0.1, prefix_bytes=0) == [heard, *rest]
    assert (4, 64, 32) in shapes


def test_prefixes_stay_below_their_bound(llm: Gemma3ForCausalLM) -> None:
    async def work(engine: TransformersEngine) -> tuple[int, int]:
        for seed in range(12):
            await answer(engine, some_rows(seed, 30), Sampling(4))
        return engine._prefixes.kept.bytes, len(engine._prefixes.kept.rows)

    size, entries = run(llm, work, prefix_bytes=100_000)
    assert 0 < size <= 100_000 and 0 < entries < 12


def test_what_is_kept_is_forgotten_when_nobody_asks(llm: Gemma3ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transcript can be read off the rows that were fed."""
    monkeypatch.setattr(transformers, "LOOK_SECONDS", 0.05)

    async def work(engine: TransformersEngine) -> int:
        await answer(engine, some_rows(1, 30), Sampling(4))
        await engine.verify("clip", np.concatenate([some_rows(2, 30), engine.embed([5])]), [5])
        stores = (engine._prefixes.kept, engine._checker.kept)
        assert all(kept.bytes > 0 for kept in stores)
        for kept in stores:
            kept._seconds = 0.1
        for _ in range(1000):
            if not any(kept.bytes for kept in stores):
                break
            await asyncio.sleep(0.01)
        return sum(kept.bytes for kept in stores)

    assert run(llm, work) == 0


def test_a_stop_id_is_the_last_token(llm: Gemma3ForCausalLM) -> None:
    rows = some_rows(4, 20)
    tokens = by_hand(llm, rows, 30)
    stop = tokens[6]

    async def work(engine: TransformersEngine) -> list[int]:
        return await answer(engine, rows, Sampling(30, frozenset({stop})))

    assert run(llm, work) == tokens[: tokens.index(stop) + 1]


def test_eos_ends_and_is_not_a_token(llm: Gemma3ForCausalLM) -> None:
    rows = some_rows(4, 20)
    tokens = by_hand(llm, rows, 30)

    async def main() -> list[int]:
        engine = TransformersEngine(llm, [tokens[6], EOS])
        try:
            return await answer(engine, rows, Sampling(30))
        finally:
            await engine.close()

    assert asyncio.run(main()) == tokens[: tokens.index(tokens[6])]


def test_beam_search_is_that_of_transformers(llm: Gemma3ForCausalLM) -> None:
    rows = some_rows(5, 20)
    with torch.inference_mode():
        expected = llm.generate(
            inputs_embeds=torch.from_numpy(rows)[None],
            attention_mask=torch.ones(1, 20, dtype=torch.long),
            num_beams=4,
            do_sample=False,
            max_new_tokens=10,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )[0].tolist()
    expected = expected[: expected.index(EOS)] if EOS in expected else expected

    async def work(engine: TransformersEngine) -> list[list[int]]:
        beam = answer(engine, rows, Sampling(10, beam=4))
        greedy = answer(engine, some_rows(6, 9), Sampling(10))
        return list(await asyncio.gather(beam, greedy))

    assert run(llm, work) == [expected, by_hand(llm, some_rows(6, 9), 10)]


def test_nobody_waits_for_a_beam_search(endless: Gemma3ForCausalLM) -> None:
    """Nor for two: texts go on, join and end between the steps of one that does not end by itself, and so do checks."""

    async def work(engine: TransformersEngine) -> list[int]:
        searching = [
            asyncio.ensure_future(answer(engine, some_rows(n, 20), Sampling(20_000, beam=3))) for n in range(2)
        ]
        found = [len(await answer(engine, some_rows(7, 9), Sampling(count))) for count in (10, 1, 20)]
        checks = [engine.verify(n, np.concatenate([some_rows(n, 9), engine.embed([5])]), [5]) for n in range(40)]
        found.append(len(await asyncio.gather(*checks)))
        assert engine.load == 2 and not any(search.done() for search in searching)
        for search in searching:
            search.cancel()
        assert await empties(engine)
        return found

    assert run(endless, work) == [10, 1, 20, 40]


def test_a_text_joins_in_front_of_checks(endless: Gemma3ForCausalLM) -> None:
    """However many checks came while another text is written."""

    async def work(engine: TransformersEngine) -> bool:
        rows = np.concatenate([some_rows(0, 9), engine.embed([5])])
        long = asyncio.ensure_future(answer(engine, some_rows(1, 20), Sampling(2000)))
        while not engine._running:
            await asyncio.sleep(0.001)
        checks = [asyncio.ensure_future(engine.verify(n % 3, rows, [5])) for n in range(3000)]
        await asyncio.sleep(0)  # all of them are asked now
        await answer(engine, some_rows(2, 20), Sampling(5))
        early = not long.done()
        for each in (long, *checks):
            each.cancel()
        return early

    assert run(endless, work)


@pytest.mark.parametrize("beam", [1, 3])
def test_leaving_frees_the_row(endless: Gemma3ForCausalLM, beam: int) -> None:
    async def work(engine: TransformersEngine) -> bool:
        tokens = engine.generate(some_rows(7, 30), Sampling(20_000, beam=beam))
        if beam == 1:
            assert [await anext(tokens), await anext(tokens)]
            assert engine.load == 1
            await tokens.aclose()
        else:
            asking = asyncio.ensure_future(anext(tokens))
            await asyncio.sleep(0.3)
            assert engine.load == 1
            asking.cancel()
        return await empties(engine)

    assert run(endless, work)


async def empties(engine: TransformersEngine) -> bool:
    for _ in range(3000):
        if engine.load == 0:
            return True
        await asyncio.sleep(0.01)
    return False


def test_too_many_waiting_requests_are_refused(llm: Gemma3ForCausalLM) -> None:
    async def work(engine: TransformersEngine) -> list[str]:
        asks = [answer(engine, some_rows(i, 10), Sampling(30)) for i in range(12)]
        results: list[Any] = await asyncio.gather(*asks, return_exceptions=True)
        return [result.code if isinstance(result, CloudError) else "ok" for result in results]

    codes = run(llm, work, max_batch=1, max_queue=2, max_wait=0)
    assert set(codes) == {"ok", "overloaded"} and codes.count("ok") >= 2


def test_an_error_fails_its_own_requests_only(llm: Gemma3ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(engine: TransformersEngine) -> tuple[str, list[int]]:
        with monkeypatch.context() as broken:
            broken.setattr(engine, "_advance", lambda *_: 1 / 0)
            with pytest.raises(CloudError) as failed:
                await answer(engine, some_rows(1, 10), Sampling(5))
        return failed.value.code, await answer(engine, some_rows(1, 10), Sampling(5))

    assert run(llm, work) == ("engine_failed", by_hand(llm, some_rows(1, 10), 5))


def test_an_engine_that_is_broken_ends(llm: Gemma3ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU on which everything fails from then on: the server makes room for another."""

    async def work(engine: TransformersEngine) -> list[str]:
        await answer(engine, some_rows(1, 10), Sampling(5))
        states = [(engine.ready, engine.failed)]
        monkeypatch.setattr("esrt.cloud.engines.transformers.forward", lambda *_: 1 / 0)
        asks = [answer(engine, some_rows(i, 10), Sampling(5)) for i in range(3)]
        found: list[Any] = await asyncio.gather(*asks, return_exceptions=True)
        assert [*states, (engine.ready, engine.failed)] == [(True, False), (False, True)]
        for ask in (answer(engine, some_rows(1, 10), Sampling(5)), engine.verify("clip", some_rows(1, 3), [5])):
            with pytest.raises(CloudError) as late:
                await ask
            found.append(late.value)
        return [error.code for error in found]

    codes = run(llm, work, max_batch=2)
    assert codes[0] == "engine_failed" and set(codes[1:3]) <= {"engine_failed", "not_ready"}
    assert codes[3:] == ["not_ready"] * 2


def test_ids_beyond_the_table_are_refused_before_the_device_sees_them(llm: Gemma3ForCausalLM) -> None:
    async def work(engine: TransformersEngine) -> None:
        last = llm.get_input_embeddings().num_embeddings - 1
        assert engine.embed([last]).shape == (1, engine.width)
        with pytest.raises(IndexError):
            engine.embed([last + 1])

    run(llm, work)


def test_close_fails_what_runs_and_what_comes(llm: Gemma3ForCausalLM) -> None:
    async def main() -> list[str]:
        engine = TransformersEngine(llm, [EOS])
        asks: list[Awaitable[list[int]]] = [
            asyncio.ensure_future(answer(engine, some_rows(i, 10), Sampling(1_000_000))) for i in range(3)
        ]
        while not engine._running:
            await asyncio.sleep(0.01)
        ready = [engine.ready]
        await engine.close()
        assert [*ready, engine.ready] == [True, False]
        asks.append(answer(engine, some_rows(9, 10), Sampling(5)))
        results: list[Any] = await asyncio.gather(*asks, return_exceptions=True)
        return [result.code for result in results]

    assert asyncio.run(asyncio.wait_for(main(), 20)) == ["not_ready"] * 4
