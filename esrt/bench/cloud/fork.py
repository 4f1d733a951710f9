"""One clip into many languages: one request whose transcript is forked, beside a request for each language."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence

from esrt.bench.cloud import clients, setting
from esrt.bench.cloud.clients import Job, Load
from esrt.bench.page import machine, table
from esrt.languages import CORE

TARGET = 3.0
FORKED, AT_ONCE, IN_TURN = "one request, forked", "one request each, all at once", "one request each, in turn"


def report(found: Mapping[str, Mapping[str, Sequence[Load]]]) -> str:
    """The table: each engine's way of asking, median seconds until the last answer."""
    rows = []
    for engine, ways in found.items():
        medians = {way: statistics.median(load.seconds for load in loads) for way, loads in ways.items()}
        for way, loads in ways.items():
            ratio = medians[way] / medians[FORKED]
            spread = f"{min(load.seconds for load in loads):.1f} to {max(load.seconds for load in loads):.1f}"
            goal = "" if way == FORKED else f">= {TARGET:g}"
            rows.append([f"{engine}, {way}", f"{medians[way]:.1f}", spread, f"{ratio:.1f}", goal])
    return table(["", "seconds, median", "range", "of forked", "goal"], rows)


def run(args: argparse.Namespace) -> str:
    """The section: both ways on each engine, by turns and with a clip of its own in each round."""
    with setting.servers(args) as servers:
        frames = setting.frames(args, args.rounds + 1)
        found: dict[str, dict[str, list[Load]]] = {engine: {} for engine in servers}
        # One language more, as the clip's own is not translated into.
        to = CORE[: args.targets + 1] if args.targets < len(CORE) else CORE
        for number, frame in enumerate(frames):
            for engine, server in servers.items():
                each = [Job(frame, (code,)) for code in to]
                ways = {
                    AT_ONCE: clients.burst(server.url, each),
                    IN_TURN: clients.closed(server.url, each, 1),
                    FORKED: clients.burst(server.url, [Job(frame, to)]),
                }
                for way, asking in ways.items():
                    load = clients.answered(clients.drive(server, asking), engine)
                    if number:  # the first round warms up
                        found[engine].setdefault(way, []).append(load)
    return "\n\n".join(
        [
            report(found),
            f"One clip into {len(to)} languages, the clip's own among them, which costs nothing. With a request each, "
            "its transcript is decoded in each; all at once they are decoded together, as many as the engine's batch "
            "holds; in turn a client waits for one before it sends the next. Rounds by turns, a clip each: "
            f"{args.rounds}, after one that warms up. Clients and server share {machine()}.",
        ]
    )
