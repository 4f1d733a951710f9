"""What int8 costs: the same clips through the same cloud, once by the shipped graph and once by the float32 one."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from esrt.audio.io import load
from esrt.bench.edge.floats import float_graph
from esrt.bench.page import machine, table
from esrt.bench.training.score import ENGLISH, WORDS, Answer, Clip, choose, ours
from esrt.config import WINDOW_SAMPLES, ModelConfig
from esrt.edge.encoder import Encoder
from esrt.evaluate.metrics import score
from esrt.train.examples import plain
from esrt.train.manifest import read_manifest
from esrt.translator import prepare

TARGET = 0.5  # points
DRAWS = 400
FLOAT, INT8 = "float32", "int8"


@dataclass(frozen=True)
class Scores:
    """Of some clips, in points (0 to 100): CER of the transcripts, BLEU by target (none where no clip has one)."""

    cer: float
    bleu: dict[str, float | None]


def character_errors(clips: Sequence[Clip], answers: Sequence[Answer]) -> float:
    """Character error rate of all clips together in points, without case and punctuation."""
    said = [plain(clip.transcript) for clip in clips]
    return 100 * float(jiwer.cer(said, [plain(answer.transcript) or "-" for answer in answers]))


def bleu(clips: Sequence[Clip], answers: Sequence[Answer], target: str) -> float | None:
    """BLEU of the translations into `target`, None where no clip has a reference."""
    pairs = [(a.translations[target], c.references[target]) for c, a in zip(clips, answers, strict=True)
             if target in c.references]  # fmt: skip
    if not pairs:
        return None
    return score("bleu", [text for text, _ in pairs], [wanted for _, wanted in pairs], target)


def scores(clips: Sequence[Clip], answers: Sequence[Answer], targets: Sequence[str]) -> Scores:
    """All scores of some clips."""
    return Scores(character_errors(clips, answers), {code: bleu(clips, answers, code) for code in targets})


def two_targets(clips: Sequence[Clip]) -> list[str]:
    """English, and the other language that most clips have a reference in."""
    count = Counter(code for clip in clips for code in sorted(clip.references) if code != ENGLISH)
    return [ENGLISH, *(code for code, _ in count.most_common(1))]


def cosines(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows [n, width] and [n, width] -> how alike each pair is [n]; 1 is equal."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found: npt.NDArray[np.float32] = (one * other).sum(1) / lengths
    return found


def alike(clips: Sequence[Clip], one: Encoder, other: Encoder) -> tuple[float, float]:
    """Mean and worst cosine of the rows of two encoders, over all rows of all clips."""
    found = []
    for clip in tqdm(clips, desc="rows", disable=None):
        samples = load(clip.audio)[:WINDOW_SAMPLES]
        found.append(cosines(one.encode(samples), other.encode(samples)))
    every = np.concatenate(found)
    return float(every.mean()), float(every.min())


def losses(
    clips: Sequence[Clip], answers: Mapping[str, Sequence[Answer]], targets: Sequence[str]
) -> dict[str, tuple[float, float, float]]:
    """By score: the points that int8 loses over all clips, and where 95 % of DRAWS of the clips have that loss."""
    rng, found = random.Random(0), {}

    def lost(of: Sequence[int], target: str | None) -> float:
        group = [clips[number] for number in of]
        before, after = ([answers[name][number] for number in of] for name in (FLOAT, INT8))
        if target is None:
            return character_errors(group, after) - character_errors(group, before)
        return (bleu(group, before, target) or 0.0) - (bleu(group, after, target) or 0.0)

    draws = [rng.choices(range(len(clips)), k=len(clips)) for _ in range(DRAWS)]
    for name, target in {"CER": None, **{f"BLEU into {code}": code for code in targets}}.items():
        drawn = sorted(lost(draw, target) for draw in draws)
        found[name] = (lost(range(len(clips)), target), drawn[DRAWS // 40], drawn[-1 - DRAWS // 40])
    return found


def report(
    found: Mapping[str, Mapping[str, Scores]],
    counts: Mapping[str, int],
    lost: Mapping[str, tuple[float, float, float]],
) -> str:
    """The table: by group of clips (a language, or `all`, the last), the scores with either graph, and what is lost."""
    targets = list(next(iter(found.values()))[FLOAT].bleu)

    def cells(group: Mapping[str, Scores], target: str | None) -> list[str]:
        values = [group[name].cer if target is None else group[name].bleu[target] for name in (FLOAT, INT8)]
        return ["-" if value is None else f"{value:.1f}" for value in values]

    rows = [
        [name, str(counts[name]), *(cell for target in (None, *targets) for cell in cells(group, target))]
        for name, group in found.items()
    ]
    head = [f"{score}: {graph}" for score in ("CER", *(f"BLEU -> {code}" for code in targets))
            for graph in (FLOAT, INT8)]  # fmt: skip
    told = [f"{loss:+.2f} of {name} ({low:+.2f} to {high:+.2f})" for name, (loss, low, high) in lost.items()]
    return "\n\n".join(
        [
            table(["source", "clips", *head], rows),
            f"Points that int8 loses over all clips (below 0: gains): {', '.join(told)}. Target: <= {TARGET}. "
            f"In brackets where 95 % of {DRAWS} draws of these clips lie: a few rows turn some answers, for "
            "better or worse.",
        ]
    )


def run(model: str, manifest: Path, each: int) -> str:
    """The section: `each` clips of every language of the manifest, with both graphs."""
    by_source = choose(read_manifest(manifest), each)
    clips = [clip for group in by_source.values() for clip in group]
    targets, folder = two_targets(clips), prepare(model)
    # Of the references only those count that are looked at: each language more is a translation more.
    clips = [
        Clip(c.audio, c.source, c.transcript, {code: c.references[code] for code in targets if code in c.references})
        for c in clips
    ]
    with tempfile.TemporaryDirectory() as scratch:
        paths = {FLOAT: float_graph(folder, Path(scratch) / "float.onnx"), INT8: folder / "edge.onnx"}
        mean, worst = alike(clips, *(Encoder(path) for path in paths.values()))
        answers = {name: ours(folder, clips, "int8", 1, path) for name, path in paths.items()}
    found: dict[str, dict[str, Scores]] = {}
    for source in [*by_source, "all"]:
        of = [number for number, clip in enumerate(clips) if source in (clip.source, "all")]
        group = [clips[number] for number in of]
        found[source] = {name: scores(group, [texts[n] for n in of], targets) for name, texts in answers.items()}
    same = sum(a == b for a, b in zip(answers[FLOAT], answers[INT8], strict=True))
    counts = {source: len(group) for source, group in by_source.items()} | {"all": len(clips)}
    return "\n\n".join(
        [
            report(found, counts, losses(clips, answers, targets)),
            f"Of {len(clips)} clips {same} have the same texts with both graphs, to the letter. The rows' cosine is "
            f"{mean:.4f} in the mean, {worst:.4f} at worst.",
            f"{ModelConfig.load(folder / 'config.json').name}, int8 frames, greedy, at most {each} clips of "
            f"{manifest.stem} a language, {WORDS} words or more; it is not told the language. CER is without case and "
            f"punctuation. On {machine()}.",
        ]
    )
