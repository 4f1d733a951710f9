"""From samples to texts: a real encoder, a real client, a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES
from esrt.edge.client import Client
from esrt.edge.encoder import Encoder
from esrt.edge.pipeline import Piece, translate
from esrt.errors import AudioError, CloudError, UsageError
from esrt.wire import codecs, frame
from esrt.wire.schemas import TranslationResponse, Usage

Samples = npt.NDArray[np.float32]


def noise(seconds: float) -> Samples:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)


@pytest.fixture
def encoder(make_edge: Callable[..., Path]) -> Encoder:
    return Encoder(make_edge(), threads=1)


class Says:
    """A cloud that gives prepared answers, a source and a text each, and keeps what it was asked."""

    def __init__(self, *answers: tuple[str | None, str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[bytes, list[str], str | None, str]] = []

    def translate(
        self,
        frame: bytes,
        to: list[str],
        source: str | None = None,
        task: Literal["translate", "transcribe"] = "translate",
    ) -> TranslationResponse:
        self.asked.append((frame, to, source, task))
        found, text = self.answers.pop(0)
        return TranslationResponse(found, text, {code: text.upper() for code in to}, "", Usage(0, 0, 0.0))


@pytest.mark.parametrize("codec", ["int8", "bf16"])
def test_through_the_real_split(cloud: Any, encoder: Encoder, tiny: Any, codec: str) -> None:
    samples = noise(3)
    client = Client(cloud.url)
    result = translate(samples, encoder, client, ["de", "fra"], codec=codec)
    assert (result.source, result.transcript) == ("spa", "uno 1")
    assert result.translations == {"deu": "deu 1", "fra": "fra 1"}
    assert result.pieces == (Piece(0.0, 3.0, "spa", "uno 1", result.translations),)
    assert result.wire_bytes == frame.size(codecs.CODECS[codec], tiny.queries, tiny.width)
    assert result.edge_seconds > 0 and result.cloud_seconds > 0
    (seen,) = cloud.seen
    assert "from" not in dict(seen.query), "no source is named"
    sent = frame.read(seen.body, cap=10_000, fingerprint=tiny.fingerprint, queries=tiny.queries, width=tiny.width)
    assert len(seen.body) == result.wire_bytes
    np.testing.assert_allclose(codecs.decode(sent, encoder.tables), tiny.by_hand(samples, 56_000), atol=0.011)


def test_no_target_is_a_transcript_only(encoder: Encoder) -> None:
    says = Says(("deu", "Guten Tag"))
    result = translate(noise(1), encoder, says, source="de")
    assert (result.source, result.transcript, result.translations) == ("deu", "Guten Tag", {})
    ((_, to, source, task),) = says.asked
    assert (to, source, task) == ([], "deu", "transcribe")


def test_silence_is_answered_without_asking(encoder: Encoder) -> None:
    for samples in (np.zeros(0, np.float32), np.zeros(SAMPLE_RATE, np.float32), np.zeros(WINDOW_SAMPLES * 2 + 5)):
        result = translate(samples, encoder, Says(), ["deu"])
        assert (result.source, result.transcript, result.translations) == (None, "", {"deu": ""})
        assert result.wire_bytes == 0 and result.cloud_seconds == 0.0


def test_31_seconds_are_two_pieces(encoder: Encoder) -> None:
    samples = noise(31)
    samples[28 * SAMPLE_RATE : 28 * SAMPLE_RATE + 1_600] = 0
    says = Says(("eng", "One two."), ("eng", "Three."))
    result = translate(samples, encoder, says, ["fra"])
    assert result.transcript == "One two. Three."
    assert result.translations == {"fra": "ONE TWO. THREE."}
    first, second = result.pieces
    assert first.start == 0.0 and first.end == second.start and second.end == 31.0
    assert 28.0 < first.end < 28.1
    sizes = [len(data) for data, *_ in says.asked]
    assert sizes[0] == sizes[1] and result.wire_bytes == sum(sizes)


def test_a_silent_piece_is_left_out(encoder: Encoder) -> None:
    samples = noise(75)
    samples[29 * SAMPLE_RATE : 61 * SAMPLE_RATE] = 0
    says = Says(("spa", "Hola."), ("spa", "Adi\u00f3s."))
    result = translate(samples, encoder, says, ["eng"])
    assert [piece.source for piece in result.pieces] == ["spa", None, "spa"]
    assert result.transcript == "Hola. Adi\u00f3s."


def test_the_source_is_what_is_spoken_longest(encoder: Encoder) -> None:
    says = Says(("eng", "Yes."), ("jpn", "\u306f\u3044\u3002"), ("jpn", "\u3044\u3044\u3048\u3002"))
    result = translate(noise(75), encoder, says, ["cmn", "deu"])
    assert result.source == "jpn"
    assert result.transcript == "Yes.\u306f\u3044\u3002\u3044\u3044\u3048\u3002", "no spaces between sentences"
    assert " " in result.translations["deu"] and " " not in result.translations["cmn"]


def test_a_piece_in_which_the_model_hears_nothing(encoder: Encoder) -> None:
    result = translate(noise(31), encoder, Says((None, ""), ("eng", "Hi.")), [])
    assert (result.source, result.transcript) == ("eng", "Hi.")


def test_wrong_calls(encoder: Encoder) -> None:
    for arguments in ({"to": ["klingon"]}, {"source": "xx"}, {"codec": "mp3"}):
        with pytest.raises(UsageError):
            translate(noise(1), encoder, Says(("eng", "x")), **arguments)
    with pytest.raises(AudioError):
        translate(np.zeros((2, 100)), encoder, Says(), ["deu"])


def test_an_answer_without_the_translation(encoder: Encoder) -> None:
    class Forgets(Says):
        def translate(self, frame: bytes, to: list[str], *rest: Any, **named: Any) -> TranslationResponse:
            return TranslationResponse("eng", "x", {}, "", Usage(0, 0, 0.0))

    with pytest.raises(CloudError) as caught:
        translate(noise(1), encoder, Forgets(), ["deu"])
    assert caught.value.code == "bad_response" and "deu" in str(caught.value)
