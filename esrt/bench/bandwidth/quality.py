"""What a format costs in the texts: the same clips, each way through the whole model (edge graph, frame, service)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.figure import Figure
from sacrebleu.metrics.chrf import CHRF
from tqdm import tqdm

from esrt.audio import formats
from esrt.audio.io import load
from esrt.bench.bandwidth import sizes
from esrt.bench.bandwidth.clips import INTO, rows_of
from esrt.bench.bandwidth.line import cloud as listening
from esrt.bench.page import machine, table
from esrt.bench.training.score import ENGLISH, Answer, Clip, errors, found
from esrt.config import ModelConfig
from esrt.edge import pipeline
from esrt.edge.encoder import Encoder
from esrt.evaluate import metrics, results
from esrt.evaluate.plots import COLOURS
from esrt.evaluate.results import Result
from esrt.evaluate.run import run as evaluate
from esrt.evaluate.systems import through
from esrt.train.manifest import Row, write_manifest
from esrt.translator import LocalCloud, prepare
from esrt.wire.codecs import CODECS

WHOLE = "bf16"
"""The frames of whatever hears the sound in the cloud, and what the others are compared with: the finest there are."""
LOSS = 1.0  # points of chrF that sizes.SMALL may lose


@dataclass(frozen=True)
class Way:
    """Clips through the model by one format: as frames of `codec`, after Opus at `rate` kb/s if there is one."""

    encoder: Encoder
    cloud: pipeline.Sends
    codec: str
    rate: int | None = None

    def translate(self, audio: str, to: Sequence[str], source: str | None = None) -> pipeline.Result:
        """Of a sound file as 16-bit samples, as every format begins."""
        samples = formats.rounded(load(audio))
        if self.rate is not None:
            samples = load(io.BytesIO(formats.opus(samples, self.rate)))
        return pipeline.translate(samples, self.encoder, self.cloud, to, source, self.codec)


@dataclass(frozen=True)
class Score:
    """A format's texts: BLEU and chrF of the translations, and by how much its chrF is above that of WHOLE: in all, and
    the ends of where 95 % of the draws have it. `heard`: character error rates, of all clips and of the median clip.
    """

    bleu: float
    chrf: float
    above: tuple[float, float, float]
    heard: list[str]
    found: str


def answers(ready: Path, encoder: Encoder, rows: Sequence[Row], folder: Path) -> dict[str, list[Result]]:
    """Format -> what the model in the folder `ready` makes of the clips, in the order of `rows`.

    What lies in `folder` from a run before is not made again. Raises UsageError as `evaluate.run.run`, ModelError.
    """
    from esrt.cloud.load import load_service

    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "clips.jsonl"
    write_manifest(manifest, rows)
    cloud = LocalCloud(load_service(ready))
    ways = {f"opus{rate}": Way(encoder, cloud, WHOLE, rate) for rate in formats.OPUS}
    ways |= {codec: Way(encoder, cloud, codec) for codec in encoder.codecs}

    def answer(name: str) -> list[Result]:
        out = folder / f"{name}.jsonl"
        evaluate(manifest, out, partial(through, ways[name]), {"model": ready.name, "format": name})
        by_key = {one.key: one for one in results.read(out)}
        return [by_key[row.id, row.src, row.tgt] for row in rows]

    try:
        with ThreadPoolExecutor() as pool:  # a few formats at once fill the engine's batch
            return dict(zip(ways, pool.map(answer, ways), strict=True))
    finally:
        cloud.close()


def score(said: Sequence[Result], whole: Sequence[Result]) -> Score:
    """Of a format, beside WHOLE: the same clips in the same order."""
    clips = [Clip(one.audio, one.src, one.asr, {one.tgt: one.s2tt}) for one in said]
    texts = [Answer(one.found, one.asr_r, {one.tgt: one.s2tt_r}) for one in said]
    bleu = metrics.score("bleu", [one.s2tt_r for one in said], [one.s2tt for one in said], ENGLISH)
    return Score(bleu, chrf(said), difference(said, whole), errors(clips, texts), found(clips, texts))


def chrf(said: Sequence[Result]) -> float:
    """SacreBLEU's chrF of all translations together."""
    return float(CHRF().corpus_score([one.s2tt_r for one in said], [[one.s2tt for one in said]]).score)


def difference(said: Sequence[Result], other: Sequence[Result]) -> tuple[float, float, float]:
    """By how many points of chrF the first is better, and the ends of that difference's 95 % interval.

    A paired bootstrap: each of metrics.RESAMPLES draws takes the same clips of both.
    """
    metric = CHRF()

    # As sacreBLEU's own significance test counts; that one gives intervals of the scores, not of their difference.
    def counts(texts: Sequence[Result]) -> npt.NDArray[np.int64]:
        lines, wanted = [one.s2tt_r for one in texts], [one.s2tt for one in texts]
        return np.array(metric._extract_corpus_statistics(lines, [wanted]))

    def points(clips: npt.NDArray[np.int64]) -> float:
        return float(metric._compute_score_from_stats(clips.sum(0).tolist()).score)

    first, second = counts(said), counts(other)
    draws = np.random.default_rng(0).integers(len(said), size=(metrics.RESAMPLES, len(said)))
    low, high = np.quantile([points(first[draw]) - points(second[draw]) for draw in draws], [0.025, 0.975])
    return points(first) - points(second), float(low), float(high)


def run(model: str, manifest: Path, each: int, folder: Path, picture: Path) -> str:
    """The section, and its picture: at most `each` clips of every language of the manifest."""
    rows, ready = rows_of(manifest, each), prepare(model)
    encoder = sizes.edge(ready)
    texts, spoken = answers(ready, encoder, rows, folder), sizes.clips(encoder, rows)
    with listening(tls=True) as connect:
        device = connect()
        mean = sizes.average([sizes.sent(device, clip, 1) for clip in tqdm(spoken, desc="bytes", disable=None)])
    scores = {name: score(said, texts[WHOLE]) for name, said in texts.items()}
    scores = {name: scores.get(name, scores[WHOLE]) for name in mean}  # a sound that is whole is heard as it was
    draw(picture, mean, scores)
    config = ModelConfig.load(ready / "config.json")
    return "\n\n".join(
        [
            f"![chrF against bytes]({picture.name})",
            _table(mean, scores),
            _goal(scores),
            "chrF by the spoken language:",
            _by_source(texts),
            f"{config.name}, greedy; clips of {manifest.stem}: {len(rows)}, each into {ENGLISH}, and {ENGLISH} into "
            f"{INTO}; it is not told the language. Bytes: mean of what is sent for a clip and one target, over TLS. "
            f"BLEU and chrF are sacreBLEU's, of all translations together; in brackets where 95 % of "
            f"{metrics.RESAMPLES} paired draws of the clips lie. CER is without case and punctuation. What hears a "
            f"whole sound gives its model {WHOLE} rows. Ran on {machine()}.",
        ]
    )


def _table(mean: Mapping[str, float], scores: Mapping[str, Score]) -> str:
    head = ["format", "bytes", "BLEU", "chrF", f"chrF above {WHOLE}", "CER, all", "CER, median clip", "language found"]
    rows = []
    for name, size in mean.items():
        one = scores[name]
        above = "" if one is scores[WHOLE] else "{:+.1f} ({:+.1f} to {:+.1f})".format(*one.above)
        rows.append(
            [sizes.title(name), f"{size:,.0f}", f"{one.bleu:.1f}", f"{one.chrf:.1f}", above, *one.heard, one.found]
        )
    return table(head, rows)


def _goal(scores: Mapping[str, Score]) -> str:
    change, low, high = scores[sizes.SMALL].above
    return (
        f"{sizes.SMALL} is {change:+.1f} chrF from {WHOLE} ({low:+.1f} to {high:+.1f}). Goal: at most {LOSS:g} below: "
        f"{sizes.met(change >= -LOSS)}{'' if low >= -LOSS else ', but so few clips do not rule out a larger loss'}."
    )


def _by_source(texts: Mapping[str, Sequence[Result]]) -> str:
    sources = sorted({one.src for one in texts[WHOLE]})
    rows = []
    for source in sources:
        own = {name: [one for one in said if one.src == source] for name, said in texts.items()}
        rows.append([source, str(len(own[WHOLE])), *(f"{chrf(said):.1f}" for said in own.values())])
    return table(["source", "clips", *(sizes.title(name) for name in texts)], rows)


def draw(path: Path, mean: Mapping[str, float], scores: Mapping[str, Score]) -> None:
    """ChrF against bytes, as SVG; a bar is the interval of the difference to WHOLE."""
    ours, opus = [name for name in mean if name in CODECS], [name for name in mean if name.startswith("opus")]
    groups = {"ESRT": ours, "Opus": opus, "whole sound": [name for name in mean if name not in (*ours, *opus)]}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "esrt", "font.family": "sans-serif"}):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        axes = figure.subplots()
        for colour, (group, names) in zip(COLOURS, groups.items(), strict=False):
            names = sorted(names, key=lambda name: mean[name])
            across, up = [mean[name] for name in names], [scores[name].chrf for name in names]
            ends = [(middle - low, high - middle) for middle, low, high in (scores[name].above for name in names)]
            axes.errorbar(
                across, up, np.array(ends).T, fmt="o-", color=colour, label=group, capsize=3, elinewidth=0.7
            )  # fmt: skip
            # A whole sound is as good as the largest frames, and about as large: its names go below.
            place = {"xytext": (4, -6), "rotation": -45, "va": "top"} if group == "whole sound" else {"xytext": (5, 5)}
            for name, x, y in zip(names, across, up, strict=True):
                label = sizes.title(name).removeprefix("ESRT ").removeprefix("Opus, ")
                axes.annotate(label, (x, y), textcoords="offset points", fontsize=8, color=colour, **place)
        axes.set_xscale("log")
        axes.margins(x=0.14, y=0.1)
        axes.set_xlabel("bytes sent for a clip (mean, TLS, one target)")
        axes.set_ylabel("chrF")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=len(groups), frameon=False)
        figure.savefig(path, metadata={"Date": None})
