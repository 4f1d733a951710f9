"""`esrt serve` as an operator runs it, a process of its own over TLS: what it logs, whom it lets in, how it ends."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from esrt.cloud.key_file import add_key, revoke_key
from esrt.edge.client import Client
from esrt.errors import CloudError, UsageError
from esrt.model import checkpoint, manifest
from esrt.wire.codecs import encode

HOST = "127.0.0.1"


@dataclass
class Serving:
    """A running process, all that it has written, and the certificate of whoever signed its own."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int
    keys: Path
    key: str
    ca: Path
    frames: list[bytes]

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def http(self, key: str) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.ca))
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, verify=context, trust_env=False, timeout=60)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for loopback that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=esrt test", "-addext", f"subjectAltName=IP:{HOST}"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True, timeout=60)
    return cert, key


@pytest.fixture(scope="module")
def serving(
    tmp_path_factory: pytest.TempPathFactory,
    certificate: tuple[Path, Path],
    make_folder: Callable[[Path], None],
) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("model")
    make_folder(folder)
    (folder / "whisper").mkdir()
    manifest.write(folder)
    rng = np.random.default_rng(5)
    frames = [
        encode(rows, "int8", checkpoint.load_tables(folder), checkpoint.fingerprint(folder)).to_bytes()
        for rows in rng.standard_normal((9, 6, 24)).astype(np.float32)
    ]
    work = tmp_path_factory.mktemp("serving")
    key = add_key("laptop", work / "keys.txt")
    log = work / "output.txt"
    command = [sys.executable, "-m", "esrt", "serve", "--model", str(folder), "--port", "0"]
    command += [
        "--key-file",
        str(work / "keys.txt"),
        "--tls-cert",
        str(certificate[0]),
        "--tls-key",
        str(certificate[1]),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        while (listens := re.search(rf"listening on https://{HOST}:(\d+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield Serving(process, log, int(listens[1]), work / "keys.txt", key, certificate[0], frames)
    finally:
        process.kill()
        process.wait()


def test_tls(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client trusts whom SSL_CERT_FILE names, and nobody else."""
    monkeypatch.setenv("SSL_CERT_FILE", str(serving.ca))
    with Client(serving.url, serving.key) as client:
        client.wait_ready(60)
        assert client.translate(serving.frames[0], to=["deu"]).features == serving.frames[0][-16:].hex()
    monkeypatch.delenv("SSL_CERT_FILE")
    with Client(serving.url, serving.key, patience=0.1) as stranger, pytest.raises(CloudError, match="CERTIFICATE"):
        stranger.models()
    with Client(serving.url.replace("https", "http"), serving.key, patience=0.1) as plain, pytest.raises(CloudError):
        plain.models()
    monkeypatch.setenv("SSL_CERT_FILE", str(serving.keys))
    with pytest.raises(UsageError) as refused:
        Client(serving.url, serving.key)
    assert refused.value.code == "bad_certificates"


def test_a_revoked_key_is_forgotten_without_a_restart(serving: Serving) -> None:
    key = add_key("phone", serving.keys)
    with serving.http(key) as phone, serving.http(serving.key) as laptop:
        ends = time.monotonic() + 10
        while phone.get("/v1/models").status_code != 200:
            assert time.monotonic() < ends
            time.sleep(0.05)
        revoke_key("phone", serving.keys)
        began = time.monotonic()
        while phone.get("/v1/models").status_code != 401:
            assert time.monotonic() < began + 10
            time.sleep(0.05)
        print(f"revoked after {time.monotonic() - began:.2f} s")
        assert laptop.get("/v1/models").status_code == 200


def test_the_output_holds_nothing_of_anybody(serving: Serving) -> None:
    """Requests that go well, and every way to fail that a client has; then all that the process has ever written."""
    frame = serving.frames[1]
    name = frame[-16:].hex()
    transcripts, translations = [], []
    with serving.http(serving.key) as http:
        for number, content in enumerate(serving.frames):
            accept = ("application/json", "text/event-stream")[number % 2]
            answer = http.post("/v1/translations?to=deu&to=fra", content=content, headers={"Accept": accept})
            assert answer.status_code == 200
            said = json.loads(answer.text.rsplit("data: ", 1)[-1])
            transcripts.append(said["transcript"])
            translations += said["translations"].values()
        assert http.put(f"/v1/features/{name}", content=frame).status_code == 200
        for method, path, content in [
            ("POST", "/v1/translations?to=deu", frame[:-1]),
            ("POST", "/v1/translations?to=deu", bytes(100_000)),
            ("POST", f"/v1/translations?to={serving.key}", frame),
            ("PUT", f"/v1/features/{name}", serving.frames[2]),
            ("PUT", f"/v1/features/{name}/..", frame),
            ("GET", f"/v1/edge/{name}", b""),
            ("GET", f"/{serving.key}", b""),
        ]:
            assert http.request(method, path, content=content).status_code >= 400
        wrong = http.post("/v1/translations", json={"features": "0" * 32, "to": ["deu"], "text": max(transcripts)})
        assert wrong.status_code == 400
        assert http.get("/v1/models", headers={"Authorization": f"Bearer {serving.key}x"}).status_code == 401
    context = ssl.create_default_context(cafile=str(serving.ca))
    for nonsense in (f"GET {serving.key}\r\n\r\n", f"POST /{name} HTTP/1.1\r\nAuthorization: {serving.key}\r\n\r\n"):
        plain = socket.create_connection((HOST, serving.port), timeout=30)
        with context.wrap_socket(plain, server_hostname=HOST) as connection:
            connection.sendall(nonsense.encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 4")
    with socket.create_connection((HOST, serving.port), timeout=30) as plain:
        plain.sendall(f"GET /{serving.key} HTTP/1.1\r\n\r\n".encode())  # no TLS
        plain.recv(65536)
    output = serving.log.read_text()
    assert "Traceback" not in output
    for texts in (transcripts, translations, [serving.key], [name]):
        secrets = [text for text in texts if len(text) > 3]  # some say next to nothing
        assert secrets and not [secret for secret in secrets if secret in output]


def test_sigterm_finishes_what_was_accepted(serving: Serving) -> None:
    """First /readyz fails, then nobody new gets in, and a frame that was on its way still gets its answer."""
    frame = serving.frames[3]
    head = f"POST /v1/translations?to=deu HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {serving.key}\r\n"
    context = ssl.create_default_context(cafile=str(serving.ca))
    raw = socket.create_connection((HOST, serving.port), timeout=30)
    with context.wrap_socket(raw, server_hostname=HOST) as connection, serving.http(serving.key) as http:
        assert http.get("/readyz").status_code == 200
        connection.sendall(f"{head}Content-Length: {len(frame)}\r\n\r\n".encode() + frame[:100])
        time.sleep(0.2)
        serving.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        while http.get("/readyz").status_code == 200:
            assert time.monotonic() < began + 1.5
            time.sleep(0.02)
        failing = time.monotonic() - began
        with serving.http(serving.key) as late:  # somebody whom the load balancer still sends here
            assert late.post("/v1/translations?to=deu", content=serving.frames[4]).status_code == 200
        while listens(serving.port):
            assert time.monotonic() < began + 10
            time.sleep(0.02)
        closed = time.monotonic() - began
        time.sleep(0.3)
        connection.sendall(frame[100:])
        answer = b""
        while block := connection.recv(65536):
            answer += block
    assert answer.startswith(b"HTTP/1.1 200") and json.loads(answer.split(b"\r\n\r\n", 1)[1])["transcript"]
    assert serving.process.wait(20) == 0
    print(f"/readyz failed after {failing:.2f} s, the door closed after {closed:.2f} s")
    assert failing < closed
    assert "Traceback" not in serving.log.read_text()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


Run = Callable[..., subprocess.CompletedProcess[str]]


def test_bad_tls_files(run: Run, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    (tmp_path / "text.pem").write_text("no certificate")
    for options in (
        ("--tls-cert", cert),
        ("--tls-key", key),
        ("--tls-cert", tmp_path / "none.pem", "--tls-key", key),
        ("--tls-cert", tmp_path / "text.pem", "--tls-key", key),
        ("--tls-cert", cert, "--tls-key", cert),
    ):
        result: Any = run("serve", "--no-auth", "--port", "0", *options)
        assert result.returncode == 2 and result.stdout == ""
        assert len(result.stderr.splitlines()) == 1 and result.stderr.endswith("[tls_files]\n"), result.stderr
