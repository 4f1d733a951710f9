"""A delta folder over small base weights, a cache where it is built, and no Hub."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from esrt import hub
from tests.model import tiny


@pytest.fixture(scope="session")
def delta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_delta(tmp_path_factory.mktemp("delta"))


@pytest.fixture(scope="session")
def built(delta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache after `resolve`."""
    cache = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESRT_CACHE", str(cache))
        hub.resolve(str(delta))
    return cache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no Hub."""
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "cache"
