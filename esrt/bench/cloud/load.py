"""How long answers take when many ask: clients that wait for each other, at random times, and all at once."""

from __future__ import annotations

import argparse
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import numpy as np

from esrt.bench.chart import line_chart
from esrt.bench.cloud import clients, setting
from esrt.bench.cloud.clients import Job, Load, Outcome
from esrt.bench.page import machine, table

SHARES = (50, 95, 99)


def percentiles(values: Sequence[float]) -> list[str]:
    """p50, p95 and p99 for a table, or dashes."""
    if not values:
        return ["-"] * len(SHARES)
    return [f"{value:.2f}" for value in np.percentile(values, SHARES)]


def row(name: str, load: Load) -> list[str]:
    """A line of the table."""
    firsts = [outcome.first for outcome in load.done if outcome.first is not None]
    return [
        name,
        str(len(load.outcomes)),
        str(len(load.done)),
        str(len(load.refused)),
        *percentiles(firsts),
        *percentiles([outcome.seconds for outcome in load.done]),
        f"{load.tokens:.0f}",
        f"{len(load.done) / load.seconds:.2f}",
        f"{load.processor / load.seconds:.2f}",
        f"{load.memory / 1e6:.0f}",
    ]


def report(loads: Mapping[str, Load]) -> str:
    """The table of all of them."""
    first, whole = ([f"{what}, p{share}, s" for share in SHARES] for what in ("first token", "answer"))
    head = ["clients", "asked", "answered", "refused", *first, *whole]
    return table([*head, "tokens/s", "answers/s", "cores", "MB"], [row(name, load) for name, load in loads.items()])


def chart(loads: Mapping[str, Load]) -> str:
    """SVG: how many of the answers, in percent, had come after so many seconds."""
    series = {name: _shares(load.done) for name, load in loads.items() if load.done}
    return (
        line_chart(series, "seconds", "% of the answers", from_zero=True)
        if series
        else line_chart({"no answer": [(0, 0), (1, 0)]}, "seconds", "% of the answers", from_zero=True)
    )


def _shares(done: Sequence[Outcome]) -> list[tuple[float, float]]:
    seconds = sorted(outcome.seconds for outcome in done)
    return [(0.0, 0.0), *((value, 100 * (number + 1) / len(seconds)) for number, value in enumerate(seconds))]


def run(args: argparse.Namespace) -> str:
    """The section: each kind of arrival in turn, on one server."""
    with setting.servers(args) as servers:
        ((engine, server),) = servers.items()
        frames = iter(setting.frames(args, args.clients + (2 + len(args.rate)) * args.requests))

        def jobs(count: int, targets: int) -> list[Job]:
            return clients.jobs([next(frames) for _ in range(count)], count, targets)

        clients.drive(server, clients.closed(server.url, jobs(args.clients, 1), args.clients))  # warm
        count, targets = args.requests, args.targets
        work: dict[str, Coroutine[Any, Any, list[Outcome]]] = {
            f"{args.clients} in a circle": clients.closed(server.url, jobs(count, targets), args.clients),
            **{f"Poisson, {rate:g}/s": clients.poisson(server.url, jobs(count, targets), rate) for rate in args.rate},
            f"{args.requests} at once": clients.burst(server.url, jobs(count, targets)),
        }
        loads = {name: clients.drive(server, asking) for name, asking in work.items()}
    picture = args.page.with_name("cloud-load.svg")
    picture.write_text(chart(loads), encoding="utf-8")
    return "\n\n".join(
        [
            report(loads),
            f"![Share of the answers that had come after so many seconds]({picture.name})",
            f"`{engine}` engine, {args.requests} requests of each kind, each of a piece of sound of its own, for a "
            f"transcript and {args.targets} translation(s), over a connection of its own and as a stream of events. In "
            "a circle: each client asks again when it has its answer. Cores and MB are the server's, processor time by "
            f"the clock and memory afterwards. Clients and server share {machine()}.",
        ]
    )
