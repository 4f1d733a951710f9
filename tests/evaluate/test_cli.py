"""`esrt evaluate` as people type it: a real model through both halves, its scores, and what wrong words get."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from esrt.cli.main import main
from esrt.evaluate import results
from esrt.evaluate.run import Answer, System
from esrt.model.manifest import write
from tests.evaluate.conftest import Make, made

Run = Callable[..., subprocess.CompletedProcess[str]]


def refused(result: subprocess.CompletedProcess[str], code: str) -> str:
    lines = result.stderr.splitlines()
    assert result.returncode == 2 and len(lines) == 1 and lines[0].endswith(f" [{code}]"), result
    return lines[0]


@pytest.fixture
def answered(tmp_path: Path) -> tuple[Path, Path]:
    """Results of two systems on the same rows: one is right, the other is not."""
    paths = (tmp_path / "right.jsonl", tmp_path / "wrong.jsonl")
    for path, text in zip(paths, ("the cat sits on the mat", "no idea"), strict=True):
        own = [
            made(number, "fra", "eng", "le chat", "le chat", f"the cat sits on the mat {number}", f"{text} {number}")
            for number in range(12)
        ]
        with path.open("ab") as file:
            results.append(file, own)
    return paths


def test_a_real_model(run: Run, model: Path, examples: Path, tmp_path: Path) -> None:
    rows = [
        {
            "id": name,
            "audio": str(examples / f"{name}.flac"),
            "src": src,
            "tgt": tgt,
            "asr": "a",
            "s2tt": "b" * bool(tgt),
        }
        for name, src in (("spanish", "spa"), ("french", "fra"))
        for tgt in ("", "eng", "deu")
    ]
    manifest, out = tmp_path / "test.jsonl", tmp_path / "out.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("evaluate", "run", manifest, "--out", out, "--model", model, "--from", "spa")
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 results of 1 clips in ")
    found = {one.tgt: one for one in results.read(out)}
    assert set(found) == {"", "eng", "deu"} and found["eng"].found == "spa"
    assert found["eng"].asr_r and found["eng"].s2tt_r and found["deu"].s2tt_r
    assert found[""].asr_r == found["eng"].asr_r
    again = run(*command)
    assert again.stdout.startswith("0 results of 0 clips") and "3 were there before" in again.stdout
    refused(run(*command, "--name-source"), "resume_mismatch")


@pytest.mark.parametrize("kind", ["model", "text"])
def test_a_model_that_was_trained_anew_does_not_go_on(
    kind: str, manifest: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "model", tmp_path / "out.jsonl"
    folder.mkdir()
    write(folder)

    def system(*_: object) -> System:
        return lambda clips: (Answer("fra", "a", dict.fromkeys(clip.targets, "b")) for clip in clips)

    monkeypatch.setattr("esrt.translator.prepare", Path)
    monkeypatch.setattr("esrt.cli.evaluate._system", system)
    command = ["evaluate", "run", str(manifest([("a", "fra", "eng")])), "--out", str(out), f"--{kind}", str(folder)]
    assert main(command) == 0
    assert main(command) == 0 and "1 were there before" in capsys.readouterr().out
    beside = tmp_path / "out.jsonl.run.json"
    told = beside.read_text()
    before = {name: value for name, value in json.loads(told).items() if name != "manifest"}
    beside.write_text(json.dumps(before, sort_keys=True) + "\n")  # as it was written before it told of the files
    assert main(command) == 2 and "[resume_mismatch]" in capsys.readouterr().err
    beside.write_text(told)
    (folder / "adapter.safetensors").write_text("trained anew")
    write(folder)
    assert main(command) == 2 and "[resume_mismatch]" in capsys.readouterr().err


def test_scores_comparison_and_report(run: Run, answered: tuple[Path, Path], tmp_path: Path) -> None:
    right, wrong = answered
    scored = run("evaluate", "score", right, wrong, "--metrics", "bleu,chrf")
    assert scored.returncode == 0 and scored.stderr == ""
    assert "fra -> eng" in scored.stdout and "100.0" in scored.stdout
    compared = run("evaluate", "compare", wrong, right, "--metric", "bleu")
    line = compared.stdout.splitlines()[1].split()
    assert line[:3] == ["fra", "->", "eng"] and float(line[-2]) > 50 and float(line[-1]) < 0.05
    reported = run(
        "evaluate", "report", tmp_path / "right.scores.csv", tmp_path / "wrong.scores.csv", "--metric", "chrf",
        "--out", tmp_path / "report",
    )  # fmt: skip
    assert reported.stdout.strip() == str(tmp_path / "report" / "report.md"), reported.stderr
    assert (tmp_path / "report" / "directions-wrong.png").is_file()


def test_wrong_words(run: Run, answered: tuple[Path, Path], tmp_path: Path) -> None:
    right, _ = answered
    out = tmp_path / "out.jsonl"
    refused(run("evaluate"), "usage")
    refused(run("evaluate", "run", tmp_path / "none.jsonl", "--out", out), "manifest_not_readable")
    refused(run("evaluate", "run", right, "--out", out, "--mt", "x"), "usage")
    refused(run("evaluate", "run", right, "--out", out, "--key-file", "x"), "usage")
    refused(run("evaluate", "run", right, "--out", out), "manifest_no_audio")
    refused(run("evaluate", "score", right, "--metrics", "meteor"), "usage")
    said = refused(run("evaluate", "score", right, "--metrics", "bleu", "--comet"), "comet_missing")
    assert "--comet-python" in said
    refused(run("evaluate", "compare", right, tmp_path / "none.jsonl"), "manifest_not_readable")
    refused(run("evaluate", "report", right, "--out", tmp_path / "report"), "scores_not_readable")
    assert not out.exists()
