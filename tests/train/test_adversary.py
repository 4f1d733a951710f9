"""The recipe that hides a voice: what an adversary learns, what the adapter loses, and what stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from esrt.errors import UsageError
from esrt.model import voiceprint
from esrt.model.qformer import QFormer
from esrt.train import adversary, recipes
from esrt.train.adversary import Adversary, Voices
from esrt.train.loop import Trainer
from esrt.train.recipes import Stage
from tests.train.conftest import ADAPTER, FRAME_WIDTH

CLIPS, FRAMES = 96, 30


def planted() -> tuple[torch.Tensor, torch.Tensor]:
    """Frames in which a voice stands, and what is to be hidden of them."""
    rng = np.random.default_rng(0)
    voice = rng.standard_normal((CLIPS, 3)).astype(np.float32)
    frames = rng.standard_normal((CLIPS, FRAMES, FRAME_WIDTH)).astype(np.float32)
    frames[:, :, :3] += 2 * voice[:, None]
    prints = np.zeros((CLIPS, voiceprint.WIDTH + 1), np.float32)
    prints[:, :3] = voice / np.linalg.norm(voice, axis=1, keepdims=True)
    prints[:, -1] = rng.standard_normal(CLIPS)
    return torch.from_numpy(frames), torch.from_numpy(prints)


def known(adapter: QFormer, frames: torch.Tensor, voices: torch.Tensor) -> float:
    """What a fresh adversary knows of the last third of the clips when it has seen the others."""
    fresh = Adversary(adapter, torch.device("cpu"))
    with torch.no_grad():
        rows = adapter(frames)
        assert not fresh.leak(rows[:64], voices[:64]).any()  # it has seen nothing before
        return float(fresh.leak(rows[64:], voices[64:]).mean())


def test_the_adapter_forgets_a_planted_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversary, "_MEMORY", 128)  # of 64 clips
    torch.manual_seed(0)
    adapter = QFormer(ADAPTER, FRAME_WIDTH)
    frames, voices = planted()
    before = known(adapter, frames, voices)
    against = Adversary(adapter, torch.device("cpu"))
    optimizer = torch.optim.Adam(adapter.parameters(), 2e-3)
    for step in range(200):
        some = slice(16 * (step % 4), 16 * (step % 4) + 16)
        leak = against.leak(adapter(frames[some]), voices[some])
        assert leak.shape == (16,) and leak.mean() >= 0
        if leak.any():
            optimizer.zero_grad()
            torch.autograd.backward(leak.mean())
            optimizer.step()
    after = known(adapter, frames, voices)
    assert before > 0.7 and after < 0.85 * before, (before, after)


class Known(Voices):
    """Voices of the made-up clips."""

    def __init__(self) -> None:
        pass

    def of(self, audios: list[str]) -> torch.Tensor:
        found = torch.zeros(len(audios), voiceprint.WIDTH + 1)
        for row, audio in zip(found, audios, strict=True):
            row[int(audio.partition(".")[0]) % 7] = 1
            row[-1] = float(len(audio))
        return found


def test_a_stage_that_hides_moves_the_adapter_alone(make_trainer: Callable[..., Trainer]) -> None:
    stage = Stage("hide", "hide", 12, 8, 1e-2, warmup=2)
    trainer = make_trainer(stages=(stage,), adversary=0.5)
    object.__setattr__(trainer.batches, "voices", Known())
    trainer.network.adversary = Adversary(trainer.network.adapter, torch.device("cpu"))
    before = {name: value.detach().clone() for name, value in trainer.network.named_parameters()}
    shown = [trainer.step(stage, step) for step in range(12)]
    assert shown[0]["ctc"] == pytest.approx(0, abs=1e-6) and shown[-1]["ctc"] > 0  # how far the rows have moved
    assert all(0 <= each["leak"] <= 4 for each in shown)
    moved = {n.split(".")[0] for n, value in trainer.network.named_parameters() if not torch.equal(value, before[n])}
    assert moved == {"adapter"}


def test_the_recipe_leaves_the_clouds_half_alone() -> None:
    recipe = recipes.get("esrt-270m-private")
    assert recipe.start == recipe.model and recipe.adversary > 0
    assert all(stage.objective == "hide" and not stage.lora_rate for stage in recipe.stages)


def test_the_speaker_encoder_tells_voices_apart(examples: Path) -> None:
    from esrt.audio.io import load

    try:
        encoder = voiceprint.load()
    except UsageError as error:
        assert error.code == "not_installed" and voiceprint.INSTALL in str(error)
        pytest.skip(str(error))
    spanish, french = (load(examples / f"{name}.flac") for name in ("spanish", "french"))
    half = len(spanish) // 2
    first, second, other = (encoder.of(sound) for sound in (spanish[:half], spanish[half:], french))
    assert first.shape == (voiceprint.WIDTH,) and np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert first @ second > 0.75 > first @ other
    assert encoder.of(spanish * np.float32(0.3)) @ encoder.of(spanish) > 0.8
    assert np.isfinite(encoder.of(np.zeros(100, np.float32))).all()
