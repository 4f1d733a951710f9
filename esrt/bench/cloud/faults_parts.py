"""What faults are made with: servers that a supervisor starts again, a network that can be cut, clients that count."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from esrt.edge.client import Client
from esrt.edge.talk import Answer, Lost, Pause, Request
from esrt.errors import CloudError, ESRTError, UsageError
from esrt.wire.schemas import Problem, TranslationResponse

HOST = "127.0.0.1"
MOST_SECONDS = 300.0
"""For anything that is waited for here."""
RESTART_SECONDS = 0.2

Text = tuple[str, Mapping[str, str]]
"""What belongs to a frame: its transcript and translations."""


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Supervised(AbstractContextManager["Supervised"]):
    """A process that is started again whenever it ends, as systemd or Kubernetes do."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._command, self._log = list(command), log
        self._environment = {**os.environ, **(environment or {})}
        self._stopping = threading.Event()
        self._start()
        self._watch = threading.Thread(target=self._supervise, daemon=True)
        self._watch.start()

    def signal(self, number: int) -> None:
        """Send a signal to the process that runs now."""
        self.process.send_signal(number)

    def child(self, name: str) -> int:
        """The id of its child process whose name begins so."""
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for pid in children.read_text(encoding="ascii").split():
                if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").startswith(name):
                    return int(pid)
        raise UsageError("no_child", f"The server has no process {name}: see its log.")

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    def _supervise(self) -> None:
        while True:
            self.process.wait()
            if self._stopping.wait(RESTART_SECONDS):
                return
            self._start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.process.kill()
        self._watch.join()


def _serve(model: str, port: int, *options: str, python: str = sys.executable) -> list[str]:
    """The command of a server that lets everybody in as often as they like."""
    module = "esrt.bench.cloud.faults_server"
    command = [python, "-m", module, "serve", "--no-auth", "--port", str(port), "--model", model]
    return [*command, "--rate", "1000000", "--concurrent", "100000", *options]


@contextmanager
def supervised(
    model: str,
    scratch: Path,
    *options: str,
    before: Sequence[str] = (),
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[Supervised, int]]:
    """A server that is ready and is started again when it ends, and its port; `before` is put before its command."""
    port = free_port()
    command = [*before, *_serve(model, port, *options, python=python)]
    with Supervised(command, scratch / "server.log", environment) as running:
        with Client(f"http://{HOST}:{port}", patience=MOST_SECONDS) as client:
            client.wait_ready(MOST_SECONDS)
        yield running, port


def redis(port: int, folder: Path) -> tuple[list[str], dict[str, str]] | None:
    """Command and environment of a Redis, Debian's or the one that `make test` unpacks; None where there is none."""
    unpacked = Path(sys.prefix) / "redis" / "usr" / "bin" / "redis-server"
    binary = shutil.which("redis-server") or (str(unpacked) if unpacked.is_file() else None)
    if binary is None:
        return None
    libraries = ":".join(str(path) for path in unpacked.parents[1].glob("lib/*-linux-gnu"))
    command = [binary, "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(folder)]
    return command, {"LD_LIBRARY_PATH": libraries}


class _Watched(Client):
    """A client that also notes what goes wrong on its way to an answer."""

    saw: Counter[str]

    def _do(self, step: Request | Pause) -> Answer | Lost | None:
        heard = super()._do(step)
        if isinstance(heard, Lost):
            self.saw["no answer in time" if heard.late else _reason(heard.reason)] += 1
        elif isinstance(heard, Answer) and heard.status >= 400:
            with suppress(CloudError):
                self.saw[f"{heard.status} {Problem.from_json(heard.body).code}"] += 1
        return heard


def _reason(text: str) -> str:
    return "connection refused" if "refused" in text else "connection lost"


@dataclass
class Crowd(AbstractContextManager["Crowd"]):
    """Clients that ask for one translation after another until the block ends, each of its own frames over and over.

    `saw` counts what went wrong on the way, `lost` the utterances that were given up.
    """

    url: str
    frames: Sequence[bytes]
    to: Sequence[str]
    expected: Mapping[bytes, Text]
    clients: int = 4
    saw: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    right: int = 0
    lost: int = 0
    times: list[float] = field(default_factory=list)

    def __enter__(self) -> Crowd:
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait(self, answers: int, since: float = 0.0) -> float:
        """Until so many answers have come since then; returns the seconds until the first of them."""
        ends = time.monotonic() + MOST_SECONDS
        while len(found := [moment for moment in list(self.times) if moment > since]) < answers:
            if time.monotonic() > ends:
                raise UsageError("no_answers", f"No {answers} answers came within {MOST_SECONDS:g} s: see the log.")
            time.sleep(0.02)
        return min(found, default=since) - since

    def _ask(self, number: int) -> None:
        client = _Watched(self.url, patience=MOST_SECONDS)
        client.saw = Counter()
        with client:
            for frame in itertools.cycle(self.frames[number :: self.clients]):
                if self._over.is_set():
                    break
                said: TranslationResponse | None = None
                try:
                    said = client.translate(frame, self.to)
                except ESRTError as error:
                    client.saw[f"given up: {error.code}"] += 1
                with self._lock:
                    self.sent += 1
                    self.lost += said is None
                    if said is not None:
                        self.times.append(time.monotonic())
                        self.right += (said.transcript, said.translations) == self.expected[frame]
            with self._lock:
                self.saw += client.saw


def texts(url: str, frames: Sequence[bytes], to: Sequence[str]) -> dict[bytes, Text]:
    """What each frame says, asked one by one of a server that nothing happens to."""
    with Client(url, patience=MOST_SECONDS) as client:
        client.wait_ready(MOST_SECONDS)
        answers = {frame: client.translate(frame, to) for frame in frames}
    return {frame: (said.transcript, said.translations) for frame, said in answers.items()}


class Network(AbstractContextManager["Network"]):
    """A way to a server that can be bad: it cuts connections, or lets a body through byte by byte.

    `cut_requests`, `cut_answers`: so many of the next ones break off in the middle of their body; `slow_requests`: so
    many of the next bodies get a byte a second.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self.cut_requests = self.cut_answers = self.slow_requests = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        _break(self._listener)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection((HOST, self._server), 10)
        except OSError:
            _break(near)
            return
        far.settimeout(None)
        for source, target, kind in ((near, far, "requests"), (far, near, "answers")):
            threading.Thread(target=self._pass, args=(source, target, kind), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, kind: str) -> None:
        """One direction of a connection, message by message; whichever side ends, ends both."""
        data = b""
        try:
            while chunk := source.recv(1 << 16):
                data += chunk
                head, found, body = data.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
                whole = int(length[1]) if length else 0
                if not found or len(body) < whole:
                    continue
                if whole and self._take(f"cut_{kind}"):
                    target.sendall(head + found + body[: whole // 2])
                    time.sleep(0.1)
                    break
                if whole and kind == "requests" and self._take("slow_requests"):
                    target.sendall(head + found)
                    for byte in body[:whole]:
                        target.sendall(bytes([byte]))
                        time.sleep(1)
                else:
                    target.sendall(data)
                data = b""
        except OSError:
            pass
        _break(source)
        _break(target)

    def _take(self, name: str) -> bool:
        with self._lock:
            left: int = getattr(self, name, 0)
            setattr(self, name, max(0, left - 1))
            return left > 0


def _break(connection: socket.socket) -> None:
    """End it as a cut wire does: at once, without a goodbye."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
