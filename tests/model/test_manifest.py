"""A folder that takes the place of another whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from esrt.model.manifest import whole_folder


def test_what_was_there_stays_when_its_place_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when somebody presses Ctrl-C between the two steps of the change."""
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")
    rename, asked = Path.rename, []

    def interrupted(path: Path, to: Any) -> Path:
        asked.append(to)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), whole_folder(target) as work:
        (work / "weights").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and (target / "weights").read_text() == "old"


def test_a_folder_named_by_a_link_or_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (tmp_path / "latest").symlink_to(target)
    for name, inside in ((tmp_path / "latest", tmp_path), (Path(), target)):
        monkeypatch.chdir(inside)
        with whole_folder(name) as work:
            (work / "weights").write_text(str(name))
        assert (target / "weights").read_text() == str(name)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "model"]
    assert (tmp_path / "latest").is_symlink()
