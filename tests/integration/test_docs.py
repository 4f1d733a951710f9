"""docs/python-api.md and docs/sidecar.md keep their word: marked blocks run, against a real cloud and sidecar."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import esrt

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^<!-- run -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON_API = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
SIDECAR = (ROOT / "docs" / "sidecar.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, keyed_server: tuple[Any, Path]) -> Path:
    """Where the examples run: with the sample clips, and a key that the cloud knows."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copy(keyed_server[1], tmp_path / "laptop.key")
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_python_api(folder: Path, model: Path, keyed_server: tuple[Any, Path]) -> None:
    """All blocks in one process, which takes a fraction of the time: each still imports all that it uses."""
    blocks = [text.replace("http://127.0.0.1:8080", keyed_server[0].url) for _, text in BLOCK.findall(PYTHON_API)]
    assert len(blocks) >= 6
    printed = run([sys.executable, "-c", "".join(f"exec({block!r}, {{}})\nprint('--')\n" for block in blocks)], folder)
    outputs = [text.strip() for text in printed.split("--\n")[:-1]]
    assert len(outputs) == len(blocks) and all(outputs)
    assert any(text.startswith("unauthorized ") for text in outputs)


def test_every_public_name_is_described() -> None:
    for name in esrt.__all__:
        assert f"`{name}`" in PYTHON_API or name == "__version__", name


def test_programs_of_the_sidecar(
    folder: Path, keyed_server: tuple[Any, Path], start_sidecar: Callable[..., Any]
) -> None:
    sidecar = start_sidecar("--cloud", keyed_server[0].url, "--key-file", keyed_server[1])
    blocks = BLOCK.findall(SIDECAR.replace("http://127.0.0.1:8081", sidecar.url))
    assert [language for language, _ in blocks] == ["python", "sh"]
    assert run([sys.executable, "-c", blocks[0][1]], folder)
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    assert run(["bash", "-euc", blocks[1][1]], folder)


def test_the_sidecar_commands_parse() -> None:
    from esrt.cli.main import parser

    commands = re.findall(r"^esrt (.+)$", SIDECAR, re.MULTILINE)
    assert commands and all(parser().parse_args(command.split()).run for command in commands)
