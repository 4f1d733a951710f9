"""`esrt m2m`: what it says before it trains, and which process says what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from esrt.cli.main import main
from esrt.m2m.model import save
from tests.m2m.conftest import tiny


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model of English, French and German."""
    save(tiny(0), tmp_path / "whole")
    return str(tmp_path / "whole")


def held_out(folder: Path, source: str) -> str:
    row = {"id": "0", "audio": "0.wav", "src": source, "tgt": "", "asr": "one two three", "s2tt": ""}
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return str(folder)


def test_nothing_to_measure_is_said_before_training(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = list[object]()
    monkeypatch.setattr("esrt.m2m.train.train", lambda *given: trained.append(given))
    data = held_out(tmp_path, "spa")
    for command in (["prune", model, "--run", str(tmp_path / "run")], ["bench", model]):
        assert main(["m2m", *command, "--data", data]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.rstrip().endswith("[no_rows]")
    assert not trained


@pytest.mark.parametrize("first", [True, False])
def test_one_process_says_what_came_of_it(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: bool
) -> None:
    data = held_out(tmp_path, "eng")
    monkeypatch.setattr("esrt.m2m.train.train", lambda *_: "small")
    monkeypatch.setattr("esrt.m2m.report.compare", lambda *_: "table")
    monkeypatch.setattr("accelerate.PartialState", lambda: SimpleNamespace(is_main_process=first))
    for verb, said in ((["train", "m2m-base"], "small\n"), (["prune", model], "table\nsmall\n")):
        assert main(["m2m", *verb, "--data", data, "--run", str(tmp_path / "run")]) == 0
        assert capsys.readouterr().out == (said if first else "")
