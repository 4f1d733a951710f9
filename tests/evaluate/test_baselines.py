"""Baselines: Whisper as it is, real models of other kinds with random weights, and a server with OpenAI's API."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    NllbTokenizer,
    SeamlessM4TFeatureExtractor,
    SeamlessM4TProcessor,
    SeamlessM4TTokenizer,
    SeamlessM4Tv2Config,
    SeamlessM4Tv2ForSpeechToText,
)

from esrt.errors import ModelError, UsageError
from esrt.evaluate.baselines import cascade, openai, seamless
from esrt.evaluate.baselines.cascade import TextTranslator, token
from esrt.evaluate.baselines.openai import language
from esrt.evaluate.baselines.whisper import Heard
from esrt.evaluate.run import Clip

WHISPER = "openai/whisper-base"
LETTERS = ["▁", *"abcdefghijklmnopqrstuvwxyz"]


def clips(examples: Path, *targets: str, named: bool = False) -> list[Clip]:
    return [
        Clip(str(examples / "spanish.flac"), "spa", "", targets, named),
        Clip(str(examples / "french.flac"), "fra", "", targets, named),
    ]


@pytest.fixture(scope="module")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of NLLB's kind and its own tokenizer class, with random weights."""
    folder = tmp_path_factory.mktemp("nllb")
    torch.manual_seed(0)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = NllbTokenizer(vocab={name: number for number, name in enumerate([*special, *LETTERS])}, merges=[])
    tokenizer.save_pretrained(folder)
    M2M100ForConditionalGeneration(
        M2M100Config(
            vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=256,
            decoder_start_token_id=2,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("vocabulary", "code", "found"),
    [
        (["deu_Latn", "eng_Latn"], "deu", "deu_Latn"),
        (["zho_Hant", "zho_Hans", "yue_Hant"], "cmn", "zho_Hans"),
        (["arb_Arab", "ars_Arab"], "ara", "arb_Arab"),
        (["__de__", "__den__"], "deu", "__de__"),
        (["__no__"], "nob", "__no__"),
        (["de_DE", "de"], "deu", "de_DE"),
        (["<2de>", "<2den>"], "deu", "<2de>"),
        ([">>deu<<"], "deu", ">>deu<<"),
        (["fra_Latn"], "deu", None),
    ],
)
def test_how_models_write_languages(vocabulary: list[str], code: str, found: str | None) -> None:
    assert token(vocabulary, code) == found


def test_whisper_alone(examples: Path) -> None:
    system = cascade.system(WHISPER, None)
    found = list(system(clips(examples, "eng")))
    assert [one.source for one in found] == ["spa", "fra"]
    assert all(one.transcript and one.translations["eng"] for one in found)
    assert all(one.transcript != one.translations["eng"] for one in found)
    with pytest.raises(UsageError) as refused:
        next(system(clips(examples, "deu")))
    assert refused.value.code == "language_not_supported"


def test_whisper_and_a_text_model(examples: Path, nllb: Path) -> None:
    found = list(cascade.system(WHISPER, str(nllb))(clips(examples, "deu", "cmn", named=True)))
    assert [one.source for one in found] == ["spa", "fra"]
    assert all(set(one.translations) == {"deu", "cmn"} for one in found)


def test_what_was_misheard_as_a_language_that_the_text_model_has_not(
    examples: Path, nllb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = TextTranslator(str(nllb))
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(texts, "vocabulary", {"spa_Latn": 0, "deu_Latn": 1})
    assert texts.reads("spa") and not texts.reads("mlt")

    def translate(said: list[str], source: str, target: str) -> list[str]:
        told.append((source, target))
        return said

    monkeypatch.setattr(texts, "translate", translate)
    [found] = cascade._translate(texts, clips(examples, "deu")[:1], [Heard("mlt", "Hola.")])
    assert found == {"deu": "Hola."} and told == [("spa", "deu")]


def test_a_text_model_is_told_both_languages(nllb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = TextTranslator(str(nllb))
    asked: list[tuple[list[int], int]] = []
    generate = texts.model.generate

    def spy(**given: object) -> object:
        ids, forced = given["input_ids"], given["forced_bos_token_id"]
        assert isinstance(ids, torch.Tensor) and isinstance(forced, int)
        asked.append((ids[0].tolist(), forced))
        return generate(**given)

    monkeypatch.setattr(texts.model, "generate", spy)
    assert len(texts.translate(["un chat", "le"], "fra", "deu")) == 2
    ids, forced = asked[0]
    assert texts.vocabulary["fra_Latn"] in ids and forced == texts.vocabulary["deu_Latn"]


@pytest.fixture(scope="module")
def small_seamless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seamless")
    torch.manual_seed(0)
    special = ["<pad>", "<unk>", "<s>", "</s>", "__eng__", "__deu__", "__spa__", "__fra__"]
    tokenizer = SeamlessM4TTokenizer(
        vocab={name: number for number, name in enumerate([*special, *LETTERS])}, merges=[]
    )
    SeamlessM4TProcessor(SeamlessM4TFeatureExtractor(), tokenizer).save_pretrained(folder)
    model = SeamlessM4Tv2ForSpeechToText(
        SeamlessM4Tv2Config(
            vocab_size=len(tokenizer), hidden_size=16, speech_encoder_layers=1, speech_encoder_attention_heads=2,
            speech_encoder_intermediate_size=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32,
            encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, max_position_embeddings=256,
            num_adapter_layers=1, conv_depthwise_kernel_size=3,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    said = json.loads((folder / "generation_config.json").read_text())
    del said["_from_model_config"]  # a released model's file is written by hand
    said["text_decoder_lang_to_code_id"] = {"eng": 4, "deu": 5, "spa": 6, "fra": 7}
    (folder / "generation_config.json").write_text(json.dumps(said))
    return folder


def test_seamless(examples: Path, small_seamless: Path) -> None:
    system = seamless.system(str(small_seamless))
    named, unnamed = (list(system(clips(examples, "eng", "deu", named=told))) for told in (True, False))
    assert [one.source for one in named] == ["spa", "fra"] and [one.source for one in unnamed] == [None, None]
    assert all(set(one.translations) == {"eng", "deu"} for one in [*named, *unnamed])
    assert all(one.transcript for one in named) and not any(one.transcript for one in unnamed)
    with pytest.raises(UsageError) as refused:
        next(system(clips(examples, "tha")))
    assert refused.value.code == "language_not_supported" and "tha" in str(refused.value)


class Speaking:
    """A server with OpenAI's audio API, and what it was asked. `many`: it heeds `to_language`."""

    def __init__(self, many: bool) -> None:
        self.asked: list[dict[str, str]] = []

        async def answer(request: Request) -> Response:
            form = await request.form()
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            sound = form["file"]
            assert not isinstance(sound, str) and (await sound.read())[:4] == b"RIFF"
            self.asked.append({"path": request.url.path, "key": request.headers.get("authorization", ""), **fields})
            if fields["model"] != "good":
                return JSONResponse({"error": {"message": "no"}}, 404)
            if request.url.path.endswith("transcriptions"):
                return JSONResponse({"text": " hola ", "language": "spanish"})
            german = many and fields.get("to_language") == "deu"
            return JSONResponse({"text": "Hallo" if german else "hello", "language": "german" if german else "english"})

        paths = ["/v1/audio/transcriptions", "/v1/audio/translations"]
        app = Starlette(routes=[Route(path, answer, methods=["POST"]) for path in paths])
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        threading.Thread(target=self._server.run, daemon=True).start()
        while not self._server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/v1"

    def stop(self) -> None:
        self._server.should_exit = True


@pytest.fixture
def speaking() -> Iterator[list[Speaking]]:
    servers = [Speaking(many=False), Speaking(many=True)]
    yield servers
    for server in servers:
        server.stop()


def test_a_server_of_openais_kind(examples: Path, speaking: list[Speaking]) -> None:
    one, many = speaking
    [first, _] = openai.system(one.url, "good", "secret")(clips(examples, "eng"))
    assert (first.source, first.transcript, first.translations) == ("spa", "hola", {"eng": "hello"})
    assert {request["key"] for request in one.asked} == {"Bearer secret"}
    assert not any("language" in request for request in one.asked)
    [second, _] = openai.system(many.url, "good", None)(clips(examples, "deu", named=True))
    assert second.translations == {"deu": "Hallo"} and {request.get("language") for request in many.asked} > {
        "es",
        "fr",
    }
    with pytest.raises(UsageError) as refused:  # English in the place of German is no German
        list(openai.system(one.url, "good", None)(clips(examples, "deu")))
    assert refused.value.code == "language_not_supported"


def test_what_cannot_be_read_is_left_out(examples: Path, small_seamless: Path, speaking: list[Speaking]) -> None:
    asked = openai.system(speaking[0].url, "good", None)
    for system in (cascade.system(WHISPER, None), seamless.system(str(small_seamless)), asked):
        spanish, french = clips(examples, "eng")
        gone = replace(spanish, audio="gone.flac")
        *found, alone = system([spanish, gone, french, *[gone] * 5])
        assert [one.error is None for one in found[:3]] == [True, False, True]
        assert found[2].translations["eng"] == next(system([french])).translations["eng"]
        assert alone.error is not None and alone.error.code == "audio_not_found" and "gone.flac" in str(alone.error)


def test_a_server_that_refuses_or_is_not_there(examples: Path, speaking: list[Speaking]) -> None:
    from esrt.errors import CloudError

    with pytest.raises(CloudError) as refused:
        list(openai.system(speaking[0].url, "other", None)(clips(examples, "eng")))
    assert (refused.value.code, refused.value.status) == ("server_refused", 404)
    with pytest.raises(CloudError) as nobody:
        list(openai.system("http://127.0.0.1:9/v1", "good", None)(clips(examples, "eng")))
    assert nobody.value.code == "server_failed"
    with pytest.raises(UsageError, match="no address"):
        openai.system("nowhere", "good", None)


def test_names_of_languages() -> None:
    assert [language(name) for name in ("english", "de", "Thai", "", None, "klingon", 3)] == [
        "eng", "deu", "tha", None, None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/at/all"])
def test_a_model_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelError) as refused:
        seamless.system(name)
    assert refused.value.code == "model_not_found"


def test_a_model_of_another_kind(nllb: Path) -> None:
    with pytest.raises(ModelError) as refused:
        seamless.system(str(nllb))
    assert refused.value.code == "model_not_supported" and "\n" not in str(refused.value)
