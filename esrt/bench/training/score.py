"""How good a model is: held-out clips through the whole real path (edge graph, frame, service), beside Whisper."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jiwer
import sacrebleu
from tqdm import tqdm

from esrt.audio.io import load
from esrt.bench.page import machine, table
from esrt.cloud.load import load_service
from esrt.config import WINDOW_SAMPLES, ModelConfig
from esrt.edge import pipeline
from esrt.edge.encoder import Encoder
from esrt.evaluate.baselines.whisper import Whisper
from esrt.evaluate.metrics import score
from esrt.languages import words
from esrt.train.examples import plain
from esrt.train.manifest import Row, read_manifest
from esrt.translator import LocalCloud, prepare
from esrt.wire.schemas import TranslationRequest, TranslationResponse

ENGLISH = "eng"
WORDS = 3  # single words say little about a translator
BATCH = 8


@dataclass(frozen=True)
class Clip:
    """One recording of the manifest: what is said, and the references by language."""

    audio: str
    source: str
    transcript: str
    references: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What a system made of a clip."""

    source: str | None
    transcript: str
    translations: dict[str, str]


class Searching(LocalCloud):
    """The service in this process, with a beam."""

    beam = 1

    def translate(
        self, frame: bytes, to: list[str], source: str | None = None, task: pipeline.Task = "translate"
    ) -> TranslationResponse:
        """The answer to one frame."""
        request = TranslationRequest("", to, source, task, self.beam)
        return self._wait(self._service.translate(self._service.read(frame), request))


def choose(rows: Sequence[Row], each: int) -> dict[str, list[Clip]]:
    """Source language -> at most `each` clips of WORDS words or more, drawn with a fixed seed.

    Where no transcript is known, the words of the first translation count.
    """
    found: dict[str, Clip] = {}
    short = set()
    for row in rows:
        if row.audio not in found:
            said, language = (row.asr, row.src) if row.asr else (row.s2tt, row.tgt)
            if words(said, language) < WORDS:
                short.add(row.audio)
            found[row.audio] = Clip(row.audio, row.src, row.asr, {})
        if row.s2tt:
            found[row.audio].references[row.tgt] = row.s2tt
    by_source: dict[str, list[Clip]] = {}
    for clip in found.values():
        if clip.audio not in short:
            by_source.setdefault(clip.source, []).append(clip)
    return {
        source: random.Random(0).sample(clips, min(each, len(clips))) for source, clips in sorted(by_source.items())
    }


def ours(folder: Path, clips: Sequence[Clip], codec: str, beam: int, edge: Path | None = None) -> list[Answer]:
    """What the model in `folder`, or the edge model `edge` with its cloud half, makes of the clips.

    It is not told the language.
    """
    encoder, cloud = Encoder(edge or folder / "edge.onnx"), Searching(load_service(folder))
    cloud.beam = beam

    def answer(clip: Clip) -> Answer:
        result = pipeline.translate(load(clip.audio), encoder, cloud, list(clip.references), codec=codec)
        return Answer(result.source, result.transcript, result.translations)

    try:
        with ThreadPoolExecutor(BATCH) as pool:
            return list(tqdm(pool.map(answer, clips), total=len(clips), desc="ESRT", disable=None))
    finally:
        cloud.close()


def whispers(config: ModelConfig, clips: Sequence[Clip]) -> list[Answer]:
    """What the encoder's own Whisper makes of the clips in English; it is not told the language either."""
    whisper = Whisper(config.encoder.weights)

    def answers() -> Iterator[Answer]:
        for first in tqdm(range(0, len(clips), BATCH), desc="Whisper", disable=None):
            waves = [load(clip.audio)[:WINDOW_SAMPLES] for clip in clips[first : first + BATCH]]
            for heard in whisper.hear(waves):
                yield Answer(heard.source, "", {ENGLISH: heard.text})

    return list(answers())


def quality(clips: Sequence[Clip], answers: Sequence[Answer], target: str) -> str:
    """`BLEU / chrF` of the translations into `target`, `-` where there is no reference."""
    pairs = [
        (answer.translations[target], clip.references[target])
        for clip, answer in zip(clips, answers, strict=True)
        if target in clip.references
    ]
    if not pairs:
        return "-"
    texts, wanted = [text for text, _ in pairs], [text for _, text in pairs]
    return f"{score('bleu', texts, wanted, target):.1f} / {sacrebleu.corpus_chrf(texts, [wanted]).score:.1f}"


def found(clips: Sequence[Clip], answers: Sequence[Answer]) -> str:
    """Share of the clips whose language was named rightly."""
    return f"{sum(a.source == c.source for c, a in zip(clips, answers, strict=True)) / len(clips):.1%}"


def errors(clips: Sequence[Clip], answers: Sequence[Answer]) -> list[str]:
    """Character error rate without case and punctuation: of all clips together, and of the median clip; `-` where no
    transcript is known.
    """
    pairs = zip(clips, answers, strict=True)
    known = [(plain(c.transcript), plain(a.transcript) or "-") for c, a in pairs if c.transcript]
    if not known:
        return ["-", "-"]
    said, heard = [text for text, _ in known], [text for _, text in known]
    middle = statistics.median(jiwer.cer(one, other) for one, other in known)
    return [f"{jiwer.cer(said, heard):.2f}", f"{middle:.2f}"]


def run(model: str, manifest: Path, each: int, codec: str) -> str:
    """The section: `each` clips of every language of the manifest, by the model and by Whisper."""
    by_source = choose(read_manifest(manifest), each)
    clips = [clip for group in by_source.values() for clip in group]
    folder = prepare(model)
    config = ModelConfig.load(folder / "config.json")
    mine = dict(zip((clip.audio for clip in clips), ours(folder, clips, codec, 1), strict=True))
    theirs = dict(zip((clip.audio for clip in clips), whispers(config, clips), strict=True))
    first, second = [], []
    targets = sorted({code for clip in clips for code in clip.references} - {ENGLISH})
    for source, group in [*by_source.items(), ("all", clips)]:
        a, b = [mine[clip.audio] for clip in group], [theirs[clip.audio] for clip in group]
        named = [found(group, a), found(group, b)]
        english = [quality(group, a, ENGLISH), quality(group, b, ENGLISH)]
        first.append([source, str(len(group)), *named, *errors(group, a), *english])
        if source != "all":
            second.append([source, *(quality(group, a, target) for target in targets)])
    head = ["source", "clips", "found: ESRT", "found: Whisper", "CER, all", "CER, median clip"]
    return "\n\n".join(
        [
            f"{config.name}, {codec} frames, greedy, at most {each} clips of "
            f"{manifest.stem} a language, {WORDS} words or more; Whisper is `{config.encoder.weights}`, `translate`, "
            "greedy. Neither is told the language; Whisper hears a clip's first 30 s. BLEU and chrF are sacreBLEU's; "
            "CER is without case and punctuation.",
            table([*head, "-> eng BLEU / chrF: ESRT", "Whisper"], first),
            "Directions without English, and out of English (Whisper can do neither), BLEU / chrF of ESRT:",
            table(["source", *(f"-> {target}" for target in targets)], second),
            f"Ran on {machine()}.",
        ]
    )
