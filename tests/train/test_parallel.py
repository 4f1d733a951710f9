"""Precision, trackers and the log."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState

from esrt.errors import UsageError
from esrt.train import parallel
from esrt.train.loop import Trainer
from tests.train.conftest import RECIPE


def test_precision_is_measured_once(tmp_path: Path) -> None:
    assert parallel.faster_in_bf16(torch.device("cpu")) in (True, False)
    for bf16, expected in ((True, "bf16"), (False, "no")):
        AcceleratorState._reset_state()
        assert parallel.start(replace(RECIPE, bf16=None), tmp_path, bf16).mixed_precision == expected


def test_a_step_in_bfloat16(make_trainer: Callable[..., Trainer]) -> None:
    stage = RECIPE.stages[2]
    exact = make_trainer().step(stage, 0)
    AcceleratorState._reset_state()
    rounded = make_trainer(bf16=True).step(stage, 0)
    AcceleratorState._reset_state()
    assert rounded["loss"] != exact["loss"] and abs(rounded["loss"] - exact["loss"]) < 0.05 * exact["loss"]


def test_trackers_hear_what_the_log_says(make_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = make_trainer()
    heard: dict[int, dict[str, float]] = {}
    trainer.accelerator.log = lambda values, step: heard.setdefault(step, {}).update(values)
    trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    line = next(line for line in lines if line["step"] == 10 and "loss" in line)
    # Steps of the stages before are counted.
    assert heard[4 + 4 + 10]["loss"] == line["loss"] and line["tokens_per_second"] > 0
    assert heard[4 + 4 + 10]["validation/asr"] > 0


@pytest.mark.parametrize(
    ("mode", "signed_in", "told"), [("online", False, False), ("online", True, True), ("offline", False, True)]
)
def test_wandb_is_told_where_it_has_an_account(
    monkeypatch: pytest.MonkeyPatch, mode: str, signed_in: bool, told: bool
) -> None:
    """It is not installed here: this stands in for the part of it that is asked."""
    wandb = SimpleNamespace(
        Error=ConnectionError, setup=lambda: SimpleNamespace(settings=SimpleNamespace(mode=mode)),
        login=lambda prompt: signed_in,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert parallel._has_account() is told


def test_wandb_that_refuses_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConnectionError("no such key")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Error=ConnectionError, setup=refuse))
    with pytest.raises(UsageError, match=r"no such key.*WANDB_MODE=offline") as refused:
        parallel._has_account()
    assert refused.value.code == "wandb_refused"


def test_tensorboard_is_written(make_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.accelerator.init_trackers("tiny")
    trainer.run()
    for tracker in trainer.accelerator.trackers:
        tracker.finish()
    assert list((tmp_path / "tiny").glob("events.out.tfevents.*"))
