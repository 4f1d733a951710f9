"""A model on the Hugging Face Hub: here a small one on loopback that speaks its protocol."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from esrt import hub
from esrt.hub import huggingface
from esrt.model import manifest
from tests.hub.resolving import code, copy_built

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves the files of `folder` as the repository `me/tiny`; `gated/tiny` asks for a licence."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        self.asked.append(f"{self.command} {path}")
        if "gated/tiny" in path:
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        if "broken/tiny" in path:
            return self._send(500, b"{}", {}, body)
        files = {f.relative_to(self.folder).as_posix(): f for f in self.folder.rglob("*") if f.is_file()}
        if path in ("/api/models/me/tiny", "/api/models/me/tiny/revision/main"):
            siblings = [{"rfilename": name} for name in files]
            return self._json({"id": "me/tiny", "sha": SHA, "siblings": siblings}, body)
        if path == f"/api/models/me/tiny/tree/{SHA}":
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": manifest.sha256(file)[:40]}
                for name, file in files.items()
            ]
            return self._json(entries, body)
        name = path.removeprefix(f"/me/tiny/resolve/{SHA}/")
        if name in files:
            etag = f'"{manifest.sha256(files[name])[:40]}"'
            return self._send(200, files[name].read_bytes(), {"ETag": etag, "X-Repo-Commit": SHA}, body)
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def _json(self, answer: object, body: bool) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(delta: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class Served(Hub):
        folder = delta
        asked: list[str] = []  # noqa: RUF012

    with ThreadingHTTPServer(("127.0.0.1", 0), Served) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        url = f"http://127.0.0.1:{listening.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield Served
        listening.shutdown()
        thread.join()


def test_a_repository_of_the_hub(
    server: type[Hub], delta: Path, built: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_built(built, cache)
    assert hub.resolve("me/tiny") == folder, "the same delta, whatever way it came"
    fetched = huggingface.fetch("me/tiny")
    assert (fetched / "MANIFEST.json").read_bytes() == (delta / "MANIFEST.json").read_bytes()
    assert [line for line in server.asked if "/resolve/" in line]
    server.asked.clear()
    assert huggingface.fetch("me/tiny", ["config.json"]) == fetched
    assert not [line for line in server.asked if line.startswith("GET /me/tiny/resolve")], "nothing is fetched twice"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.resolve("me/tiny") == folder, "offline, what was fetched is found again"


def test_what_is_no_model_of_ours_is_not_fetched(server: type[Hub], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    server.folder = tmp_path
    assert code("me/tiny") == "model_not_found"
    assert not [line for line in server.asked if "safetensors" in line]


def test_a_disk_without_room(server: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    assert code("me/tiny") == "cache_not_writable"


def test_what_the_hub_refuses(server: type[Hub]) -> None:
    assert code("gated/tiny") == "hub_refused"
    assert code("nobody/tiny") == "hub_not_found"
    assert code("broken/tiny") == "hub_unreachable"


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface, "ANSWER_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        before = time.monotonic()
        assert code("me/tiny") == "hub_unreachable"
        assert time.monotonic() - before < 10
