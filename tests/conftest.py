"""What tests of whole processes share: the `esrt` command, the model, and servers that really listen."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
_LISTENS = re.compile(r"listening on (https?://[^\s]+:(\d+))")


class Server:
    """One `esrt serve` or `esrt sidecar` process; `url` once it answers."""

    def __init__(self, log: Path, *command: str, python: str = sys.executable) -> None:
        self._log = log
        self._log.touch()
        begun = len(log.read_bytes())
        with log.open("ab") as stderr:
            self.process = subprocess.Popen([python, "-m", "esrt", *command], stdout=subprocess.DEVNULL, stderr=stderr)
        self.url, self.port = self._wait(begun)

    def _wait(self, begun: int) -> tuple[str, int]:
        while True:
            listens = _LISTENS.search(self.log[begun:])
            if listens is not None:
                return listens[1], int(listens[2])
            try:
                code = self.process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"esrt ended with {code}: {self.log}")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As an operator would; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A job in a shell's background ignores Ctrl-C, and so would every process that a test starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of the sample clips."""
    return EXAMPLES


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run() -> Run:
    """`run("translate", ...)` runs the `esrt` command in a process of its own and returns what came out."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "esrt", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600)

    return run


@pytest.fixture(scope="session")
def model() -> Path:
    """The folder of ESRT-270M, ready to run. The first time this converts the base weights."""
    from esrt import hub

    return hub.resolve("ESRT-270M")


@pytest.fixture(scope="session")
def start_server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts `esrt serve` with the given options; what still runs at the end is killed."""
    servers: list[Server] = []

    def start(*options: str | Path, python: str = sys.executable) -> Server:
        log = tmp_path_factory.mktemp("server") / "stderr.txt"
        server = Server(log, "serve", "--model", str(model), *map(str, options), python=python)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def start_sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts `esrt sidecar` with the given options; what still runs at the end is killed."""
    sidecars: list[Server] = []

    def start(*options: str | Path) -> Server:
        log = tmp_path_factory.mktemp("sidecar") / "stderr.txt"
        sidecars.append(Server(log, "sidecar", "--port", "0", *map(str, options)))
        return sidecars[-1]

    yield start
    for sidecar in sidecars:
        sidecar.kill()


@pytest.fixture(scope="session")
def keyed_server(
    run: Run, start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Server, Path]:
    """A server that asks for keys, and the file with a key it knows."""
    folder = tmp_path_factory.mktemp("keys")
    made = run("keys", "add", "laptop", "--key-file", folder / "keys.txt")
    assert made.returncode == 0, made.stderr
    key = folder / "laptop.key"
    key.write_text(made.stdout)
    return start_server("--key-file", folder / "keys.txt", "--port", "0"), key
