"""Manifests: what is written is read; what is wrong is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esrt.errors import UsageError
from esrt.train.manifest import Row, held_out, read_manifest, write_manifest

ROW = Row("a", "clips/a.wav", "eng", "deu", "Good morning.", "Guten Morgen.")


def test_round_trip_makes_paths_absolute(tmp_path: Path) -> None:
    assert write_manifest(tmp_path / "m.jsonl", [ROW]) == 1
    (row,) = read_manifest(tmp_path / "m.jsonl")
    assert row.audio == str(tmp_path / "clips/a.wav")
    assert (row.id, row.src, row.tgt, row.asr, row.s2tt) == ("a", "eng", "deu", "Good morning.", "Guten Morgen.")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        json.dumps({"id": "a"}),
        json.dumps({**ROW.__dict__, "src": "xxx"}),
        json.dumps({**ROW.__dict__, "tgt": "german"}),
        json.dumps({**ROW.__dict__, "asr": 7}),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(ROW.__dict__) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 3") as caught:
        read_manifest(path)
    assert caught.value.code == "manifest_bad_row"


def test_missing_and_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    for name, code in (("none.jsonl", "manifest_not_readable"), ("empty.jsonl", "manifest_empty")):
        with pytest.raises(UsageError) as caught:
            read_manifest(tmp_path / name)
        assert caught.value.code == code


def test_a_fifth_is_held_out() -> None:
    share = sum(held_out(f"prompt-{n}") for n in range(5000)) / 5000
    assert 0.17 < share < 0.23
