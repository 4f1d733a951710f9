"""What an attacker holds, of real clips through the real edge model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from esrt.audio import protect
from esrt.audio.io import load
from esrt.edge.encoder import Encoder
from esrt.errors import UsageError
from esrt.model import manifest
from esrt.privacy import views
from esrt.privacy.pitch import pitch
from esrt.privacy.views import View, Views


def test_names_of_views() -> None:
    assert views.parse("rvq32+shift+gain") == View("rvq32", ("gain", "shift"))
    assert views.parse("rvq8+shift").plain == View("bf16") and views.parse("opus16").is_sound
    for text, code in (("mp3", "unknown_codec"), ("int8+hope", "unknown_defence"), ("audio+gain", "unknown_defence")):
        with pytest.raises(UsageError) as caught:
            views.parse(text)
        assert caught.value.code == code


def test_opus_keeps_length_and_is_another_sound(examples: Path) -> None:
    sound = load(examples / "french.flac")
    coded = views.opus(sound)
    assert abs(len(coded) - len(sound)) < 400
    short = min(len(coded), len(sound))
    assert 0.5 < np.corrcoef(coded[:short], sound[:short])[0, 1] < 0.9999


def test_rows_are_those_of_the_frames_and_kept(model: Path, examples: Path, tmp_path: Path) -> None:
    sounds = [load(examples / "french.flac")[:24000], load(examples / "spanish.flac")[:32000]]
    made = Views(sounds, model, None, tmp_path, 0)
    encoder = Encoder(model / "edge.onnx")
    rows = made(View("bf16"))
    assert rows.shape == (2, encoder.info.queries, encoder.info.width)
    np.testing.assert_allclose(rows[0], encoder.encode(sounds[0]), atol=0.05, rtol=0.02)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    coarse = made(View("rvq8"))
    assert len(list(tmp_path.iterdir())) == 1  # the same rows, only rounded again
    near = np.mean((coarse.astype(float) - rows) ** 2) / np.var(rows.astype(float))
    assert 0.01 < near < 0.9
    shifted = made(View("bf16", ("shift",)))
    assert len(list(tmp_path.iterdir())) == 2 and not np.allclose(shifted, rows, atol=0.1)
    with pytest.raises(UsageError, match="esrt-270m-private"):
        made(View("bf16", ("adversary",)))


def test_figures_are_those_of_their_models(tmp_path: Path) -> None:
    for name in ("one", "two", "hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "llm.bin").write_text(name)
        manifest.write(tmp_path / name)

    def made_by(model: str, view: View) -> str:
        return Views([np.zeros(9, np.float32)], tmp_path / model, tmp_path / "hidden", tmp_path, 0).made_by(view)

    adversary = View("rvq8", ("adversary",))
    assert made_by("one", adversary) != made_by("two", adversary), "the ignorant attacker has trained on the plain one"
    assert made_by("one", View("audio")) == made_by("two", View("audio"))
    before = made_by("one", View("rvq8"))
    (tmp_path / "one" / "llm.bin").write_text("trained anew")
    manifest.write(tmp_path / "one")
    assert made_by("one", View("rvq8")) != before


def test_the_encoder_hears_no_level_and_protects_when_told(model: Path, examples: Path) -> None:
    """Whisper's log-mel is relative to a clip's loudest sound: gain hides what rows do not have."""
    sound = load(examples / "french.flac")[:32000]
    encoder = Encoder(model / "edge.onnx")
    rows = encoder.encode(sound)
    quiet = encoder.encode(protect.gain(sound, np.random.default_rng(0)) * np.float32(0.2))
    cosines = (rows * quiet).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(quiet, axis=1)
    assert cosines.mean() > 0.98
    encoder.protect = True
    frames = {encoder.frame(sound, "int8").to_bytes() for _ in range(3)}
    assert len(frames) == 3


@pytest.mark.parametrize("hertz", [90.0, 130.0, 220.0, 310.0])
def test_pitch_of_a_buzz(hertz: float) -> None:
    time = np.arange(16000) / 16000
    buzz = np.sum([0.1 * np.sin(2 * np.pi * hertz * n * time) / n for n in range(1, 12)], axis=0).astype(np.float32)
    found = pitch(buzz)
    assert found == pytest.approx(12 * np.log2(hertz / 55), abs=0.5)
    rng = np.random.default_rng(0)
    assert pitch(rng.standard_normal(16000).astype(np.float32)) is None
    assert pitch(np.zeros(100, np.float32)) is None
