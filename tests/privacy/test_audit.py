"""The whole audit, tiny, on clips of this repository; and what is refused."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from esrt.audio.io import load
from esrt.bench.privacy import quality
from esrt.cli.main import main
from esrt.edge.encoder import Encoder
from esrt.errors import UsageError
from esrt.model import checkpoint, manifest, voiceprint
from esrt.privacy import clips
from esrt.privacy.views import View
from esrt.train.manifest import Row, held_out, read_manifest
from esrt.train.sources import synth
from esrt.train.sources.synth import write_wav

Run = Callable[..., subprocess.CompletedProcess[str]]
BEGINNINGS = (
    "please leave a message", "the line is busy", "press one to listen", "nobody can hear you", "you may hang up",
)  # fmt: skip
ENDINGS = ("after the tone", "once again", "until monday morning", "at this hour", "in the queue", "with us", "here")
TEXTS = [f"{beginning} {ending}" for beginning in BEGINNINGS for ending in ENDINGS]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """Manifests: sentences to be spoken, and pieces of two real voices."""
    folder = tmp_path_factory.mktemp("data")
    voice: dict[str, str | int] = {"voice": "en", "speed": 160, "pitch": 50, "pitch_range": 50}

    def row(name: str, audio: str, language: str, text: str, **more: str) -> str:
        return json.dumps({"id": name, "audio": audio, "src": language, "tgt": "", "asr": text, "s2tt": ""} | more)

    (folder / "texts.jsonl").write_text(
        "\n".join(row(f"t{n}", synth.recipe(text, n, voice), "eng", text) for n, text in enumerate(TEXTS)) + "\n"
    )
    lines = []
    for name in ("spanish", "french"):
        sound = load(examples / f"{name}.flac")
        for n, part in enumerate(np.array_split(sound[: len(sound) // 5 * 5], 5)):
            write_wav(folder / f"{name}{n}.wav", part)
            lines.append(row(f"{name}{n}", f"{name}{n}.wav", "eng", "words that nobody knows", speaker=name, sex="f"))
    (folder / "real.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_synthetic_voices_share_neither_speaker_nor_sentence(data: Path) -> None:
    found = clips.synthetic(read_manifest(data / "texts.jsonl"), 4, 2, 3)
    parts = [{(c.speaker, c.transcript) for c in found if c.scored is scored} for scored in (False, True)]
    for place in (0, 1):
        assert not {one[place] for one in parts[0]} & {one[place] for one in parts[1]}
    assert {c.sex for c in found} == {"f", "m"} and len({c.speaker for c in found}) == 6
    loud, quiet = (min(found, key=key) for key in (lambda c: c.level, lambda c: -c.level))
    assert np.abs(loud.samples()).max() > 2 * np.abs(quiet.samples()).max()
    np.testing.assert_array_equal(found[0].samples(), found[0].samples())


def test_real_voices_are_those_that_are_known(data: Path) -> None:
    scored = clips.real(data, ["real"], 4, scored=True)
    assert [clip.speaker for clip in scored] == ["spanish"] * 4 + ["french"] * 4
    assert clips._voice(scored_row("fillets-ces-x-m-y"), {}) == ("fillets ces small fish", "f")
    assert clips._voice(scored_row("asterisk-spa-hello"), {}) == ("asterisk Allison", "f")
    assert clips._voice(scored_row("fillets-ces-x-y"), {}) is None
    assert clips._voice(scored_row("other-1"), {}) == ("", "")


def test_sentences_of_the_score_are_not_trained_on(tmp_path: Path) -> None:
    held, free = (next(t for n in range(99) if held_out(t := f"sentence {n}") is part) for part in (True, False))
    rows = [
        {"id": text, "audio": f"{text}.wav", "src": "eng", "tgt": "", "asr": text, "s2tt": "", "speaker": "somebody"}
        for text in (held, free)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = [{clip.transcript for clip in clips.real(tmp_path, ["m"], 4, scored)} for scored in (False, True)]
    assert found == [{free}, {held, free}]


def scored_row(name: str) -> Row:
    return Row(name, "a.wav", "eng", "", "", "")


def test_an_audit_from_end_to_end(run: Run, data: Path, model: Path, tmp_path: Path) -> None:
    try:
        voiceprint.load()
    except UsageError as error:
        pytest.skip(str(error))
    data = shutil.copytree(data, tmp_path / "data")
    command = [
        "audit", "--data", data, "--manifest", "texts", "--test", "real", "--model", model, "--work", tmp_path / "work",
        "--speakers", 4, "--scored", 4, "--each", 4, "--epochs", 2, "--heard", 2, "--codec", "audio,rvq8+shift",
        "--invert", "rvq8+shift", "--out", tmp_path / "page.md",
    ]  # fmt: skip
    done = run(*command)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text()
    assert page in f"# Audit\n\n<!-- audit -->\n\n{done.stdout.strip()}\n\n<!-- /audit -->\n"
    assert "| rvq8+shift |" in page and "| raw audio |" in page and "| *chance* | 50.0 |" in page
    found = json.loads((tmp_path / "page.json").read_text())
    own = found["views"]["rvq8+shift"]
    assert own["semi"]["chance"] == 0.5 and 0 <= own["semi"]["value"] <= 1 and own["semi"]["voices"] == 4
    assert {"sex", "pitch", "duration", "language", "level", "channel", "likeness", "cer"} <= set(own)
    assert -1 <= own["likeness"]["value"] <= 1 and math.isfinite(found["views"]["text"]["duration"]["value"])
    assert len(list((tmp_path / "work" / "sounds").glob("*-rvq8+shift.wav"))) == 2
    again = run(*command)  # from what is kept
    assert again.stdout == done.stdout and "attacking" not in again.stderr
    lines = (data / "real.jsonl").read_text()
    (data / "real.jsonl").write_text(lines.replace('french", "sex": "f"', 'french", "sex": "m"'))
    assert "attacking" in run(*command).stderr, "a corrected label"


def test_translations_are_those_of_a_model_and_its_sounds(
    examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = tmp_path / "model", list[str]()
    folder.mkdir()
    (folder / "llm.bin").write_text("one language model")
    manifest.write(folder)
    shutil.copy(examples / "spanish.flac", tmp_path / "a.flac")
    row = {"id": "a", "audio": "a.flac", "src": "spa", "tgt": "eng", "asr": "por favor otra vez", "s2tt": "again"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))

    def translate(*_: object, codec: str) -> SimpleNamespace:
        asked.append(codec)
        return SimpleNamespace(translations={"eng": "again"})

    monkeypatch.setattr("esrt.bench.privacy.load_service", lambda _: None)
    monkeypatch.setattr("esrt.bench.privacy.Encoder", lambda _: SimpleNamespace(codecs=[], info=None))
    # Both language models are behind one edge half.
    monkeypatch.setattr("esrt.bench.privacy.fingerprint", lambda _: bytes(8))
    monkeypatch.setattr("esrt.bench.training.score.Searching", lambda _: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr("esrt.edge.pipeline.translate", translate)

    def times() -> int:
        quality(tmp_path, ["test"], [View("bf16")], folder, None, tmp_path / "work", 1)
        return len(asked)

    assert (times(), times()) == (1, 1)
    (folder / "llm.bin").write_text("another language model")
    manifest.write(folder)
    assert times() == 2
    shutil.copy(examples / "french.flac", tmp_path / "a.flac")
    assert times() == 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "usage"),
        (["--codec", "mp3"], "unknown_codec"),
        (["--codec", "rvq8+luck"], "unknown_defence"),
        (["--codec", "rvq8+adversary"], "no_adversary"),
        (["--epochs", "0"], "usage"),
        (["--manifest", "nothing"], "manifest_not_readable"),
    ],
)
def test_what_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: str
) -> None:
    page = str(tmp_path / "page.md")
    whole = ["audit", "--data", str(data), "--manifest", "texts", "--test", "real", "--out", page]
    ended = main([*whole, *arguments] if arguments else whole[:3])
    said = capsys.readouterr()
    assert ended == 2 and said.out == "" and f"[{code}]" in said.err, said.err
    assert not (tmp_path / "page.md").exists()


def test_a_frame_names_the_edge_half_and_no_language_model(model: Path, examples: Path, tmp_path: Path) -> None:
    """Another language model behind the same adapter changes no byte of a frame."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "adapter.safetensors", "codec.safetensors", "edge.onnx"):
        shutil.copy(model / name, other / name)
    (other / "llm").mkdir()
    (other / "llm" / "model.safetensors").write_bytes(b"another one")
    assert checkpoint.fingerprint(other) == checkpoint.fingerprint(model)
    sound = load(examples / "french.flac")[:32000]
    frames = [Encoder(folder / "edge.onnx").frame(sound, "rvq32").to_bytes() for folder in (model, other)]
    assert frames[0] == frames[1] and Encoder(other / "edge.onnx").fingerprint == checkpoint.fingerprint(model)
