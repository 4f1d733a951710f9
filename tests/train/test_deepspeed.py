"""DeepSpeed, the real one over gloo: it trains as one process does, and what it cannot do it says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from esrt.train import checkpoint, progress
from esrt.train.loop import Trainer
from tests.train.processes import ROOT, numbers, processes, start

DEEPSPEED = Path(sys.prefix) / "deepspeed"

pytestmark = pytest.mark.skipif(not DEEPSPEED.exists(), reason="DeepSpeed is not here: `make .venv/.deepspeed` gets it")


def train(data: Path, run: Path, *more: str, count: int = 2, stage: int = 2) -> int:
    """The exit status of so many processes that train by a stage of ZeRO."""
    return start(
        data, run, "--by", "deepspeed", *more, launcher=processes(count), PYTHONPATH=f"{ROOT}:{DEEPSPEED}",
        DS_ACCELERATOR="cpu", ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_DEEPSPEED_ZERO_STAGE=str(stage),
    ).wait()  # fmt: skip


def test_it_trains_as_one_process_and_goes_on_where_it_stopped(
    make_trainer: Callable[..., Trainer], whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The projector, the tags and LoRA each learn from another stage on: none may have learned from zeros before."""
    shared_out = tmp_path / "shared-out"
    assert train(tmp_path, shared_out, "--stages", "2") == 0
    assert train(tmp_path, shared_out, count=1) != 0
    assert "2 processes share out the run" in capfd.readouterr().err
    assert train(tmp_path, shared_out) == 0
    assert numbers(shared_out) == pytest.approx(numbers(whole), rel=1e-3)
    (state,) = shared_out.glob("shards-*/*/*model_states.pt")
    adapter = sum(p.numel() for p in checkpoint.trained(make_trainer().network).values())
    assert state.stat().st_size < 4 * adapter + 65536, "the LLM's own weights are not in it"


def test_its_bfloat16_is_autocast(
    make_trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY", 1)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    AcceleratorState._reset_state()
    make_trainer(one, bf16=True).run()
    AcceleratorState._reset_state()
    assert train(tmp_path, two, "--bf16") == 0
    assert numbers(two) == pytest.approx(numbers(one), rel=1e-3)
    at = checkpoint.place(two)
    assert at is not None and at.bf16


def test_it_does_not_share_out_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, tmp_path / "run", count=1, stage=3) != 0
    assert "launch stage 2, or FSDP" in capfd.readouterr().err
