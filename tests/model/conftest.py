"""Base weights of a small size, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model import tiny


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small Gemma 3 and its tokenizer, as the Hub has it: without tags."""
    folder = tmp_path_factory.mktemp("gemma")
    tiny.save_gemma(folder)
    return folder


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small Whisper, as the Hub has it."""
    folder = tmp_path_factory.mktemp("whisper")
    tiny.save_whisper(folder)
    return folder
