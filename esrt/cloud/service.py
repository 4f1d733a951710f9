"""What the cloud does with a frame: transcribe it once, then fork one translation per target.

The prompts are put together from rows of token ids (ESRT paper, Table II). What a model heard is fed back as the ids it
wrote, and only the tags that this service adds itself are tags: no speech can say one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from esrt.cloud import tracing
from esrt.cloud.engines.base import Engine, Rows, Sampling
from esrt.cloud.metrics import first_token
from esrt.cloud.text import Deltas, Text, circles
from esrt.errors import CloudError
from esrt.prompts import Task
from esrt.wire.codecs import CODECS, Tables, decode
from esrt.wire.frame import Frame, read, size
from esrt.wire.schemas import TranslationRequest, TranslationResponse, Usage


@dataclass(frozen=True)
class Event:
    """A piece of an answer: `transcript` and `translation` (of a caption too) carry {language, text}, `done` all."""

    name: Literal["transcript", "translation", "done"]
    data: dict[str, Any]


class Service:
    """One model, ready to answer.

    `projector` maps float32 rows [queries, width] to [queries, engine.width]; `tables` and `fingerprint` (8 bytes) are
    those of the edge model whose frames it reads; `max_new_tokens` bounds the transcript and each translation; `branch`
    is that of config.ModelConfig; `finder`, if any, tells the language of a frame's rows (model.finder).
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        projector: Callable[[Rows], Rows],
        tables: Tables,
        fingerprint: bytes,
        queries: int,
        width: int,
        max_new_tokens: int = 200,
        branch: Literal["smt", "srt"] = "smt",
        finder: Callable[[Rows], str | None] | None = None,
    ) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        self.frame_cap = max(size(codec, queries, width) for codec in CODECS.values())
        self._first_token = first_token()
        self.collectors = [self._first_token, *getattr(engine, "collectors", ())]
        self._text = Text(tokenizer)
        self._projector = projector
        # One, as each thread that computes brings along as many as there are cores.
        self._thread = ThreadPoolExecutor(1, "esrt-projector")
        self._tables = tables
        self._fingerprint, self._queries, self._width = fingerprint, queries, width
        self._max_new_tokens, self._branch, self._finder = max_new_tokens, branch, finder

    def read(self, data: bytes) -> Frame:
        """Bytes from anywhere -> a frame of this model, all of its checks passed. Raises FrameError."""
        frame = read(data, cap=self.frame_cap, fingerprint=self._fingerprint, queries=self._queries, width=self._width)
        decode(frame, self._tables)
        return frame

    def most_tokens(self, targets: int, beam: int = 1) -> int:
        """The most tokens that a request may take: for its transcript (or two), and each target, in each beam."""
        transcripts = 1 if self._finder is None else 2
        return (targets + transcripts) * self._max_new_tokens * beam

    async def translate(self, frame: Frame, request: TranslationRequest, salt: str = "") -> TranslationResponse:
        """The whole answer at once. `request.features` is not looked at. Raises CloudError when overloaded."""
        async with aclosing(self.stream(frame, request, salt)) as events:
            async for event in events:
                if event.name == "done":
                    return TranslationResponse.from_json(event.data)
        raise CloudError("engine_failed", "The server could not decode this request.", 500)

    async def stream(self, frame: Frame, request: TranslationRequest, salt: str = "") -> AsyncGenerator[Event, None]:
        """The answer as it is decoded; closing the generator ends the decoding.

        `salt` names who asks: the engine shares nothing between two of them (engines.base.Sampling).
        Texts come in pieces (a transcript's language is None while the model has not named it), the last event is
        `done`. Pieces of the translations come in any order. A transcript that a finder judges comes whole.
        """
        if self._branch == "srt" and request.from_ is None and request.task != "caption":
            raise CloudError("source_needed", "This model must be told which language is spoken: name it.", 400)
        began = time.perf_counter()
        with tracing.span("projection"):
            audio = await self.project(frame)
        sampling = Sampling(self._max_new_tokens, frozenset(self._text.codes), request.beam, salt)  # a tag ends a text
        heard, translations = _Heard(request.from_), dict.fromkeys(request.to, "")
        if request.task == "caption":
            known, targets = self._text.caption, request.to
        else:
            async with aclosing(self._transcribe(frame, audio, heard, sampling, began)) as pieces:
                async for piece in pieces:
                    yield piece

            # Silence stays silence, and a translation into the language that was spoken is the transcript.
            translations = {code: heard.text if code == heard.source else "" for code in request.to}
            targets = [code for code in request.to if heard.text and code != heard.source]
            known = heard.ids if heard.source is None else [*heard.ids, self._text.tags[heard.source]]
        source, tokens = heard.source, heard.tokens
        async with aclosing(self._fork(audio, known, source, targets, sampling)) as branches:
            async for item in branches:
                if isinstance(item, Event):
                    yield item
                else:
                    translations[item.target] = item.text
                    tokens += item.tokens
        usage = Usage(size(frame.codec, frame.queries, frame.width), tokens, round(time.perf_counter() - began, 4))
        answer = TranslationResponse(source, heard.text, translations, frame.id, usage)
        yield Event("done", answer.to_json())

    def audio(self, frame: Frame) -> Rows:
        """A frame's rows [queries, engine.width] as the LLM reads them."""
        return self._projector(decode(frame, self._tables))

    async def project(self, frame: Frame) -> Rows:
        """The same, while the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.audio, frame)

    async def _transcribe(
        self, frame: Frame, audio: Rows, heard: _Heard, sampling: Sampling, began: float
    ) -> AsyncGenerator[Event, None]:
        """Transcribes into `heard`; where the finder is sure of another language than the LLM, anew in that one."""
        sure = self._finder(decode(frame, self._tables)) if self._finder and heard.source is None else None
        if sure is not None:
            async with aclosing(self._hear(audio, heard, sampling, began)) as held:
                async for _ in held:
                    pass
            if not heard.text:
                return
            if heard.source == sure:
                yield Event("transcript", {"language": sure, "text": heard.text})
                return
            heard.source, heard.ids = sure, []
        async with aclosing(self._hear(audio, heard, sampling, began)) as pieces:
            async for piece in pieces:
                yield Event("transcript", {"language": heard.source, "text": piece})

    async def _hear(self, audio: Rows, heard: _Heard, sampling: Sampling, began: float) -> AsyncGenerator[str, None]:
        """Transcribes into `heard`, whose source is told to the model where it has one; gives the text in pieces."""
        told, shown = heard.source, Deltas()
        prompt = [] if told is None else [self._text.tags[told]]
        async with aclosing(self._generate("transcript", audio, prompt, sampling)) as ids:
            async for token in ids:
                if not heard.tokens:
                    self._first_token.observe(time.perf_counter() - began)
                heard.tokens += 1
                if token in self._text.codes:
                    heard.source = told or self._text.codes[token]
                    break
                heard.ids.append(token)
                if delta := shown.next(self._text.read(Task.ASR, heard.ids, heard.source)):
                    yield delta
                if again := circles(heard.ids):
                    del heard.ids[-again:]
                    break
        heard.text = self._text.read(Task.ASR, heard.ids, heard.source)
        if not heard.text:  # of noise a model may name a language all the same
            heard.source = told
        elif heard.source is None:
            heard.source, heard.tokens = await self._name(audio, heard.ids, sampling.salt), heard.tokens + 1
        if rest := shown.next(heard.text):
            yield rest

    async def _name(self, audio: Rows, heard: list[int], salt: str) -> str | None:
        """The likeliest language of a transcript that has ended without its tag: too long, or in circles."""
        only = Sampling(1, salt=salt, only=frozenset(self._text.codes))
        async with aclosing(self._generate("name", audio, heard, only)) as ids:
            async for token in ids:
                return self._text.codes.get(token)
        return None

    async def _generate(
        self, name: str, audio: Rows, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[int, None]:
        """Decode after the audio rows and the prompt's ids. `name` is that of its span."""
        rows = np.concatenate([audio, self.engine.embed(prompt)]) if prompt else audio
        with tracing.span(name) as about:
            async with aclosing(self.engine.generate(rows, sampling)) as ids:
                async for token in ids:
                    about["tokens"] = about.get("tokens", 0) + 1
                    yield token

    def _asked(self, known: list[int], target: str) -> list[int]:
        """The prompt's ids of a translation: `known` is the transcript and the source's tag (config.ModelConfig)."""
        tag = self._text.tags[target]
        return [*known, tag] if self._branch == "smt" or known is self._text.caption else [known[-1], tag, *known, tag]

    async def _fork(
        self, audio: Rows, known: list[int], source: str | None, targets: Sequence[str], sampling: Sampling
    ) -> AsyncGenerator[Event | _Branch, None]:
        """Translate into all targets at once: their pieces as they come, and a _Branch as each ends."""
        items: asyncio.Queue[Event | _Branch | None] = asyncio.Queue()

        async def branch(target: str) -> None:
            ids: list[int] = []
            shown, tokens = Deltas(), 0
            async with aclosing(
                self._generate("translation", audio, self._asked(known, target), sampling)
            ) as generated:
                async for token in generated:
                    tokens += 1
                    if token in self._text.codes:
                        break
                    ids.append(token)
                    if delta := shown.next(self._text.read(Task.SMT, ids, source, target)):
                        items.put_nowait(Event("translation", {"language": target, "text": delta}))
                    if again := circles(ids):
                        del ids[-again:]
                        break
            text = self._text.read(Task.SMT, ids, source, target)
            if rest := shown.next(text):
                items.put_nowait(Event("translation", {"language": target, "text": rest}))
            items.put_nowait(_Branch(target, text, tokens))

        tasks = [asyncio.create_task(branch(target)) for target in targets]
        for task in tasks:
            task.add_done_callback(lambda _: items.put_nowait(None))
        try:
            ended = 0
            while ended < len(tasks):
                item = await items.get()
                if item is not None:
                    yield item
                    continue
                ended += 1
                for task in tasks:
                    if task.done():
                        task.result()  # the first branch that fails fails the request
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class _Heard:
    """A transcript as it is written. `source` is its language, once that is known; `ids` are without its tag."""

    source: str | None
    ids: list[int] = field(default_factory=list)
    text: str = ""
    tokens: int = 0


@dataclass(frozen=True)
class _Branch:
    """One finished translation and the tokens it took."""

    target: str
    text: str
    tokens: int
