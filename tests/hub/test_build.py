"""Names become folders: built once, checked each time, rebuilt when damaged, whoever dies or comes at the same time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from esrt import hub
from esrt.errors import ModelError
from esrt.model import manifest
from tests.hub.resolving import code, copy_built

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
    llm: Any = model.llm
    rows = llm.get_input_embeddings().weight.detach()[ids].float()
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
    assert hub.is_built(str(delta)) and hub.is_built(str(changed)), "another card makes no other model"
    (changed / "more.json").write_text("{}")
    manifest.write(changed)
    assert hub.is_built(str(delta)) and not hub.is_built(str(changed))


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

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(ModelError, match="ESRT_CACHE") as refused:
        hub.cache_dir()
    assert refused.value.code == "cache_not_writable"


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
