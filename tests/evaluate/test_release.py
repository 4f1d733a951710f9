"""A release with code of its own, as the paper's authors make them: pulled once, then edge, wire, server and answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from esrt import hub
from esrt.audio.io import load
from esrt.audio.padding import pad
from esrt.cloud import load as cloud_load
from esrt.config import WINDOW_SAMPLES, ModelConfig
from esrt.edge.client import Client
from esrt.edge.encoder import Encoder
from esrt.edge.pipeline import translate
from esrt.errors import CloudError, ModelError
from esrt.model import checkpoint
from esrt.model.mel import LogMel
from esrt.translator import LocalCloud
from esrt.wire import codecs
from esrt.wire.frame import read
from tests.conftest import Server
from tests.evaluate import fake_release

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of its own for caches, so that nothing is found that another test made."""
    folder = tmp_path_factory.mktemp("release")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESRT_CACHE", str(folder / "cache"))
        patch.setenv("HF_MODULES_CACHE", str(folder / "modules"))
        patch.setenv("FAKE_RELEASE_RAN", str(folder / "ran"))
        yield folder


@pytest.fixture(scope="module")
def release(place: Path) -> Path:
    return fake_release.save(place)


@pytest.fixture(scope="module")
def ready(release: Path) -> Path:
    return hub.resolve(str(release), trust_remote_code=True)


def test_its_code_runs_only_for_those_who_trust_it(place: Path, release: Path, run: Run) -> None:
    ran = Path(os.environ["FAKE_RELEASE_RAN"])
    ran.unlink()
    with pytest.raises(ModelError) as refused:
        hub.resolve(str(shutil.copytree(release, place / "other" / release.name)))
    assert refused.value.code == "remote_code" and "--trust-remote-code" in str(refused.value)
    assert not ran.exists()


def test_the_edge_model_is_its_encoder(release: Path, ready: Path, examples: Path) -> None:
    samples = load(examples / "spanish.flac")
    encoder = Encoder(ready / "edge.onnx")
    assert (encoder.info.name, encoder.info.context) == (fake_release.NAME, "full")
    mel = LogMel(128)(torch.from_numpy(pad(samples[:WINDOW_SAMPLES], "full"))[None])
    with torch.inference_mode():
        theirs = fake_release.load(release, encoder_only=True).translate_encode(mel)[0].numpy()
    assert theirs.shape == (fake_release.QUERIES, fake_release.WIDTH)
    np.testing.assert_allclose(encoder.encode(samples), theirs, atol=1e-3)


def test_a_ready_folder_is_found_without_trust(release: Path, ready: Path) -> None:
    assert hub.resolve(str(release)) == ready
    assert hub.resolve(str(ready)) == ready
    config = ModelConfig.load(ready / "config.json")
    assert config.branch == "srt" and config.adapter.width == fake_release.WIDTH


def test_its_language_model_says_the_same_through_the_wire(
    release: Path, ready: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of one frame through our service, and through the release's own `translate_batch_embeds`."""
    monkeypatch.setattr(cloud_load, "decoding_type", lambda: torch.float32)
    encoder = Encoder(ready / "edge.onnx")
    frame = codecs.encode(encoder.encode(load(examples / "spanish.flac")), "bf16", encoder.tables, encoder.fingerprint)
    rows = codecs.decode(read(frame.to_bytes(), cap=1 << 20), checkpoint.load_tables(ready))
    cloud = LocalCloud(cloud_load.load_service(ready))
    try:
        answer = cloud.translate(frame.to_bytes(), ["deu", "fra"], "spa")
        with pytest.raises(CloudError) as unnamed:
            cloud.translate(frame.to_bytes(), ["deu"])
    finally:
        cloud.close()
    assert unnamed.value.code == "source_needed"
    theirs = fake_release.load(release, encoder_only=False)
    given = torch.from_numpy(rows)[None]

    def said(prompt: str) -> str:
        with torch.inference_mode():
            [text] = theirs.translate_batch_embeds(1, given, [prompt], max_new_tokens=200, use_vllm=False)
        return " ".join(text.split("<")[0].split())

    # Ours ends where the model goes in circles, which random weights do.
    assert answer.transcript and said("<|spa|>").startswith(answer.transcript)
    for target in ("deu", "fra"):
        tags = f"<|spa|><|{target}|>"
        assert said(f"{tags}{answer.transcript}{tags}").startswith(answer.translations[target])


def test_through_a_real_server(release: Path, ready: Path, place: Path, examples: Path) -> None:
    server = Server(place / "stderr.txt", "serve", "--model", str(release), "--no-auth", "--port", "0")
    try:
        with Client(server.url) as client:
            result = translate(examples / "spanish.flac", client.encoder(), client, ["deu"], "spa", "bf16")
            assert result.source == "spa" and result.transcript
            with pytest.raises(CloudError) as unnamed:
                translate(examples / "spanish.flac", client.encoder(), client, ["deu"])
        assert unnamed.value.code == "source_needed"
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("self.a_projector(embed[None])", "self.a_projector(embed[None]).flip(1)", "the projector's rows differ"),
        ("[self.a_projector(embed[None]),", "[self.a_projector(embed[None])[:, :1],", "shape"),
        ("nn.Linear(", "nn.Bilinear(7, ", "fails"),
    ],
    ids=["another order", "other rows", "another projector"],
)
def test_a_release_that_does_otherwise_is_refused(
    release: Path, place: Path, old: str, new: str, reason: str, request: pytest.FixtureRequest
) -> None:
    folder = place / request.node.callspec.id / release.name
    shutil.copytree(release, folder)
    shutil.copytree(release.with_name(f"{release.name}-LLM"), folder.with_name(f"{release.name}-LLM"))
    code = folder / "modeling_fake.py"
    code.write_text(code.read_text().replace(old, new))
    with pytest.raises(ModelError, match=reason) as refused:
        hub.resolve(str(folder), trust_remote_code=True)
    assert refused.value.code == "release_differs" and "\n" not in str(refused.value)


def test_pulling_at_the_command_line(release: Path, ready: Path, run: Run, place: Path) -> None:
    other = place / "line" / release.name
    shutil.copytree(release, other)
    (other / "config.json").write_text(json.dumps({**json.loads((other / "config.json").read_text()), "other": 1}))
    refused = run("models", "pull", other)
    assert refused.returncode == 2 and refused.stderr.endswith("[remote_code]\n")
    found = run("models", "pull", release)
    assert found.stdout.strip() == str(ready)
