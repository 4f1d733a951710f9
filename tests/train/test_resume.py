"""Real processes: two of them train as one does, and one that was killed goes on to the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from esrt.errors import UsageError
from esrt.model.manifest import whole_folder
from esrt.train import checkpoint, run
from esrt.train.loop import Trainer
from esrt.train.recipes import RECIPES
from tests.train.conftest import RECIPE
from tests.train.processes import ROOT, numbers, processes, start


def test_a_killed_run_goes_on_to_the_same_numbers(
    make_trainer: Callable[..., Trainer], whole: Path, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    process = start(tmp_path, parts)
    log = parts / "log.jsonl"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 14):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "killed before it was done"
    at = checkpoint.place(parts)
    assert at is not None and at.stage == "III" and at.step < 12
    done = len(log.read_text().splitlines())
    make_trainer(parts).run()
    next_line = json.loads(log.read_text().splitlines()[done])
    assert (next_line["stage"], next_line["step"]) == (at.stage, at.step + 1)
    assert numbers(parts) == numbers(whole)
    one, other = (load_file(run / checkpoint.FILE) for run in (parts, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_train_as_one_with_twice_the_batch_each(whole: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    assert start(tmp_path, both, launcher=processes(2)).wait() == 0
    one, two = numbers(whole), numbers(both)
    assert len(one) == 4 + 4 + 3 * 12 + 4 * 6
    assert two == pytest.approx(one, rel=1e-3)
    logs = [(run / "log.jsonl").read_text().splitlines() for run in (whole, both)]
    assert len(logs[0]) == len(logs[1]), "one process writes"


def test_what_one_process_began_two_share_out_and_one_goes_on_with(
    make_trainer: Callable[..., Trainer], whole: Path, tmp_path: Path
) -> None:
    """FSDP, as the commands of docs/training.md launch it, with LoRA that learns in the last stage alone."""
    moved = tmp_path / "moved"
    moved.mkdir()
    make_trainer(moved, stages=RECIPE.stages[:1]).run()
    shared_out = start(
        tmp_path, moved, "--by", "fsdp", launcher=processes(2), ACCELERATE_USE_FSDP="true", FSDP_VERSION="2",
        FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP", FSDP_TRANSFORMER_CLS_TO_WRAP="Gemma3DecoderLayer",
    )  # fmt: skip
    assert shared_out.wait() == 0
    assert numbers(moved) == pytest.approx(numbers(whole), rel=1e-3)
    trainer = make_trainer(moved)
    trainer.run()  # nothing is left, but to read the state
    known = load_file(whole / checkpoint.FILE)
    assert load_file(moved / checkpoint.FILE).keys() == known.keys()
    for name, parameter in checkpoint.trained(trainer.network).items():
        assert torch.allclose(parameter, known[f"weight/{name}"], atol=1e-4), name


def test_the_first_version_of_fsdp_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}
    assert start(tmp_path, tmp_path, "--by", "fsdp", launcher=processes(1), **settings).wait() != 0
    assert "launch with --fsdp_version 2" in capfd.readouterr().err


def test_a_killed_writer_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """SIGKILL while a process does nothing but save: what it leaves is whole."""
    script = (
        "import sys; from pathlib import Path; from accelerate import Accelerator\n"
        "from esrt.train import checkpoint; import torch; accelerator = Accelerator(cpu=True)\n"
        "network = torch.nn.Linear(600, 600); optimizer = torch.optim.AdamW(network.parameters())\n"
        "network(torch.ones(1, 600)).sum().backward(); optimizer.step()\n"
        "for step in range(10**6):\n"
        "    place = checkpoint.Place('I', step)\n"
        "    checkpoint.save(Path(sys.argv[1]), accelerator, network, optimizer, place)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT)
    while checkpoint.place(tmp_path) is None:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    place = checkpoint.place(tmp_path)
    assert place is not None and place.stage == "I"
    assert set(load_file(tmp_path / checkpoint.FILE)) >= {"weight/weight", "exp_avg/weight", "step/bias"}


@pytest.mark.parametrize("metadata", [None, {}, {"place": "7"}, {"place": "[]"}, {"place": '{"stage": "I"}'}])
def test_what_is_no_state(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    if metadata is None:
        (tmp_path / checkpoint.FILE).write_bytes(b"half a file")
    else:
        save_file({"x": torch.zeros(1)}, tmp_path / checkpoint.FILE, metadata)
    with pytest.raises(UsageError) as refused:
        checkpoint.place(tmp_path)
    assert refused.value.code == "run_damaged" and checkpoint.FILE in str(refused.value)


def test_a_run_that_had_ended_leaves_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codebooks and finder, which are fitted after it, do not come of the run."""
    saved: list[Path] = []

    def save_delta(trainer: object, model: Path, card: str) -> None:
        saved.append(model)
        with whole_folder(model) as work:
            (work / "config.json").touch()

    accelerator = SimpleNamespace(init_trackers=lambda name: None, end_training=lambda: None, print=lambda model: None)
    trainer = SimpleNamespace(accelerator=accelerator, run=lambda: None)
    monkeypatch.setattr("esrt.train.setup.build", lambda recipe, data, folder: trainer)
    monkeypatch.setattr("esrt.train.finish.save_delta", save_delta)
    for more_steps, models in ((True, 1), (False, 1), (True, 2)):
        if more_steps:
            save_file({"x": torch.zeros(1)}, tmp_path / checkpoint.FILE)
        run.run(RECIPES["esrt-270m"](), tmp_path, tmp_path)
        assert saved == [tmp_path / "model"] * models
        time.sleep(0.01)


def test_a_run_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as refused:
        run.run(RECIPES["esrt-270m"](), tmp_path, tmp_path / "file")
    assert refused.value.code == "run_not_writable"
