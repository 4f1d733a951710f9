"""Two replicas under a real Ray share one real Redis: whoever is asked knows the features, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from esrt.cloud.key_file import add_key
from esrt.edge.client import Client
from esrt.model import checkpoint, manifest
from esrt.wire.codecs import encode
from tests.cloud.conftest import llm, make_folder, talking, tokenizer  # noqa: F401
from tests.cloud.feature_cache.conftest import start_redis

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
NODE = "127.0.0.2"  # Ray takes no 127.0.0.1: it would look for an address that others reach
QUEUE = 2
"""Requests that one replica takes at once, and as many that wait in Ray's proxy."""


def free_ports(count: int) -> list[int]:
    """Below those that the system gives away, from which Ray's own processes take many before ours are in use."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind((HOST, port))
            found.append(port)
    return found[:count]


def parents() -> dict[int, tuple[int, str]]:
    """Every process of this machine: its parent, and its title."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = parent, (folder / "cmdline").read_text().replace("\0", " ")
        except (OSError, IndexError):
            continue
    return found


@dataclass
class Cluster:
    """A running Ray, `serve run` in it, and what a client needs."""

    head: subprocess.Popen[bytes]
    log: Path
    sockets: Path
    config: Path
    environment: dict[str, str]
    url: str
    key: str
    frames: list[bytes]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=60)

    def deploy(self) -> None:
        """Tell Ray what is in `config`, as an operator does."""
        run = ["serve", "run", "--non-blocking", str(self.config)]
        with self.log.open("ab") as output:
            subprocess.run(run, env=self.environment, stdout=output, stderr=output, check=True, timeout=480)

    def descendants(self) -> dict[int, str]:
        """Process ids and titles of all that Ray has started; what has lost its parent still names its folder."""
        every = parents()
        found = {pid: title for pid, (_, title) in every.items() if str(self.sockets) in title}
        while more := {pid: title for pid, (parent, title) in every.items() if parent in found and pid not in found}:
            found |= more
        return found

    def replicas(self) -> set[int]:
        return {pid for pid, title in self.descendants().items() if title.startswith("ray::ServeReplica:esrt:Cloud")}

    def hold(self, frame: bytes) -> socket.socket:
        """A PUT whose body stops short of its last byte: it takes its place until somebody sends that."""
        connection = socket.create_connection((HOST, self.port), timeout=60)
        head = f"PUT /v1/features/{frame[-16:].hex()} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
        connection.sendall(f"{head}Content-Length: {len(frame)}\r\n\r\n".encode() + frame[:-1])
        return connection


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
    make_folder: Callable[[Path], None],  # noqa: F811
) -> Iterator[Cluster]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    model = tmp_path_factory.mktemp("model")
    make_folder(model)
    (model / "whisper").mkdir()
    manifest.write(model)
    work = tmp_path_factory.mktemp("ray")
    redis = start_redis(work)
    key = add_key("laptop", work / "keys.txt")
    ports = free_ports(3)
    config = yaml.safe_load((ROOT / "deploy" / "ray.yaml").read_text())
    config["http_options"] |= {"host": HOST, "port": ports[0]}
    [application] = config["applications"]
    application["args"] |= {
        "model": str(model),
        "cache": redis.url,
        "key_file": str(work / "keys.txt"),
        "queue": QUEUE,
        "rate": 100_000,
    }
    config_file = work / "ray.yaml"
    config_file.write_text(yaml.safe_dump(config))
    rng = np.random.default_rng(5)
    frames = [
        encode(rows, "int8", checkpoint.load_tables(model), checkpoint.fingerprint(model)).to_bytes()
        for rows in rng.standard_normal((60, 6, 24)).astype(np.float32)
    ]
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "RAY_ADDRESS": f"{NODE}:{ports[1]}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "esrt.cloud.ray_serve:proxy",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    log = work / "output.txt"
    # The paths of Ray's sockets are long and may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as sockets, log.open("wb") as output:
        start = ["ray", "start", "--head", "--block", "--temp-dir", sockets, "--node-ip-address", NODE]
        start += ["--port", str(ports[1]), "--ray-client-server-port", str(ports[2]), "--include-dashboard", "false"]
        start += ["--num-cpus", "2", "--object-store-memory", str(80 << 20), "--disable-usage-stats"]
        head = subprocess.Popen(start, env=environment, stdout=output, stderr=output)
        url = f"http://{HOST}:{ports[0]}"
        it = Cluster(head, log, Path(sockets), config_file, environment, url, key, frames)
        try:
            while "Ray runtime started" not in log.read_text():
                if head.poll() is not None:  # Ray gives itself 30 s, which a busy machine may not keep
                    pytest.skip(f"Ray does not start here: {log.read_text()[-500:]}")
                time.sleep(0.2)
            it.deploy()
            wait(lambda: ready(it), head, log)
            wait(lambda: both_answer(it), head, log)
            yield it
        finally:
            for pid in it.descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            head.wait()
            redis.kill()


def ready(cluster: Cluster) -> bool:
    try:
        return httpx.get(f"{cluster.url}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def wait(condition: Callable[[], bool], head: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + 480
    while not condition():
        assert time.monotonic() < ends and head.poll() is None, log.read_text()
        time.sleep(0.2)


def answered(metrics: str) -> dict[str, float]:
    """Answers of one replica, by route."""
    found = re.findall(r'^esrt_requests_total\{route="([^"]+)",status="2.."\} (\S+)', metrics, re.MULTILINE)
    return {route: float(count) for route, count in found}


def both_answer(cluster: Cluster) -> bool:
    """Whether the proxy, which hears late of the second replica, sends requests to both: each counts its own, so that
    the counts of one alone would follow on each other.
    """
    with cluster.http() as http:
        counts = [answered(http.get("/metrics").text).get("/metrics", 0) for _ in range(30)]
    return max(counts) - min(counts) != len(counts) - 1


def read(connection: socket.socket) -> bytes:
    """The head of an answer."""
    data = b""
    while b"\r\n\r\n" not in data and (more := connection.recv(65536)):
        data += more
    connection.close()
    return data


def test_whoever_is_asked_knows_the_features(cluster: Cluster) -> None:
    frame = cluster.frames[0]
    with cluster.http() as http:
        assert http.put(f"/v1/features/{frame[-16:].hex()}", content=frame).status_code == 201
        for _ in range(30):
            answer = http.post("/v1/translations", json={"features": frame[-16:].hex(), "to": ["deu"]})
            assert answer.status_code == 200 and set(answer.json()["translations"]) == {"deu"}
        seen = [answered(http.get("/metrics").text) for _ in range(30)]
    shares = {counts["/v1/translations"] for counts in seen}
    assert len({"/v1/features/{features}" in counts for counts in seen}) == 2, "one was given them, and the other not"
    assert sum(shares) == 30 or shares == {15}, shares


def test_no_key_no_answer(cluster: Cluster) -> None:
    answer = httpx.get(f"{cluster.url}/v1/models", trust_env=False)
    assert answer.status_code == 401 and answer.json()["code"] == "unauthorized"


def test_past_the_queue(cluster: Cluster) -> None:
    """Two replicas and the proxy are full: the next is refused at once, and who was let in gets an answer."""
    places = 3 * QUEUE
    held = []
    for frame in cluster.frames[1 : places + 1]:
        held.append(cluster.hold(frame))
        time.sleep(0.2)  # Ray counts who is about to be given to a replica as waiting
    with cluster.http() as http:
        refused = http.post("/v1/translations?to=deu", content=cluster.frames[0])
        assert refused.status_code == 429 and refused.headers["Retry-After"] == "1"
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.json()["code"] == "overloaded"
        for connection, frame in zip(held, cluster.frames[1:], strict=False):
            connection.sendall(frame[-1:])
        assert [read(connection)[:12] for connection in held] == [b"HTTP/1.1 201"] * places
    with Client(cluster.url, cluster.key) as client:
        assert client.translate(cluster.frames[0], to=["deu"]).features == cluster.frames[0][-16:].hex()


def test_a_replica_is_killed(cluster: Cluster) -> None:
    """Whom it has not answered hears 503 and when to come again; clients hold their frames, and nothing is lost."""
    before = cluster.replicas()
    assert len(before) == 2
    held = [cluster.hold(frame) for frame in cluster.frames[10:12]]
    time.sleep(0.5)
    victim = min(before)
    with Client(cluster.url, cluster.key) as client, ThreadPoolExecutor(1) as meanwhile:
        os.kill(victim, signal.SIGKILL)
        answers = meanwhile.map(lambda frame: client.translate(frame, to=["deu"]).features, cluster.frames[20:40])
        for connection, frame in zip(held, cluster.frames[10:], strict=False):  # no replica waits long for a body
            with contextlib.suppress(OSError):
                connection.sendall(frame[-1:])
            head = read(connection)
            assert head.startswith(b"HTTP/1.1 201") or (b" 503 " in head and b"retry-after: 1" in head), head
        assert list(answers) == [frame[-16:].hex() for frame in cluster.frames[20:40]]
    wait(lambda: len(cluster.replicas() - {victim}) == 2, cluster.head, cluster.log)


def test_a_rolling_update(cluster: Cluster) -> None:
    """New replicas take over while requests go on; what an old one has accepted, it finishes."""
    before = cluster.replicas()
    config = yaml.safe_load(cluster.config.read_text())
    config["applications"][0]["args"]["queue"] = 50
    cluster.config.write_text(yaml.safe_dump(config))
    cluster.deploy()
    connection = cluster.hold(cluster.frames[12])
    began = time.monotonic()
    sent = 0
    with cluster.http() as http:
        while cluster.replicas() & before or len(cluster.replicas()) < 2:
            answer = http.post("/v1/translations?to=deu", content=cluster.frames[40 + sent % 10])
            assert answer.status_code == 200, answer.text
            sent += 1
            if connection.fileno() >= 0 and (time.monotonic() - began > 5 or cluster.replicas() - before):
                connection.sendall(cluster.frames[12][-1:])
                assert read(connection).startswith(b"HTTP/1.1 201")
            assert time.monotonic() - began < 240
            time.sleep(0.05)
    assert sent > 10 and connection.fileno() < 0


def test_the_output_holds_nothing_of_anybody(cluster: Cluster) -> None:
    logs = "".join(
        path.read_text(errors="replace") for path in [cluster.log, *cluster.sockets.glob("session_2*/logs/**/*.*")]
    )
    assert "esrt" in logs
    secrets = [cluster.key, *(frame[-16:].hex() for frame in cluster.frames)]
    assert not [secret for secret in secrets if secret in logs]
    assert not re.search(r"POST /v1/translations 200", logs), "an access log"
