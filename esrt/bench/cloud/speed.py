"""Tokens a second of each engine behind our server, and of vLLM on the same rows without one."""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

from esrt.bench.cloud import clients, setting
from esrt.bench.cloud.clients import Job
from esrt.bench.page import machine, table
from esrt.errors import UsageError
from esrt.translator import prepare

OFFLINE = "vllm, offline"
GOALS = {("vllm", "transformers"): 2.5, ("vllm", OFFLINE): 0.95}


class Offline:
    """A process with vLLM and no server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def hear(self) -> str:
        """Its next line. Raises UsageError `offline_failed`."""
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise UsageError("offline_failed", f"vLLM ended with {self._process.wait()}: its own lines above say why.")
        return line

    def speed(self, jobs: Sequence[Job]) -> float:
        """Tokens a second, of jobs with one target each."""
        asked = {"frames": [base64.b64encode(job.frame).decode() for job in jobs], "to": [job.to[0] for job in jobs]}
        assert self._process.stdin is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        found = json.loads(self.hear())
        return float(found["tokens"] / found["seconds"])


@contextmanager
def offline(args: argparse.Namespace) -> Iterator[Offline]:
    """vLLM, loaded."""
    command = [setting.python(args, "vllm"), "-m", "esrt.bench.cloud.offline"]
    command += [str(prepare(args.model)), str(args.clients)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = Offline(process)
            found.hear()
            yield found
        finally:
            process.kill()


def report(found: Mapping[str, Sequence[float]]) -> str:
    """The table, of the tokens a second in each round, and how they compare."""
    medians = {name: statistics.median(speeds) for name, speeds in found.items()}
    rows = [[name, f"{medians[name]:.0f}", f"{min(each):.0f} to {max(each):.0f}"] for name, each in found.items()]
    parts = [table(["", "tokens/s, median", "range"], rows)]
    for (one, other), goal in GOALS.items():
        if one in medians and other in medians:
            ratio = medians[one] / medians[other]
            parts.append(f"{one} over {other}: **{ratio:.2f}**, goal >= {goal:g}.")
    return "\n\n".join(parts)


def run(args: argparse.Namespace) -> str:
    """The section: each engine and vLLM alone, by turns, with frames of their own in each round."""
    with setting.servers(args) as servers, offline(args) if "vllm" in servers else nullcontext() as alone:
        frames = setting.frames(args, (args.rounds + 1) * args.requests)
        found: dict[str, list[float]] = {}
        for number in range(args.rounds + 1):
            each = clients.jobs(frames[number * args.requests : (number + 1) * args.requests], args.requests, 1)
            speeds = {}
            for engine, server in servers.items():
                asking = clients.closed(server.url, each, args.clients)
                speeds[engine] = clients.answered(clients.drive(server, asking), engine).tokens
            if alone is not None:
                speeds[OFFLINE] = alone.speed(each)
            if number:  # the first round warms up
                for name, speed in speeds.items():
                    found.setdefault(name, []).append(speed)
    return "\n\n".join(
        [
            report(found),
            f"{args.clients} clients, {args.requests} requests a round, each for a transcript and one translation as a "
            f"stream of events; {args.rounds} rounds by turns after one that warms up, each with frames that no engine "
            "has seen. Tokens are those of answers. Offline: `LLM.generate` in vLLM with the server's settings, on the "
            f"same rows, {args.clients} decoded together: all clips at once, and when all have their transcript, all "
            f"translations; projecting is not counted. Clients and servers share {machine()}.",
        ]
    )
