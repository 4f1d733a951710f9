"""`esrt train`: what it says before it trains."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from esrt.cli.main import main
from esrt.train.recipes import RECIPES, get

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_the_list_has_every_stage(run: Run) -> None:
    lines = run("train", "--list").stdout.splitlines()
    stages = [(recipe, stage.name) for recipe in RECIPES for stage in get(recipe).stages]
    assert [tuple(line.split()[:2]) for line in lines[1:]] == stages
    assert any("asr=0.2 srt=0.8" in line for line in lines) and any(line.endswith("frozen") for line in lines)


def test_one_stage_of_a_recipe() -> None:
    assert [stage.name for stage in get("esrt-4b", "0").stages] == ["0a", "0b"]
    assert [stage.name for stage in get("esrt-4b", "II").stages] == ["II"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "usage"),
        (["esrt-270m"], "usage"),
        (["esrt-270m", "--data", "d"], "usage"),
        (["esrt-9000", "--data", "d", "--run", "r"], "unknown_recipe"),
        (["esrt-270m", "--data", "d", "--run", "r", "--stage", "IV"], "unknown_stage"),
        (["esrt-270m", "--data", "d", "--run", "r", "--stage", "III"], "no_run"),
    ],
)
def test_wrong_arguments(run: Run, arguments: list[str], code: str) -> None:
    result = run("train", *arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.splitlines()[-1].endswith(f"[{code}]")


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["esrt-270m-private"], "ESRT-270M"),
        (["esrt-270m-captions", "--from", "runs/first/model"], "runs/first/model"),
        (["esrt-270m"], None),
    ],
)
def test_where_a_recipe_begins(monkeypatch: pytest.MonkeyPatch, arguments: list[str], start: str | None) -> None:
    begun = []
    monkeypatch.setattr("esrt.train.run.run", lambda recipe, data, folder: begun.append(recipe.start))
    assert main(["train", *arguments, "--data", "d", "--run", "r"]) == 0
    assert begun == [start]


def test_the_llm_stays_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr("esrt.train.run.run", lambda recipe, data, folder: begun.append(recipe))
    for more in ([], ["--frozen-llm"]):
        assert main(["train", "esrt-4b", *more, "--data", "d", "--run", "r"]) == 0
    assert [{stage.lora_rate > 0 for stage in recipe.stages} for recipe in begun] == [{False, True}, {False}]
    assert [recipe.frozen_llm for recipe in begun] == [False, True], "the one does not go on with the other's run"
