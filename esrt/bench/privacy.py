"""`esrt audit`: what frames tell an attacker, what defences cost in translation quality, and the page of both."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from esrt.audio import protect
from esrt.audio.io import load
from esrt.audio.samples import Samples
from esrt.bench.page import find_section, machine, replace_section, table
from esrt.bench.training import score
from esrt.cloud.load import load_service
from esrt.edge import pipeline
from esrt.edge.encoder import Encoder
from esrt.errors import UsageError
from esrt.evaluate.metrics import compare
from esrt.hub import resolve
from esrt.model.checkpoint import fingerprint
from esrt.model.manifest import identity
from esrt.privacy import kept, report
from esrt.privacy.run import Findings, Settings, run
from esrt.privacy.views import View
from esrt.train.manifest import read_manifest
from esrt.wire.frame import Frame

SECTION = "audit"
_NAMES = {"audio": "raw audio", "opus16": "Opus, 16 kb/s", "text": "the transcript alone"}


def audit(args: argparse.Namespace, views: Sequence[View], inverted: Sequence[View]) -> str:
    """Attacks, measures and writes `args.out` (Markdown) with its JSON beside; returns the Markdown.

    Raises UsageError and ModelError.
    """
    folder = resolve(args.model)
    adversary = None if args.adversary is None else resolve(args.adversary)
    settings = Settings(views, inverted, args.speakers, args.scored, args.each, args.epochs, args.heard)
    data, work = Path(args.data), Path(args.work)
    out, coded = Path(args.out), [view for view in views if not view.is_sound]
    if out.is_file():
        find_section(out, SECTION)  # before hours of attacks
    if args.quality and not coded:
        raise UsageError("usage", "--quality is of codecs, and --codec names none: add bf16 or leave it out.")
    found = run(data, args.manifest.split(","), args.test.split(","), folder, adversary, work, settings)
    parts = [report.render(found, _NAMES), _models(folder, adversary)]
    costs = None
    if args.quality:
        costs = quality(data, args.test.split(","), coded, folder, adversary, work, args.quality)
        parts.insert(1, _costs(costs, found))
    parts.append(f"Ran on {machine()}.")
    text = "\n\n".join(parts)
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(f"# Audit\n\n<!-- {SECTION} -->\n<!-- /{SECTION} -->\n", encoding="utf-8")
    replace_section(out, SECTION, text)
    figures = {**found.to_json(), "quality": costs}
    beside = out.with_suffix(".part")
    beside.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    beside.replace(out.with_suffix(".json"))
    return text


class _Protected:
    """An encoder behind defences that draw the same numbers in each run, clip by clip."""

    def __init__(self, encoder: Encoder, view: View) -> None:
        self._encoder, self._view, self.info, self.codecs = encoder, view, encoder.info, encoder.codecs

    def frame(self, samples: Samples, codec: str) -> Frame:
        """As Encoder.frame."""
        rng = np.random.default_rng(len(samples))
        if "gain" in self._view.defences:
            samples = protect.gain(samples, rng)
        if "shift" in self._view.defences:
            samples = protect.shift(samples, rng)
        return self._encoder.frame(samples, codec)


def quality(
    data: Path,
    names: Sequence[str],
    views: Sequence[View],
    folder: Path,
    adversary: Path | None,
    work: Path,
    each: int,
) -> dict[str, dict[str, float]]:
    """BLEU and chrF++ into English of `each` clips a language through each view; the first view is what others lose to.

    By view's name: bleu, chrf, bleu_lost, chrf_lost (positive: worse), and the p-values of the pairs.
    """
    rows = [row for name in names for row in read_manifest(data / f"{name}.jsonl")]
    clips = [clip for group in score.choose(rows, each).values() for clip in group if "eng" in clip.references]
    if not clips:
        raise UsageError("no_rows", f"No clip of {', '.join(names)} is translated into English: leave --quality out.")
    wanted = [clip.references["eng"] for clip in clips]
    key = hashlib.sha256(b"".join(load(clip.audio).tobytes() for clip in clips)).hexdigest()[:16]
    said: dict[str, list[str]] = {}
    services = {model: score.Searching(load_service(model)) for model in {folder, adversary or folder}}
    try:
        for view in views:
            model = adversary if adversary is not None and "adversary" in view.defences else folder
            encoder, cloud = _Protected(Encoder(model / "edge.onnx"), view), services[model]

            def translate(
                clip: score.Clip, encoder: _Protected = encoder, cloud: score.Searching = cloud, codec: str = view.codec
            ) -> str:
                result = pipeline.translate(load(clip.audio), encoder, cloud, ["eng"], codec=codec)
                return result.translations["eng"]

            def all_of_them(view: View = view, translate: Callable[[score.Clip], str] = translate) -> list[str]:
                print(f"translating {len(clips)} clips: {view.name}", file=sys.stderr, flush=True)
                with ThreadPoolExecutor(score.BATCH) as pool:
                    return list(tqdm(pool.map(translate, clips), total=len(clips), disable=None))

            path = work / f"texts-{view.name}-{identity(model)}-{key}.json"
            said[view.name] = kept.text(path, all_of_them)
    finally:
        for service in services.values():
            service.close()
    first = said[views[0].name]
    found = {}
    for name, texts in said.items():
        pairs = {metric: compare(metric, first, texts, wanted, "eng") for metric in ("bleu", "chrf")}
        found[name] = {
            "clips": float(len(clips)),
            **{metric: pair.second for metric, pair in pairs.items()},
            **{f"{metric}_lost": pair.first - pair.second for metric, pair in pairs.items()},
            **{f"{metric}_p": pair.p for metric, pair in pairs.items()},
        }
    return found


def _costs(costs: dict[str, dict[str, float]], found: Findings) -> str:
    first, *_ = costs
    rows = []
    for name, cost in costs.items():
        own = found.figures.get(name, {})
        hidden = [f"{100 * own[key].value:.1f}" if key in own else "-" for key in ("lazy", "semi")]
        lost = [f"{cost[f'{metric}_lost']:+.1f} (p {cost[f'{metric}_p']:.2f})" for metric in ("bleu", "chrf")]
        rows.append([name, *hidden, f"{cost['bleu']:.1f}", lost[0], f"{cost['chrf']:.1f}", lost[1]])
    best = _best(costs, found)
    return "\n\n".join(
        [
            "### Defences and what they cost",
            f"{costs[first]['clips']:.0f} clips of real voices into English, greedy, the language not named; lost: "
            f"against {first}, paired bootstrap.",
            table(["codec and defence", "EER lazy, %", "EER semi, %", "BLEU", "lost", "chrF++", "lost"], rows),
            best,
        ]
    )


def _best(costs: dict[str, dict[str, float]], found: Findings) -> str:
    cheap = [name for name, cost in costs.items() if cost["bleu_lost"] <= 1 and "semi" in found.figures.get(name, {})]
    if not cheap:
        return "No setting loses at most 1 BLEU."
    name = max(cheap, key=lambda view: found.figures[view]["semi"].value)
    error, lost = found.figures[name]["semi"], costs[name]["bleu_lost"]
    verdict = "**The goal is not reached**"
    if error.value >= 0.4:
        verdict = (
            "The goal is reached" if error.low >= 0.4 else "The goal is reached, within what so few voices can tell"
        )
    return (
        f"{verdict} (EER of at least 40 % against the semi-informed attacker at 1 BLEU or less): of the settings "
        f"within that cost, {name} has the highest EER, {100 * error.value:.1f} % ({100 * error.low:.1f} to "
        f"{100 * error.high:.1f}), and {lost:+.1f} BLEU lost."
    )


def _models(folder: Path, adversary: Path | None) -> str:
    names = {"the model": folder, "the one trained against an adversary": adversary}
    prints = [f"{name} `{fingerprint(path).hex()}`" for name, path in names.items() if path is not None]
    return (
        "### Which language model\n\n"
        f"A frame names its edge half: {', '.join(prints)}. That is a hash of the adapter and the codec's tables; "
        "nothing of the language model enters it or the rows, and a test holds that another language model behind the "
        "same adapter changes no byte of a frame. So between language models that share an adapter an attacker can "
        "only guess. But where only one published model has this edge half, its name tells the language model too."
    )
