"""From samples to texts: a real encoder, a real client, a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from esrt.audio.io import load
from esrt.audio.segments import Segment
from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES
from esrt.edge.client import Client
from esrt.edge.encoder import Encoder
from esrt.edge.pipeline import SegmentResult, Task, join, translate, translate_segments
from esrt.errors import AudioError, CloudError, UsageError
from esrt.wire import codecs, frame
from esrt.wire.schemas import TranslationResponse, Usage

Samples = npt.NDArray[np.float32]
EXAMPLES = Path(__file__).parents[2] / "examples"


def noise(seconds: float) -> Samples:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)


def spoken(*ends: float) -> list[Segment]:
    """Segments that begin a second after the one before."""
    begins = [0.0, *(end + 1 for end in ends)]
    return [Segment(start, end, noise(end - start)) for start, end in zip(begins, ends, strict=False)]


@pytest.fixture(scope="module")
def speech() -> Samples:
    """Three clips of human speech, 2 s of silence between them."""
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    names = ("french", "russian", "spanish")
    return np.concatenate([part for name in names for part in (load(EXAMPLES / f"{name}.flac"), pause)])


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
        task: Task = "translate",
    ) -> TranslationResponse:
        self.asked.append((frame, to, source, task))
        found, text = self.answers.pop(0)
        return TranslationResponse(found, text, {code: text.upper() for code in to}, "", Usage(0, 0, 0.0))


@pytest.mark.parametrize("codec", ["int8", "bf16"])
def test_through_the_real_split(cloud: Any, encoder: Encoder, tiny: Any, codec: str) -> None:
    segment = Segment(0.0, 3.0, noise(3))
    with Client(cloud.url) as client:
        (result,) = translate_segments([segment], encoder, client, ["de", "fra"], codec=codec)
    assert (result.start, result.end, result.source, result.transcript) == (0.0, 3.0, "spa", "uno 1")
    assert result.translations == {"deu": "deu 1", "fra": "fra 1"}
    assert result.wire_bytes == frame.size(codecs.CODECS[codec], tiny.queries, tiny.width)
    assert result.edge_seconds > 0 and result.cloud_seconds > 0
    (seen,) = cloud.seen
    assert "from" not in dict(seen.query), "no source is named"
    sent = frame.read(seen.body, cap=10_000, fingerprint=tiny.fingerprint, queries=tiny.queries, width=tiny.width)
    assert len(seen.body) == result.wire_bytes
    np.testing.assert_allclose(codecs.decode(sent, encoder.tables), tiny.by_hand(segment.samples, 56_000), atol=0.011)


def test_no_target_is_a_transcript_only(encoder: Encoder) -> None:
    says = Says(("deu", "Guten Tag"))
    result = join(list(translate_segments(spoken(1), encoder, says, source="de")))
    assert (result.source, result.transcript, result.translations) == ("deu", "Guten Tag", {})
    ((_, to, source, task),) = says.asked
    assert (to, source, task) == ([], "deu", "transcribe")


def test_where_nobody_speaks_nothing_is_asked(encoder: Encoder) -> None:
    for samples in (np.zeros(0, np.float32), np.zeros(SAMPLE_RATE), np.zeros(WINDOW_SAMPLES + 5), noise(4)):
        result = translate(samples, encoder, Says(), ["deu"])
        assert (result.source, result.transcript, result.translations) == (None, "", {"deu": ""})
        assert result.wire_bytes == 0 and result.cloud_seconds == 0.0 and result.segments == ()


def test_no_segment_is_longer_than_the_model_hears_well(make_edge: Callable[..., Path], speech: Samples) -> None:
    result = translate(speech, Encoder(make_edge(longest=1.5)), Says(*[("fra", "Un.")] * 20), ["eng"])
    assert len(result.segments) > 3 and all(segment.end - segment.start <= 1.5 for segment in result.segments)


def test_each_utterance_is_a_segment(encoder: Encoder, speech: Samples) -> None:
    says = Says(("fra", "Un."), ("rus", "Dva."), ("spa", "Tres."))
    result = translate(speech, encoder, says, ["eng"])
    assert result.transcript == "Un. Dva. Tres." and result.translations == {"eng": "UN. DVA. TRES."}
    assert [segment.source for segment in result.segments] == ["fra", "rus", "spa"]
    times = [time for segment in result.segments for time in (segment.start, segment.end)]
    assert times == sorted(times) and times[-1] <= len(speech) / SAMPLE_RATE
    assert len({len(data) for data, *_ in says.asked}) == 1 and result.wire_bytes == sum(
        len(data) for data, *_ in says.asked
    )


def test_the_source_is_what_is_spoken_longest() -> None:
    yes = SegmentResult(0, 3, "eng", "Yes.", {"cmn": "Yes.", "deu": "Ja."})
    no = SegmentResult(4, 10, "jpn", "\u306f\u3044\u3002", {"cmn": "No.", "deu": "Nein."})
    result = join([yes, no, SegmentResult(11, 30, None, "", {"cmn": "", "deu": ""})], ["cmn", "de"])
    assert result.source == "jpn"
    assert result.transcript == "Yes.\u306f\u3044\u3002", "no spaces between sentences"
    assert result.translations == {"cmn": "Yes.No.", "deu": "Ja. Nein."}


def test_wrong_calls(encoder: Encoder) -> None:
    for arguments in ({"to": ["klingon"]}, {"source": "xx"}, {"codec": "mp3"}):
        with pytest.raises(UsageError):
            translate(noise(1), encoder, Says(("eng", "x")), **arguments)
    with pytest.raises(AudioError):
        translate(np.zeros((2, 100)), encoder, Says(), ["deu"])


def test_an_answer_without_the_translation(encoder: Encoder) -> None:
    class Forgets(Says):
        def translate(self, frame: bytes, *rest: Any, **named: Any) -> TranslationResponse:
            return TranslationResponse("eng", "x", {}, "", Usage(0, 0, 0.0))

    with pytest.raises(CloudError) as caught:
        list(translate_segments(spoken(1), encoder, Forgets(), ["deu"]))
    assert caught.value.code == "bad_response" and "deu" in str(caught.value)


def test_the_next_is_encoded_while_one_is_decoded(encoder: Encoder) -> None:
    """The cloud answers for a segment only once the next two have been read; and never more are."""
    read = [threading.Event() for _ in range(6)]

    def source() -> Iterator[Segment]:
        for segment, event in zip(spoken(1, 3, 5, 7, 9, 11), read, strict=True):
            event.set()
            yield segment

    class Slow(Says):
        def translate(self, frame: bytes, *rest: Any, **named: Any) -> TranslationResponse:
            place = len(self.asked)
            assert all(event.wait(60) for event in read[: place + 3])
            assert not any(event.is_set() for event in read[place + 4 :]), "read too far ahead"
            return super().translate(frame, *rest, **named)

    says = Slow(*(("eng", str(number)) for number in range(6)))
    results = list(translate_segments(source(), encoder, says, ["deu"]))
    assert [result.transcript for result in results] == list("012345"), "in order"
    assert [result.end for result in results] == [1, 3, 5, 7, 9, 11]


def test_what_came_before_an_error_is_given_before_it(encoder: Encoder) -> None:
    def breaks_off() -> Iterator[Segment]:
        yield from spoken(1, 3)
        raise AudioError("audio_not_readable", "It breaks off.")

    results = translate_segments(breaks_off(), encoder, Says(("eng", "a"), ("eng", "b")), ["deu"])
    assert [next(results).transcript, next(results).transcript] == ["a", "b"]
    with pytest.raises(AudioError, match="It breaks off"):
        next(results)


def test_closing_ends_the_thread_and_the_source(encoder: Encoder) -> None:
    closed = threading.Event()

    def endless() -> Iterator[Segment]:
        try:
            while True:
                yield from spoken(1)
        finally:
            closed.set()

    results = translate_segments(endless(), encoder, Says(("eng", "a")), ["deu"])
    next(results)
    results.close()
    assert closed.wait(60)
    assert not [thread for thread in threading.enumerate() if thread.name == "esrt-edge"]
