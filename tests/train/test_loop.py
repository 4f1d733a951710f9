"""The loop on a tiny network: it learns, it stops at a NaN, and a killed run goes on to the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from esrt.errors import ModelError
from esrt.train import checkpoint, loop
from esrt.train.examples import Example
from esrt.train.features import Features
from esrt.train.loop import Trainer
from tests.train.conftest import FRAME_WIDTH, LLM_WIDTH, tiny_llm, tiny_network


def numbers(run: Path) -> dict[tuple[str, int], float]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return {(line["stage"], line["step"]): line.get("loss", line["ctc"]) for line in lines}


def test_every_stage_lowers_its_loss(make_trainer: Callable[[], Trainer]) -> None:
    trainer = make_trainer()
    for stage in trainer.recipe.stages:
        key = "loss" if stage.objective == "llm" else "ctc"
        shown = [trainer.step(stage, step % stage.steps)[key] for step in range(40)]
        assert sum(shown[-4:]) < sum(shown[:4]), stage.name


def test_what_each_stage_moves(make_trainer: Callable[[], Trainer]) -> None:
    trainer = make_trainer()
    before = {name: value.detach().clone() for name, value in trainer.network.named_parameters()}
    trainer.step(trainer.recipe.stages[0], 1)
    moved = {
        name.split(".")[0] for name, value in trainer.network.named_parameters() if not torch.equal(value, before[name])
    }
    assert moved == {"adapter", "whisper_ctc"}
    for step in range(2):
        trainer.step(trainer.recipe.stages[2], step)
    moved_names = {name for name, value in trainer.network.named_parameters() if not torch.equal(value, before[name])}
    assert {"tags", "projector.0.weight"} <= moved_names
    assert any("lora_" in name for name in moved_names)
    assert not any(name.startswith("llm") and "lora_" not in name for name in moved_names), "the LLM's own weights stay"


def test_a_stopped_run_goes_on_to_the_same_numbers(
    make_trainer: Callable[[], Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    make_trainer().run(whole)

    trainer = make_trainer()
    real, calls = trainer.step, iter(range(100))

    def step(*arguments: object) -> dict[str, float]:
        if next(calls) == 10:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(parts)
    resumed = make_trainer()
    resumed.run(parts)
    assert numbers(parts) == numbers(whole)
    final = make_trainer()
    checkpoint.restore(whole / "state.safetensors", final.network, final.optimizer)
    for name, value in checkpoint.trained(resumed.network).items():
        assert torch.equal(value, checkpoint.trained(final.network)[name]), name


def test_a_killed_writer_leaves_the_last_checkpoint(make_trainer: Callable[[], Trainer], tmp_path: Path) -> None:
    """SIGKILL while a process does nothing but save: what it leaves is whole."""
    script = (
        "import sys; from pathlib import Path; from esrt.train import checkpoint; import torch\n"
        "network = torch.nn.Linear(600, 600); optimizer = torch.optim.AdamW(network.parameters())\n"
        "network(torch.ones(1, 600)).sum().backward(); optimizer.step()\n"
        "for step in range(10**6):\n"
        "    checkpoint.save(Path(sys.argv[1]), network, optimizer, 'I', step)\n"
    )
    path = tmp_path / "state.safetensors"
    process = subprocess.Popen([sys.executable, "-c", script, str(path)])
    while not path.exists():
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    network = torch.nn.Linear(600, 600)
    stage, step = checkpoint.restore(path, network, torch.optim.AdamW(network.parameters()))
    assert stage == "I" and step > 0


def test_a_nan_stops_and_names_the_step(make_trainer: Callable[[], Trainer]) -> None:
    trainer = make_trainer()
    with torch.no_grad():
        trainer.network.adapter.queries.fill_(torch.nan)
    with pytest.raises(ModelError, match="stage 0b, step 3") as caught:
        trainer.step(trainer.recipe.stages[1], 3)
    assert caught.value.code == "loss_not_finite"


def test_the_loss_equals_the_language_models_own() -> None:
    """Same rows, whole vocabulary: our restricted loss is transformers' loss over the same token ids."""
    llm = tiny_llm()
    ids = [12, 13, 95, 14, 15, 1]
    labels = torch.tensor([[-100, -100, *ids[2:]]])
    expected = llm(input_ids=torch.tensor([ids]), labels=labels).loss
    network = tiny_network(llm, dropout=0.0).eval()
    # The first token plays the audio: one row, exactly as the LLM sees it.
    audio = network.embed(torch.tensor([ids[:1]]))
    made = Example(tuple(ids[1:]), (False, *(True,) * 4), (0,) * 5)
    longer = Example(tuple(range(20, 27)), (False,) + (True,) * 6, (0,) * 7)
    losses, _ = network.answer_loss(audio.expand(2, -1, -1), [made, longer])
    assert torch.allclose(losses[0], expected, atol=1e-5)


def test_branches_do_not_see_each_other() -> None:
    """Two translations in one row of the batch cost what they cost apart."""
    network = tiny_network(tiny_llm(), dropout=0.0).eval()
    audio = torch.randn(1, 12, LLM_WIDTH)
    trunk, first, second = (12, 13, 95), (96, 20, 21, 1), (97, 22, 1)

    def loss(*branches: tuple[int, ...]) -> torch.Tensor:
        ids = sum(branches, trunk)
        learned = (False,) * 3 + tuple(n > 0 for branch in branches for n in range(len(branch)))
        branch = (0,) * 3 + tuple(k for k, branch in enumerate(branches, 1) for _ in branch)
        (loss,), _ = network.answer_loss(audio, [Example(ids, learned, branch)])
        whole: torch.Tensor = loss * sum(learned)
        return whole

    assert torch.allclose(loss(first, second), loss(first) + loss(second), atol=1e-4)
    assert not torch.allclose(loss(first, first), loss(first) + loss(second), atol=1e-2)


def test_interrupted_features_go_on(tmp_path: Path) -> None:
    features = Features(tmp_path, FRAME_WIDTH)
    first = np.ones((3, FRAME_WIDTH))
    features.append("a.wav", first)
    with (tmp_path / "frames.f16").open("ab") as file:
        file.write(b"half a clip")
    with (tmp_path / "index.jsonl").open("a") as file:
        file.write('["b.wav", 3')
    again = Features(tmp_path, FRAME_WIDTH)
    assert set(again.index) == {"a.wav"}
    again.append("b.wav", 2 * first)
    last = Features(tmp_path, FRAME_WIDTH)
    assert np.array_equal(last.get("a.wav"), first) and np.array_equal(last.get("b.wav"), 2 * first)
