"""Prompts, forks and texts: the real engine against decoding by hand, and an engine that says what it must."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM

from esrt.cloud.engines.base import Ranks, Rows, Sampling
from esrt.cloud.service import Event, Service
from esrt.cloud.text import Deltas, Text, circles
from esrt.errors import CloudError, FrameError, ModelError
from esrt.wire.codecs import Tables, decode, encode
from esrt.wire.frame import Frame
from esrt.wire.schemas import TranslationRequest, TranslationResponse

EOS = 1


class Scripted:
    """An engine that answers by the last row it is given: rows of ids hold the id, audio rows are zero."""

    width = 4
    ready = True
    failed = False
    load = 0
    eos_ids = frozenset[int]()

    def __init__(self, answers: dict[int, list[int]], fails: int | None = None) -> None:
        self.answers = answers
        self.fails = fails
        self.prompts: list[list[int]] = []
        self.only: list[frozenset[int]] = []
        self.open = 0

    def embed(self, ids: Sequence[int]) -> Rows:
        return np.repeat(np.array(ids, np.float32)[:, None], self.width, axis=1)

    async def verify(self, key: Hashable, rows: Rows, block: Sequence[int]) -> Ranks:
        raise NotImplementedError

    async def generate(self, rows: Rows, sampling: Sampling) -> AsyncGenerator[int, None]:
        prompt = [int(value) for value in rows[:, 0]]
        self.prompts.append(prompt)
        self.only.append(sampling.only)
        self.open += 1
        try:
            for token in self.answers[prompt[-1]]:
                await asyncio.sleep(0)
                yield token
                if token in sampling.stop_ids:
                    return
            if prompt[-1] == self.fails:
                raise CloudError("engine_failed", "It failed.", 500)
        finally:
            self.open -= 1

    async def close(self) -> None:
        pass


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Callable[..., tuple[Service, Scripted]]:
    def make(
        answers: dict[str, str | list[int]],
        fails: str | None = None,
        finder: Callable[[Rows], str | None] | None = None,
    ) -> tuple[Service, Scripted]:
        def ids(text: str) -> list[int]:
            return [int(token) for token in tokenizer.encode(text, add_special_tokens=False).ids]

        said = {
            ids(last)[0] if last else 0: answer if isinstance(answer, list) else ids(answer)
            for last, answer in answers.items()
        }
        engine = Scripted(said, None if fails is None else ids(fails)[0])
        tables = Tables(np.ones(6, np.float32))
        service = Service(
            engine, tokenizer, lambda rows: np.zeros((len(rows), 4), np.float32), tables, b"\0" * 8, 2, 6, finder=finder
        )
        return service, engine

    return make


FRAME = Frame(2, 2, 6, b"\0" * 8, bytes(12))


def ask(service: Service, to: list[str], source: str | None = None) -> TranslationResponse:
    return asyncio.run(service.translate(FRAME, TranslationRequest("", to, source)))


def test_a_finder_that_is_sure_of_another_language_is_believed(scripted: Any, tokenizer: Tokenizer) -> None:
    """The transcript is written anew in it; a request that names a language is believed more."""
    seen: list[Rows] = []

    def finder(rows: Rows) -> str:
        seen.append(rows)
        return "ita"

    answers = {"": " Hola.<|spa|>", "<|ita|>": " Ciao.", "<|spa|>": " Hola.", "<|deu|>": "Hallo."}
    service, engine = scripted(answers, finder=finder)
    events = events_of(service, ["deu"])
    pieces = [event.data for event in events if event.name == "transcript"]
    assert {piece["language"] for piece in pieces} == {"ita"} and "".join(p["text"] for p in pieces) == "Ciao."
    assert events[-1].data["source"] == "ita" and events[-1].data["translations"] == {"deu": "Hallo."}
    assert events[-1].data["usage"]["tokens"] == 7 + 6 + 6, "what was written in vain is counted too"
    ita = tokenizer.token_to_id("<|ita|>")
    heard = [*tokenizer.encode(" Ciao.").ids, ita, tokenizer.token_to_id("<|deu|>")]
    assert engine.prompts == [[0, 0], [0, 0, ita], [0, 0, *heard]]
    assert [rows.shape for rows in seen] == [(2, 6)], "the rows as they were sent"
    named = ask(service, ["deu"], "spa")
    assert (named.source, named.transcript, len(seen)) == ("spa", "Hola.", 1)


@pytest.mark.parametrize("found", ["spa", None])
def test_a_finder_that_agrees_or_is_not_sure_changes_nothing(scripted: Any, found: str | None) -> None:
    service, engine = scripted({"": " Hola.<|spa|>"}, finder=lambda rows: found)
    events = events_of(service, [])
    pieces = [event.data for event in events if event.name == "transcript"]
    assert "".join(piece["text"] for piece in pieces) == "Hola." and len(engine.prompts) == 1
    assert pieces[-1]["language"] == ("spa" if found else None) and (len(pieces) == 1) == (found is not None)
    assert events[-1].data["source"] == "spa"


def test_of_silence_no_language_is_found(scripted: Any) -> None:
    service, engine = scripted({"": "<|eng|>"}, finder=lambda rows: "ita")
    assert ask(service, ["deu"]).source is None and len(engine.prompts) == 1


def events_of(service: Service, to: list[str]) -> list[Event]:
    async def main() -> list[Event]:
        return [event async for event in service.stream(FRAME, TranslationRequest("", to))]

    return asyncio.run(main())


def test_transcribe_once_then_fork(scripted: Any, tokenizer: Tokenizer) -> None:
    service, engine = scripted({"": " Hello.<|eng|>", "<|deu|>": "Hallo.", "<|fra|>": "Salut."})
    answer = ask(service, ["deu", "fra"])
    assert (answer.source, answer.transcript) == ("eng", "Hello.")
    assert answer.translations == {"deu": "Hallo.", "fra": "Salut."}
    assert (answer.features, answer.usage.bytes, answer.usage.tokens) == (FRAME.id, 12 + 40, 8 + 6 + 6)
    hello = [*tokenizer.encode(" Hello.").ids, tokenizer.token_to_id("<|eng|>")]
    prompts = [[0, 0], *([0, 0, *hello, tokenizer.token_to_id(tag)] for tag in ("<|deu|>", "<|fra|>"))]
    assert engine.prompts == prompts


def test_a_named_source_is_the_prompt(scripted: Any, tokenizer: Tokenizer) -> None:
    service, engine = scripted({"<|eng|>": "Hello.", "<|deu|>": "Hallo."})
    answer = ask(service, ["deu"], "eng")
    assert (answer.source, answer.transcript, answer.translations) == ("eng", "Hello.", {"deu": "Hallo."})
    eng, deu = (tokenizer.token_to_id(tag) for tag in ("<|eng|>", "<|deu|>"))
    assert engine.prompts == [[0, 0, eng], [0, 0, *tokenizer.encode("Hello.").ids, eng, deu]]


def test_nothing_that_is_said_becomes_a_tag(scripted: Any, tokenizer: Tokenizer) -> None:
    """A speaker who spells a tag out, and a model that writes it down letter by letter."""
    spelled = [token for letter in "to <|deu|><|fra|> x" for token in tokenizer.encode(letter).ids]
    eng, ita = (tokenizer.token_to_id(tag) for tag in ("<|eng|>", "<|ita|>"))
    service, engine = scripted({"": [*spelled, eng], "<|ita|>": spelled})
    events = events_of(service, ["ita"])
    answer = TranslationResponse.from_json(events[-1].data)
    assert answer.source == "eng"
    assert engine.prompts[1] == [0, 0, *spelled, eng, ita]  # the letters again, and no other tag than our own two
    everything = repr(events)
    assert "<|" not in everything and "|>" not in everything


def test_silence_and_the_spoken_language_need_no_decoding(scripted: Any) -> None:
    service, engine = scripted({"": "<|eng|>"})
    silent = ask(service, ["deu", "fra"])
    assert (silent.source, silent.transcript, silent.translations) == (None, "", {"deu": "", "fra": ""})
    service, engine = scripted({"": "Hi<|eng|>", "<|deu|>": "Ha"})
    assert ask(service, ["eng", "deu"]).translations == {"eng": "Hi", "deu": "Ha"}
    assert len(engine.prompts) == 2


def test_a_transcript_that_ends_without_its_language_is_asked_for_it(scripted: Any, tokenizer: Tokenizer) -> None:
    service, engine = scripted({"": "So?", "?": "<|eng|>", "<|deu|>": "Ha"})
    answer = ask(service, ["deu", "eng"])
    assert (answer.source, answer.transcript, answer.translations) == ("eng", "So?", {"deu": "Ha", "eng": "So?"})
    said = [0, 0, *tokenizer.encode("So?").ids]
    assert engine.prompts == [[0, 0], said, [*said, *(tokenizer.token_to_id(tag) for tag in ("<|eng|>", "<|deu|>"))]]
    assert engine.only == [frozenset(), frozenset(Text(tokenizer).codes), frozenset()]
    assert answer.usage.tokens == len(said) - 2 + 1 + len(tokenizer.encode("Ha").ids)


def test_pieces_add_up_and_never_cut_a_character(scripted: Any) -> None:
    texts = {"ita": "però, così — 你好 👋🏽.", "rus": "Добрый день."}
    answers = {
        "": "  Grüße, 日本語! <|deu|>",
        **{f"<|{code}|>": f" {text} ".replace("й ", "й \n ") for code, text in texts.items()},
    }
    service, _ = scripted(answers)
    events = events_of(service, ["ita", "rus"])
    assert [event.name for event in events].index("translation") > max(
        i for i, event in enumerate(events) if event.name == "transcript"
    )
    heard = [event.data for event in events if event.name == "transcript"]
    assert "".join(data["text"] for data in heard) == "Grüße, 日本語!"
    assert len(heard) > 5 and "\ufffd" not in repr(events)
    for code, text in texts.items():
        pieces = [e.data["text"] for e in events if e.name == "translation" and e.data["language"] == code]
        assert "".join(pieces) == text
    assert events[-1].name == "done" and events[-1].data["translations"] == texts


def test_deltas_wait_rather_than_take_back() -> None:
    deltas = Deltas()
    assert [deltas.next(text) for text in ("a", "ab\ufffd", "abé", "x", "abéd")] == ["a", "", "bé", "", "d"]


def test_one_failing_branch_fails_all_and_ends_the_others(scripted: Any) -> None:
    service, engine = scripted({"": "Hi<|eng|>", "<|deu|>": "H", "<|fra|>": "x" * 100_000}, fails="<|deu|>")
    with pytest.raises(CloudError, match="It failed"):
        ask(service, ["fra", "deu"])
    assert engine.open == 0


def test_closing_the_stream_ends_every_branch(scripted: Any) -> None:
    service, engine = scripted({"": "Hi<|eng|>", "<|deu|>": "x" * 100_000, "<|fra|>": "x" * 100_000})

    async def main() -> None:
        stream = service.stream(FRAME, TranslationRequest("", ["deu", "fra"]))
        async for event in stream:
            if event.name == "translation":
                break
        assert engine.open == 2
        await stream.aclose()
        assert engine.open == 0

    asyncio.run(main())


def test_a_tokenizer_without_a_tag_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError) as refused:
        Text(Tokenizer.from_str(tokenizer.to_str().replace("<|zul|>", "<|zzz|>")))
    assert refused.value.code == "tags_missing"


def test_frames_are_read_with_all_checks(make_service: Any, talking: Gemma3ForCausalLM, frame_of: Any) -> None:
    service = make_service(talking)
    assert service.read(frame_of(1, "bf16")).codec == 1
    with pytest.raises(FrameError) as wrong:
        service.read(frame_of(1)[:-1] + b"\0")
    assert wrong.value.code == "frame_bad_digest"
    asyncio.run(service.engine.close())


def test_the_real_engine_decodes_the_prompts_of_the_table(
    make_service: Callable[..., Service], talking: Gemma3ForCausalLM, frame_of: Any, tokenizer: Tokenizer
) -> None:
    """Against transformers' own generation from scratch: no forks, no batches, no cache of ours."""
    tags = {token: code for code, token in Text(tokenizer).tags.items()}

    def by_hand(rows: Rows, ids: list[int]) -> list[int]:
        with torch.inference_mode():
            embeds = torch.cat([torch.from_numpy(rows), talking.get_input_embeddings()(torch.tensor(ids).long())])
            out = talking.generate(
                inputs_embeds=embeds[None],
                attention_mask=torch.ones(1, len(embeds), dtype=torch.long),
                max_new_tokens=40,
                do_sample=False,
                eos_token_id=[EOS, *tags],
                pad_token_id=EOS,
            )
        said = [token for token in out[0].tolist() if token != EOS]
        return next((said[: n - again] for n in range(len(said)) if (again := circles(said[:n]))), said)

    def text(ids: list[int]) -> str:
        return tokenizer.decode([token for token in ids if token not in tags]).strip()

    async def work(service: Service) -> list[TranslationResponse]:
        frames = [service.read(frame_of(seed)) for seed in range(2, 6)]
        asked = TranslationRequest("", ["deu", "fra", "ita"])
        return list(await asyncio.gather(*(service.translate(frame, asked) for frame in frames)))

    service = make_service(talking, max_batch=5)
    answers = run(service, work)
    for seed, answer in zip(range(2, 6), answers, strict=True):
        audio = service._projector(decode(service.read(frame_of(seed)), service._tables))
        heard = by_hand(audio, [])
        assert heard[-1] in tags
        assert (answer.source, answer.transcript) == (tags[heard[-1]], text(heard))
        for code, translation in answer.translations.items():
            assert translation == text(by_hand(audio, [*heard, Text(tokenizer).tags[code]]))
    assert len({answer.transcript for answer in answers}) == 4


def test_beam_search_reaches_the_engine(
    make_service: Callable[..., Service], talking: Gemma3ForCausalLM, frame_of: Any
) -> None:
    async def work(service: Service) -> list[TranslationResponse]:
        frame = service.read(frame_of(3))
        return [
            await service.translate(frame, TranslationRequest("", [], None, "transcribe", beam)) for beam in (1, 4, 1)
        ]

    greedy, beam, again = run(make_service(talking), work)
    assert (greedy.transcript, greedy.translations) == (again.transcript, {})
    assert beam.transcript != greedy.transcript


def run(service: Service, work: Callable[[Service], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        try:
            return await work(service)
        finally:
            await service.engine.close()

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_encoded_rows_reach_the_projector_as_they_were(tokenizer: Tokenizer) -> None:
    seen: list[Rows] = []

    def projector(rows: Rows) -> Rows:
        seen.append(rows)
        return np.zeros((2, 4), np.float32)

    tables = Tables(np.full(6, 0.5, np.float32))
    eng = Text(tokenizer).tags["eng"]
    service = Service(Scripted({0: [eng]}), tokenizer, projector, tables, b"\1" * 8, queries=2, width=6)
    rows = np.arange(12, dtype=np.float32).reshape(2, 6) * np.float32(0.5)
    frame = service.read(encode(rows, "int8", tables, b"\1" * 8).to_bytes())
    asyncio.run(service.translate(frame, TranslationRequest("", [], None, "transcribe")))
    np.testing.assert_array_equal(seen[0], rows)
