"""A cloud in a process of its own, and what that process and its children take."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from esrt.errors import UsageError

_LISTENS = re.compile(r"listening on (http://[^\s,]+)")
_PROC = Path("/proc")
READY_SECONDS = 600.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A running `esrt serve` that is ready: its address and its process' id."""

    url: str
    pid: int

    def processor(self) -> float:
        """Seconds of processor time that the process and its living children have had. Linux only."""
        fields = [_read(pid, "stat").rpartition(")")[2].split() for pid in self._family()]
        return sum(int(field[11]) + int(field[12]) for field in fields if field) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes that they have in memory now, pages that they share counted for each. Linux only."""
        pages = [_read(pid, "statm").split() for pid in self._family()]
        return sum(int(page[1]) for page in pages if page) * os.sysconf("SC_PAGE_SIZE")

    def _family(self) -> Iterator[int]:
        waiting = [self.pid]
        while waiting:
            pid = waiting.pop()
            yield pid
            for task in _PROC.glob(f"{pid}/task/*/children"):
                try:
                    waiting.extend(map(int, task.read_text(encoding="ascii").split()))
                except OSError:  # it has just ended
                    continue


def _read(pid: int, name: str) -> str:
    try:
        return (_PROC / str(pid) / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@contextmanager
def serving(model: str, *options: str, python: str = sys.executable, ready: bool = True) -> Iterator[Server]:
    """An `esrt serve --no-auth` on a free port of loopback, ended with the block; `python` is the one that has esrt.

    Raises UsageError `cloud_failed`.
    """
    command = [python, "-m", "esrt", "serve", "--no-auth", "--port", "0", "--model", model, *options]
    with tempfile.NamedTemporaryFile("w+", suffix=".log", encoding="utf-8") as log:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        except OSError as error:
            raise UsageError("cloud_failed", f"{python} cannot be run: {error.strerror}.") from error
        try:
            ends = time.monotonic() + READY_SECONDS
            server = Server(_listening(process, Path(log.name), ends), process.pid)
            while ready and not _answers(f"{server.url}/readyz"):
                _check(process, Path(log.name), ends)
            yield server
        finally:
            _stop(process)


def _listening(process: subprocess.Popen[bytes], log: Path, ends: float) -> str:
    while (found := _LISTENS.search(log.read_text(encoding="utf-8"))) is None:
        _check(process, log, ends)
    return found[1]


def _check(process: subprocess.Popen[bytes], log: Path, ends: float) -> None:
    """Wait a moment. Raises UsageError `cloud_failed` where that has no sense any more."""
    time.sleep(0.1)
    if process.poll() is not None:
        last: Sequence[str] = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise UsageError("cloud_failed", f"esrt serve ended with {process.returncode}: {' '.join(last)}")
    if time.monotonic() > ends:
        raise UsageError("cloud_failed", f"esrt serve was not ready after {READY_SECONDS:g} s.")


def _answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
