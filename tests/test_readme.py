"""The README keeps its word: marked blocks run, every command line parses, every path in the tree is there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import esrt
from esrt.cli.main import VERBS, parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(<!-- run -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(bool(mark), language, text) for mark, language, text in BLOCK.findall(README)]
COMMANDS = [
    line.split("#")[0].split(">")[0].strip()
    for _, language, text in BLOCKS
    if language == "sh"
    for line in text.splitlines()
    if line.startswith("esrt ")
]


@pytest.mark.parametrize(("language", "text"), [(language, text) for marked, language, text in BLOCKS if marked])
def test_a_marked_block_runs(language: str, text: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = {"sh": ["bash", "-euc", text], "python": [sys.executable, "-c", text]}[language]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_there_are_marked_blocks() -> None:
    assert sum(marked for marked, _, _ in BLOCKS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses(command: str) -> None:
    assert parser().parse_args(shlex.split(command)[1:]).run


def test_every_verb_is_shown() -> None:
    shown = {command.split()[1] for command in COMMANDS}
    assert shown == {verb.__name__.rpartition(".")[2] for verb in VERBS}


def test_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_the_tree_is_the_tree() -> None:
    [tree] = [text for _, _, text in BLOCKS if text.startswith("esrt/\n")]
    folder = ROOT
    named = set()
    for line in tree.splitlines():
        name = line.split()[0]
        if line.startswith("  "):
            assert (ROOT / "esrt" / name).exists(), f"the tree names esrt/{name}"
            named.add(name.rstrip("/"))
        else:
            assert (folder / name).exists(), f"the tree names {name}"
    package = Path(esrt.__file__).parent
    there = {path.name for path in package.iterdir() if path.name != "__pycache__"}
    assert there - named <= {"__main__.py", "py.typed"}, "rooms that the tree does not name"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", README):
        assert (ROOT / target).exists(), target
