"""Captions over what is sent: BLEU-1, BLEU-4, METEOR and ROUGE-L at several gammas, device alone and cloud alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path

from esrt.bench.chart import line_chart
from esrt.bench.page import machine, table
from esrt.bench.server import serving
from esrt.bench.ugsd.curve import Point, closed, goal, series
from esrt.bench.ugsd.metrics import Scores, scores, wordnet
from esrt.bench.ugsd.runs import Outcome, Task, drafted, frame, reached, same, split
from esrt.bench.ugsd.translation import about
from esrt.decoding import drafter as drafters
from esrt.decoding.gates import Largest, entropy
from esrt.decoding.tune import calibrate
from esrt.decoding.ugsd import Settings
from esrt.edge.encoder import Encoder
from esrt.train.manifest import Row, read_manifest
from esrt.train.sources import prosody
from esrt.translator import prepare

LANGUAGE = "eng"
SHARES = (0.03, 0.06, 0.09, 0.15, 0.3)
"""Of the tokens that would reach a gate's gamma, in the cloud's own text of other clips."""
MANNERS: dict[str, Iterable[str]] = {
    "rate": prosody.RATE, "pitch": prosody.PITCH, "range": prosody.RANGE, "loudness": prosody.LOUDNESS,
}  # fmt: skip


def run(model: str, draft: str, manifest: Path, clips: int, page: Path) -> str:
    """The section's text, of clips with captions in English, evenly taken; the chart is written beside `page`."""
    folder, lexicon = prepare(draft), wordnet()
    known = [row for row in read_manifest(manifest) if row.caption and row.tgt == LANGUAGE]
    count = min(2 * clips, len(known))
    known = [known[place * len(known) // count] for place in range(count)]
    encoder = Encoder(folder / "edge.onnx")
    both = [Task(frame(encoder, row.audio), [LANGUAGE], {LANGUAGE: row.caption}, "caption") for row in known]
    # One half for the scores, one for the gammas and the gate's calibration.
    rows, every, others = known[0::2], both[0::2], both[1::2]
    drafter = drafters.load(folder)
    with serving(model, "--rate", "1000000") as server:
        found = {"cloud alone": split(every, server.url)}
        found["device alone"] = drafted(every, drafter, server.url, Settings(math.inf))
        dev = drafted(others, drafter, server.url, Settings(0.0, 1))
        found |= {name: drafted(every, drafter, server.url, settings) for name, settings in _ways(dev).items()}
    scored = {
        name: scores([texts[LANGUAGE] for texts in out.texts], [row.caption for row in rows], lexicon)
        for name, out in found.items()
    }
    bottom, top = scored["device alone"], scored["cloud alone"]
    edge, cloud = found["device alone"], found["cloud alone"]
    head = ["", "BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "gap of METEOR closed, %", "escalated, %", "sent, B",
            "received, B", "checks", "same as cloud, %"]  # fmt: skip
    lines = [_row(name, out, scored[name], bottom, top, cloud) for name, out in found.items()]
    points = [
        Point(name, name.rpartition(",")[0], out.escalated, scored[name].meteor)
        for name, out in found.items()
        if not name.endswith("alone")
    ]
    alike = [point._replace(score=100 * same(found[point.name], cloud)) for point in points]
    image = page.with_name("ugsd-captions.svg")
    image.write_text(
        line_chart(series(alike, 100 * same(edge, cloud)), "drafted tokens escalated, %", "captions as the cloud's, %"),
        encoding="utf-8",
    )
    return "\n\n".join(
        [
            f"{len(every)} clips with prosody captions, {len(rows[0].caption)} references each; cloud {model}, int8 "
            f"frames. Bytes and checks are a clip's. The drafter: {about(folder)} {machine()}.",
            "Of what was set, the cloud alone says right, and the device alone: "
            + "; ".join(
                f"{name} {heard(choice, cloud, rows)} and {heard(choice, edge, rows)}"
                for name, choice in MANNERS.items()
            )
            + f" of {len(every)}.",
            table(head, lines),
            f"![captions that are the cloud's own over the share of drafted tokens escalated]({image.name})",
            f"Goal, 90 % of the gap with 10 % of the tokens escalated: {goal(points, bottom.meteor, top.meteor)}",
        ]
    )


def _ways(dev: Outcome) -> dict[str, Settings]:
    at, calibrated = partial(reached, [token for token, _ in dev.checked]), calibrate(dev.checked)
    ways = {}
    for share in SHARES:
        gamma, also = at(entropy, share), at(calibrated, share)
        top = f"top {100 * share:g} %"
        ways[f"rank 1, {top}"] = Settings(gamma, 1)
        ways[f"rank 1, block 1, {top}"] = Settings(gamma, 1, 1)
        ways[f"calibrated, block 1, {top}"] = Settings(also, 1, 1, gate=lambda: Largest(calibrated))
    for rank in (20, 1):
        ways[f"rank {rank}, all"] = Settings(0.0, rank)
    return dict(sorted(ways.items(), key=lambda way: way[0].rpartition(",")[0]))


def heard(choice: Iterable[str], out: Outcome, rows: Sequence[Row]) -> int:
    """How many clips' texts name of a choice of manners what their references name, and nothing else."""

    def named(text: str) -> list[str]:
        return [manner for manner in choice if re.search(rf"\b{manner}\b", text)]

    return sum(named(texts[LANGUAGE]) == named(row.caption[0]) for texts, row in zip(out.texts, rows, strict=True))


def _row(name: str, out: Outcome, scored: Scores, bottom: Scores, top: Scores, cloud: Outcome) -> list[str]:
    count, alone = len(out.texts), out is cloud
    return [
        name,
        *(f"{score:.1f}" for score in astuple(scored)),
        closed(scored.meteor, bottom.meteor, top.meteor),
        "-" if alone else f"{100 * out.escalated:.1f}",
        f"{out.up / count:,.0f}",
        f"{out.down / count:,.0f}",
        "-" if alone else f"{out.drafting.round_trips / count:.1f}",
        f"{100 * same(out, cloud):.0f}",
    ]
