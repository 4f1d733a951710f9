"""Seconds to the first token and in all, over links of 10, 50 and 200 ms, and over a poor one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from esrt.bench.page import machine, table
from esrt.bench.server import serving
from esrt.bench.training.score import choose
from esrt.bench.ugsd.link import Conditions
from esrt.bench.ugsd.runs import Outcome, Task, drafted, split, tasks
from esrt.bench.ugsd.translation import about
from esrt.decoding import drafter as drafters
from esrt.decoding.ugsd import Settings
from esrt.train.manifest import read_manifest
from esrt.translator import prepare
from esrt.wire.frame import read

LINKS = {
    "10 ms": Conditions(0.01),
    "50 ms": Conditions(0.05),
    "200 ms": Conditions(0.2),
    "200 ms, 50 ms jitter, 2 % loss, 1 Mbit/s": Conditions(0.2, 0.05, 0.02, 125_000),
}


def run(model: str, draft: str, manifest: Path, clips: int, to: Sequence[str], gamma: float) -> str:
    """The section's text."""
    folder = prepare(draft)
    every = tasks([clip for found in choose(read_manifest(manifest), clips).values() for clip in found], folder, to)
    drafter = drafters.load(folder)
    ways = {
        "device alone": Settings(math.inf),
        f"UGSD, gamma {gamma:g}": Settings(gamma, 1),
        f"UGSD, gamma {gamma:g}, 2 blocks ahead": Settings(gamma, 1, ahead=2),
        "UGSD, gamma 0": Settings(0.0, 1),
        "UGSD, gamma 0, 2 blocks ahead": Settings(0.0, 1, ahead=2),
    }
    rows = []
    with serving(model, "--rate", "1000000") as server:
        split(every[:2], server.url)  # the first answers of a server are slower
        cell = itertools.count()
        for name, link in LINKS.items():
            rows.append([name, "cloud alone", *_cells(split(_unseen(every, next(cell)), server.url, link))])
            for way, settings in ways.items():
                out = drafted(_unseen(every, next(cell)), drafter, server.url, settings, link)
                rows.append([name, way, *_cells(out)])
    head = ["round trip", "", "first token, s", "in all, s", "in all, p90", "checks", "sent, B", "received, B"]
    return "\n\n".join(
        [
            f"{len(every)} clips, medians, without encoding, which is the same for all; rank 1. In each row of the "
            "table one value of a clip is a step of int8 nearer to zero, so that the cloud has not seen the clip. "
            "Device and cloud share this machine's cores, with whatever else ran. "
            f"The drafter: {about(folder)} {machine()}.",
            table(head, rows),
        ]
    )


def _unseen(every: Sequence[Task], number: int) -> list[Task]:
    """The clips with value `number` of their first row changed: a cloud keeps what it computed of what it has seen."""
    found = []
    for task in every:
        frame = read(task.frame, cap=len(task.frame))
        values = np.frombuffer(frame.payload, np.int8).copy()
        values[number] += -1 if values[number] > 0 else 1
        found.append(replace(task, frame=replace(frame, payload=values.tobytes()).to_bytes()))
    return found


def _cells(out: Outcome) -> list[str]:
    count = len(out.seconds)
    return [
        f"{np.median(out.first):.2f}",
        f"{np.median(out.seconds):.2f}",
        f"{np.quantile(out.seconds, 0.9):.2f}",
        f"{out.drafting.round_trips / count:.1f}",
        f"{out.up / count:,.0f}",
        f"{out.down / count:,.0f}",
    ]
