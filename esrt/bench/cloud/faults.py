"""What clients see of a cloud to which something happens: real processes, real signals, and no utterance lost."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from esrt.bench.cloud.faults_parts import (
    HOST,
    Crowd,
    Network,
    Supervised,
    Text,
    free_port,
    redis,
    supervised,
    texts,
)
from esrt.bench.page import machine, table
from esrt.cloud.body import BODY_SECONDS
from esrt.translator import prepare

FRAMES = 12
TO = ("deu", "fra")
SLOW, SILENT = 2, 200
ARRIVED = 0.05  # seconds: answers that come sooner were there before
TMPFS = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'


@dataclass(frozen=True)
class Row:
    """One fault. `again`: seconds until the first answer after it."""

    fault: str
    saw: Mapping[str, int]
    sent: int
    right: int
    lost: int
    again: float


@dataclass(frozen=True)
class NotRun:
    """A fault that this machine has no means for, and which."""

    fault: str
    why: str


@dataclass(frozen=True)
class Stage:
    """What all experiments share: a ready model's folder, frames and what they say, a folder to work in.

    `plain` is a server with nothing special that runs all the time, and its port.
    """

    model: str
    frames: Sequence[bytes]
    to: Sequence[str]
    scratch: Path
    vllm: Path | None
    plain: tuple[Supervised, int]
    expected: Mapping[bytes, Text]

    @contextmanager
    def server(self, *options: str, **named: Any) -> Iterator[int]:
        """The port of another one, as `supervised` makes it."""
        with supervised(self.model, self.scratch, *options, **named) as (_, port):
            yield port

    def crowd(self, port: int) -> Crowd:
        """Clients that ask the server there."""
        return Crowd(f"http://{HOST}:{port}", self.frames, self.to, self.expected)


def disturbed(fault: str, crowd: Crowd, disturb: Callable[[], float | None]) -> Row:
    """Let the crowd talk, do this to it, and let it talk on. `disturb` says from when on answers count, if not now."""
    with crowd:
        crowd.wait(len(crowd.frames) + crowd.clients)  # some are known to the server by now
        now = time.monotonic()
        since = (disturb() or now) + ARRIVED
        again = crowd.wait(1, since) + ARRIVED
        crowd.wait(4 * crowd.clients, since)
    return Row(fault, crowd.saw, crowd.sent, crowd.right, crowd.lost, again)


def server_killed(stage: Stage) -> Row:
    """Kill -9 while answers are on their way."""
    server, port = stage.plain
    return disturbed("server: kill -9, started again", stage.crowd(port), lambda: server.signal(signal.SIGKILL))


def engine_fails(stage: Stage) -> Row:
    """The transformers engine is a thread of the server: what can die is a step of its work, with all that is in it."""
    server, port = stage.plain
    return disturbed("engine: no memory in a step", stage.crowd(port), lambda: server.signal(signal.SIGUSR1))


def core_killed(stage: Stage) -> Row | NotRun:
    """Kill -9 of the process in which vLLM decodes; the server ends after it, and both are started again."""
    fault = "engine (vLLM): kill -9 of its process"
    if stage.vllm is None:
        return NotRun(fault, "there is no vLLM")
    options = ("--engine", "vllm")
    with supervised(stage.model, stage.scratch, *options, python=str(stage.vllm)) as (server, port):
        # Two engines need not say the same.
        own = replace(stage, expected=texts(f"http://{HOST}:{port}", stage.frames, stage.to))
        return disturbed(fault, own.crowd(port), lambda: os.kill(server.child("VLLM::"), signal.SIGKILL))


def redis_killed(stage: Stage) -> Row | NotRun:
    """Kill -9 of the Redis that keeps the features, some time without it, and an empty one that takes its place."""
    fault, place = "Redis: kill -9, back and empty after 8 s", free_port()
    if (found := redis(place, stage.scratch)) is None:
        return NotRun(fault, "there is no redis-server: `make test` unpacks one")
    command, environment = found

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **environment})

    processes = [start()]

    def end() -> None:
        for process in processes:
            process.kill()
            process.wait()

    with ExitStack() as running:
        running.callback(end)
        port = running.enter_context(stage.server("--cache", f"redis://{HOST}:{place}/0"))

        def kill() -> float:
            processes[0].kill()
            killed = time.monotonic()
            time.sleep(8)
            processes.append(start())
            return killed

        return disturbed(fault, stage.crowd(port), kill)


def network_cut(stage: Stage, kind: str) -> Row:
    """Some connections break off while a request's body, or an answer's, is half through."""
    with Network(stage.plain[1]) as network:
        crowd = stage.crowd(network.port)
        fault = f"network: cut in the middle of {crowd.clients} {kind}"
        return disturbed(fault, crowd, lambda: setattr(network, f"cut_{kind}", crowd.clients))


def slow_link(stage: Stage) -> Row:
    """Some bodies come a byte a second; the server gives them up, and their clients send them again."""
    with Network(stage.plain[1]) as network:

        def slow() -> float:
            began = time.monotonic()
            network.slow_requests = SLOW
            time.sleep(BODY_SECONDS + 15)
            return began

        return disturbed(f"slow link: {SLOW} bodies at a byte a second", stage.crowd(network.port), slow)


def bad_clients(stage: Stage) -> Row:
    """Strangers that open connections and say nothing, and others that ask for a stream and do not read it."""
    _, port = stage.plain
    with ExitStack() as strangers:

        def come() -> float:
            came = time.monotonic()
            ask = f"POST /v1/translations?to={stage.to[0]} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
            ask += f"Content-Length: {len(stage.frames[0])}\r\n\r\n"
            for number in range(SILENT):
                stranger = strangers.enter_context(socket.create_connection((HOST, port), 10))
                if number % 20 == 0:
                    stranger.sendall(ask.encode() + stage.frames[0])
            return came

        fault = f"{SILENT} connections, 19 of 20 silent, the others with answers that nobody reads"
        return disturbed(fault, stage.crowd(port), come)


def disk_full(stage: Stage) -> Row | NotRun:
    """The folder of the feature cache is a small file system of memory, in a mount namespace of the server's own."""
    size = f"{(len(stage.frames[0]) // 4096 + 1) * 4 + 12}k"  # a frame or three
    fault = f"disk full: the cache's file system has {size}B"
    folder = stage.scratch / "full"
    folder.mkdir()
    own = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-c", TMPFS, "sh"]
    try:
        subprocess.run([*own, size, str(folder), "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return NotRun(fault, "no file system may be mounted here, not even in a namespace")
    with stage.server("--cache", str(folder), before=[*own, size, str(folder)]) as port:
        return disturbed(fault, stage.crowd(port), lambda: None)


def clock_jumps(stage: Stage) -> Row:
    """The server's wall clock goes a day ahead and then two back, while its cache is a folder with dates."""
    with supervised(stage.model, stage.scratch, "--cache", str(stage.scratch / "dated")) as (server, port):
        crowd = stage.crowd(port)

        def jump() -> None:
            server.signal(signal.SIGUSR2)
            crowd.wait(2 * crowd.clients, time.monotonic())
            server.signal(signal.SIGUSR2)

        return disturbed("wall clock: a day ahead, then two days back", crowd, jump)


Experiment = Callable[[Stage], Row | NotRun]
EXPERIMENTS: tuple[Experiment, ...] = (
    server_killed,
    engine_fails,
    core_killed,
    redis_killed,
    lambda stage: network_cut(stage, "requests"),
    lambda stage: network_cut(stage, "answers"),
    slow_link,
    bad_clients,
    disk_full,
    clock_jumps,
)


def report(rows: Sequence[Row | NotRun]) -> str:
    """The table."""
    head = ["fault", "what the clients saw", "utterances", "answered right", "lost", "answers again after, s"]
    lines = []
    for row in rows:
        if isinstance(row, NotRun):
            lines.append([row.fault, f"not run: {row.why}", *["-"] * 4])
            continue
        saw = ", ".join(f"{what} x {count}" for what, count in Counter(row.saw).most_common()) or "nothing"
        lines.append([row.fault, saw, str(row.sent), str(row.right), str(row.lost), f"{row.again:.2f}"])
    return table(head, lines)


@contextmanager
def stage_of(
    model: str, frames: Sequence[bytes], to: Sequence[str], scratch: Path, vllm: Path | None = None
) -> Iterator[Stage]:
    """What the experiments need, with the texts that a server says to which nothing has happened yet."""
    with supervised(model, scratch) as plain:
        yield Stage(model, frames, to, scratch, vllm, plain, texts(f"http://{HOST}:{plain[1]}", frames, to))


def run(args: argparse.Namespace) -> str:
    """The section: each experiment with servers of its own. Raises UsageError `lost` where an utterance was lost."""
    from esrt.bench.cloud import setting

    frames = setting.frames(args, FRAMES)
    rows, vllm = [], args.vllm or setting.VLLM
    with (
        tempfile.TemporaryDirectory() as folder,
        stage_of(str(prepare(args.model)), frames, TO, Path(folder), vllm if vllm.is_file() else None) as stage,
    ):
        for experiment in tqdm(EXPERIMENTS, desc="faults", disable=None):
            rows.append(experiment(stage))
    return "\n\n".join(
        [
            report(rows),
            f"4 clients (`esrt.edge.client.Client`) ask without a pause, each {FRAMES // 4} frames of real speech over "
            f"and over, into {len(TO)} languages. Every server is an `esrt serve` that is started again when it ends, "
            "and that decodes in float32, where a text does not depend on what else is in its batch. Right is the text "
            "that the same frame gets of a server to which nothing has happened yet; lost is what a client gave up; "
            f"answers again: seconds from the fault to the first answer. On {machine()}.",
        ]
    )
