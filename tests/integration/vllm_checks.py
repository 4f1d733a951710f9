"""Run by vLLM's own Python: what only its process can see of the engine. Prints one JSON object, then kills itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np

from esrt.cloud.engines import vllm
from esrt.cloud.engines.base import Rows, Sampling
from esrt.cloud.load import load_service, starter
from esrt.cloud.service import Service
from esrt.errors import CloudError, UsageError
from esrt.languages import CORE
from esrt.wire.schemas import TranslationRequest


class Watched:
    """Counts, around vLLM, the rows of each prompt and those of them that were not computed again."""

    def __init__(self, engine: Any) -> None:
        self._generate = engine._llm.generate
        engine._llm.generate = self
        self.prompts: list[tuple[int, int]] = []

    async def __call__(self, prompt: Any, *rest: Any) -> AsyncGenerator[Any, None]:
        first = True
        async with aclosing(self._generate(prompt, *rest)) as outputs:
            async for output in outputs:
                if first:
                    self.prompts.append((len(prompt["prompt_embeds"]), output.num_cached_tokens))
                first = False
                yield output

    def taken(self) -> list[tuple[int, int]]:
        found, self.prompts = self.prompts, []
        return found


async def texts(service: Service, audio: Rows) -> dict[str, Any]:
    """The ids of a transcript, of what follows it in the prompt of a translation, and of the translation."""
    engine, text = service.engine, service._text
    sampling = Sampling(200, frozenset(text.codes))
    heard = [token async for token in engine.generate(audio, sampling)]
    tag = heard[-1] if heard and heard[-1] in text.codes else text.tags["eng"]
    known = [] if heard and heard[-1] == tag else [tag]
    target = text.tags["fra" if text.codes[tag] == "eng" else "eng"]
    rows = np.concatenate([audio, engine.embed([*heard, *known, target])])
    told = [token async for token in engine.generate(rows, sampling)]
    return {"heard": heard, "known": [*known, target], "told": told}


async def named(service: Service, audio: Rows, heard: list[int]) -> list[int]:
    """A transcript's tag; what takes its place where only tags may; and where only three words may."""
    rows = np.concatenate([audio, service.engine.embed(heard[:-1])])
    found = [heard[-1]]
    for only in (service._text.codes, service.tokenizer.encode("x y z").ids):
        found += [token async for token in service.engine.generate(rows, Sampling(1, only=frozenset(only)))]
    return found


async def salted(service: Service, watched: Watched, audio: Rows, salts: Sequence[str]) -> list[tuple[int, int]]:
    for salt in salts:
        async with aclosing(service.engine.generate(audio, Sampling(2, salt=salt))) as tokens:
            assert [token async for token in tokens]
    return watched.taken()


async def forked(service: Service, watched: Watched, frame: bytes) -> dict[str, list[tuple[int, int]]]:
    """The prompts of one request for 44 targets, and of 44 for one each; nothing of one helps the other."""
    read = service.read(frame)
    targets = [code for code in CORE if code != "fra"]  # the clip's own language is no translation
    await service.translate(read, TranslationRequest("", targets), "together")
    together = watched.taken()
    for target in targets[:4]:  # each has a salt of its own, as if nobody had asked before
        await service.translate(read, TranslationRequest("", [target]), f"alone {target}")
    return {"together": together, "alone": watched.taken()}


async def closed_early(engine: Any, audio: Rows) -> dict[str, int]:
    """A text without an end, left after three tokens: what vLLM has decoded of it when it has nothing left to do."""
    llm, decoded = engine._llm, 0
    process = llm.output_processor.process_outputs

    def counted(outputs: Any, *rest: Any, **named: Any) -> Any:
        nonlocal decoded
        decoded += sum(len(output.new_token_ids) for output in outputs)
        return process(outputs, *rest, **named)

    llm.output_processor.process_outputs = counted
    endless = vllm.VLLMEngine(llm, engine._table, engine._ids, ())
    async with aclosing(endless.generate(audio, Sampling(400))) as tokens:
        for _ in range(3):
            await anext(tokens)
        during = endless.load
    while await llm.engine_core.call_utility_async("has_work"):
        await asyncio.sleep(0.05)
    llm.output_processor.process_outputs = process
    return {"during": during, "after": endless.load, "decoded": decoded}


async def verified(engine: Any, audio: Rows, text: dict[str, Any]) -> list[dict[str, Any]]:
    """Three blocks after one prefix: its own text, the same with another third token, and with one it cannot write."""
    prefix, own = [*text["heard"], *text["known"]], text["told"][:5]
    never = next(token for token in range(len(engine._table)) if token not in engine._numbers)
    found = []
    for block in (own, [*own[:2], own[0], *own[3:]], [*own[:2], never, *own[3:]]):
        ranks = await engine.verify("clip", np.concatenate([audio, engine.embed([*prefix, *block])]), block)
        found.append({"block": block, "ranks": ranks.ranks, "best": ranks.best})
    return found


async def too_long(engine: Any, audio: Rows) -> str:
    try:
        await engine.verify("clip", np.concatenate([audio] * 8), [5])
    except UsageError as error:
        return error.code
    return ""


async def refused(engine: Any, rows: Rows, sampling: Sampling) -> str:
    try:
        async for _ in engine.generate(rows, sampling):
            pass
    except CloudError as error:
        return error.code
    return ""


async def main(service: Service, frames: list[bytes]) -> None:
    engine: Any = service.engine
    watched = Watched(engine)
    audio = [service.audio(service.read(frame)) for frame in frames]
    found: dict[str, Any] = {"texts": await asyncio.gather(*(texts(service, rows) for rows in audio))}
    watched.taken()
    found["salts"] = await salted(service, watched, audio[0], ["a", "a", "b", "a", "b"])
    found["fork"] = await forked(service, watched, frames[0])
    long = next(place for place, text in enumerate(found["texts"]) if len(set(text["told"][:5])) == 5)
    found["verified"] = await verified(engine, audio[long], found["texts"][long])
    found["closed"] = await closed_early(engine, audio[0])
    found["named"] = await named(service, audio[long], found["texts"][long]["heard"])
    found["long"] = await too_long(engine, audio[0])
    found["beam"] = await refused(engine, audio[0], Sampling(beam=2))
    found["row"] = engine.embed([5, 240_000])[:, :4].tolist()
    found["children"] = [process.pid for process in engine._llm.engine_core.resources.engine_manager.processes]
    print(json.dumps(found), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    with np.load(sys.argv[2]) as stored:
        given = [frame.tobytes() for frame in stored["frames"]]
    asyncio.run(main(load_service(Path(sys.argv[1]), starter("vllm", ["--max-num-seqs", "16"])), given))
