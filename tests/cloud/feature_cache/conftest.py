"""Frames to keep, and a real Redis of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esrt.wire.frame import Frame


def make_frame(fill: int, width: int = 60) -> Frame:
    """A frame of `width + 40` bytes."""
    return Frame(2, 1, width, b"\0" * 8, bytes([fill]) * width)


@pytest.fixture(scope="session")
def frame() -> Callable[..., Frame]:
    """`frame(3)` is a frame of 100 bytes, another one for each number; `frame(3, 10)` has 50."""
    return make_frame


class RedisProcess:
    """A redis-server on a port of loopback that stays its own while it is down."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self, *options: str) -> None:
        """Start it, with nothing in it."""
        libraries = [str(path) for path in self._binary.parents[1].glob("lib/*-linux-gnu")]
        command = [str(self._binary), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *options]
        self.process = subprocess.Popen(
            [*command, "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)},
        )
        while self.say("PING") != "+PONG":
            assert self.process.poll() is None
            time.sleep(0.01)

    def say(self, *words: str) -> str:
        """One command in plain text; the first line of the answer, "" where there is none."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as line:
                line.sendall(" ".join(words).encode() + b"\r\n")
                return line.recv(4096).decode(errors="replace").partition("\r\n")[0]
        except OSError:
            return ""

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait()

    def hang(self) -> None:
        """It accepts connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)


def start_redis(folder: Path) -> RedisProcess:
    """A running Redis that may write into this folder. Skips the test where there is none to run."""
    unpacked = Path(sys.prefix) / "redis" / "usr" / "bin" / "redis-server"
    installed = shutil.which("redis-server")
    if installed is None and not unpacked.exists():
        pytest.skip("redis-server is not here: `make test` unpacks it on Debian")
    return RedisProcess(Path(installed) if installed else unpacked, folder)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    """A running Redis of this test alone."""
    server = start_redis(tmp_path)
    yield server
    server.kill()
