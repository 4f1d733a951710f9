"""Faults that happen to real processes around a tiny model, and the table of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from esrt.bench.cloud import faults
from esrt.bench.cloud.faults import NotRun, Row, Stage
from esrt.bench.cloud.faults_parts import Network
from esrt.model import checkpoint, manifest
from esrt.wire.codecs import encode
from tests.cloud import conftest as cloud

llm, make_folder, talking, tokenizer = cloud.llm, cloud.make_folder, cloud.talking, cloud.tokenizer


@pytest.fixture(scope="module")
def stage(
    make_folder: Callable[[Path], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("model")
    make_folder(folder)
    (folder / "whisper").mkdir()
    manifest.write(folder)
    rows = np.random.default_rng(5).standard_normal((12, 6, 24)).astype(np.float32)
    tables, fingerprint = checkpoint.load_tables(folder), checkpoint.fingerprint(folder)
    frames = [encode(one, "int8", tables, fingerprint).to_bytes() for one in rows]
    with faults.stage_of(str(folder), frames, ("deu", "fra"), tmp_path_factory.mktemp("scratch")) as stage:
        yield stage


@pytest.mark.parametrize(
    ("experiment", "seen"),
    [
        (faults.server_killed, {"connection refused"}),
        (faults.engine_fails, {"500 engine_failed"}),
        (faults.redis_killed, {"404 features_not_found"}),
        (lambda stage: faults.network_cut(stage, "requests"), {"connection lost"}),
        (lambda stage: faults.network_cut(stage, "answers"), {"connection lost"}),
        (faults.bad_clients, set()),
        (faults.disk_full, {"404 features_not_found"}),
        (faults.clock_jumps, set()),
    ],
    ids=["server", "engine", "redis", "requests", "answers", "bad clients", "disk", "clock"],
)
def test_nothing_is_lost(stage: Stage, experiment: faults.Experiment, seen: set[str]) -> None:
    row = experiment(stage)
    if isinstance(row, NotRun):
        pytest.skip(row.why)
    assert row.lost == 0 and row.right == row.sent > 20, row
    assert set(row.saw) >= seen and (seen or not row.saw), row


def test_the_table() -> None:
    row = Row("a fault", {"connection lost": 1, "503 not_ready": 2}, 30, 29, 1, 1.234)
    lines = faults.report([row, NotRun("another", "no means")]).splitlines()
    assert lines[2] == "| a fault | 503 not_ready x 2, connection lost x 1 | 30 | 29 | 1 | 1.23 |"
    assert lines[3] == "| another | not run: no means | - | - | - | - |"


def test_a_network_that_lets_through_and_cuts() -> None:
    """An echo behind it: what it lets through is whole, what it cuts ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo() -> None:
            for _ in range(2):
                connection, _address = listener.accept()
                with connection:
                    received = connection.recv(1 << 16)
                    if received.endswith(b"whole"):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")

        thread = threading.Thread(target=echo)
        thread.start()
        with Network(listener.getsockname()[1]) as network, httpx.Client(trust_env=False) as http:
            network.cut_requests = 1
            with pytest.raises(httpx.TransportError):
                http.post(f"http://127.0.0.1:{network.port}", content=b"whole")
            assert http.post(f"http://127.0.0.1:{network.port}", content=b"whole").text == "body"
        thread.join(10)
        assert not thread.is_alive()
