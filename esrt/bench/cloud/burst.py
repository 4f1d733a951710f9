"""Ten times what the server takes, at once: what is refused is told so at once, what is accepted is finished."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from esrt.bench.cloud import clients, setting
from esrt.bench.cloud.clients import Load
from esrt.bench.page import machine, table

REFUSED_SECONDS, GROWTH = 0.1, 0.05
SETTLE_SECONDS = 3.0
WARM_UPS = 3


def report(load: Load, before: int, after: int, deadline: float, lives: bool) -> str:
    """The table, of the burst and the server's memory before and after it."""
    refused = [outcome.seconds for outcome in load.refused]
    done = [outcome.seconds for outcome in load.done]
    lost = [outcome for outcome in load.outcomes if outcome.status == 200 and not outcome.whole]
    other = [outcome for outcome in load.outcomes if outcome.status not in (200, 429)]

    def spread(values: Sequence[float], unit: float, form: str) -> str:
        parts = np.percentile(values, (50, 99, 100)) / unit if values else ()
        return " / ".join(f"{value:{form}}" for value in parts) or "-"

    rows = [
        ["requests at once", str(len(load.outcomes)), ""],
        ["accepted, and answered in whole", str(len(done)), "> 0"],
        ["accepted, and lost", str(len(lost)), "0"],
        ["refused with 429", str(len(refused)), ""],
        ["anything else: other codes, broken connections", str(len(other)), "0"],
        ["refused after, ms, p50 / p99 / max", spread(refused, 1e-3, ".0f"), f"<= {1000 * REFUSED_SECONDS:.0f}"],
        ["answered after, s, p50 / p99 / max", spread(done, 1, ".1f"), f"<= {deadline:g}"],
        ["server's memory before and after, MB", f"{before / 1e6:.0f}, {after / 1e6:.0f}", ""],
        ["growth", f"{100 * (after / before - 1):+.1f} %", f"<= {100 * GROWTH:.0f} %"],
        ["ready afterwards, the same process", "yes" if lives else "no", "yes"],
    ]
    return table(["", "measured", "goal"], rows)


def run(args: argparse.Namespace) -> str:
    """The section: bursts that warm up, then the one that counts."""
    options = ("--queue", str(args.capacity), "--deadline", str(args.deadline))
    with setting.servers(args, *options) as servers:
        ((engine, server),) = servers.items()
        each = clients.jobs(setting.frames(args, args.capacity), 10 * args.capacity, 1)
        for _ in range(WARM_UPS):
            clients.drive(server, clients.burst(server.url, each))
        time.sleep(SETTLE_SECONDS)
        before = server.memory()
        load = clients.drive(server, clients.burst(server.url, each))
        time.sleep(SETTLE_SECONDS)
        after = server.memory()
        again = clients.drive(server, clients.closed(server.url, each[:1], 1))
    return "\n\n".join(
        [
            report(load, before, after, args.deadline, len(again.done) == 1),
            f"`{engine}` engine, `--queue {args.capacity}`, {10 * args.capacity} requests over connections that are "
            "open already, each a frame for a transcript and one translation. Times are the clients': from a request's "
            f"first byte to its answer's last. Memory is resident (VmRSS), after {WARM_UPS} bursts before the one that "
            f"is counted and {SETTLE_SECONDS:g} s of rest. Clients and server share {machine()}.",
        ]
    )
