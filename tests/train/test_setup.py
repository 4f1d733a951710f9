"""What a run keeps of its texts: classes that a checkpoint has rows for, and those that may grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from esrt.errors import UsageError
from esrt.train.manifest import Row
from esrt.train.setup import vocabularies
from tests.train.conftest import Letters

FIRST = [Row("1", "1.wav", "eng", "deu", "abc", "xy")]
MORE = [*FIRST, Row("2", "2.wav", "eng", "deu", "abd", "z")]


def test_later_stages_may_have_other_words(tmp_path: Path) -> None:
    path = tmp_path / "vocabularies.json"

    def of(rows: list[Row], heard: list[Row]) -> tuple[list[int], list[int]]:
        return vocabularies(path, rows, Letters(), Letters(), [1], heard)

    began = of(FIRST, FIRST)
    assert began == ([10, 11, 12], [1, 10, 11, 12, 33, 34])
    assert of(FIRST, FIRST) == began, "a resumed run"
    with pytest.raises(UsageError) as refused:
        of(MORE, MORE)
    assert refused.value.code == "new_words" and str(tmp_path) in str(refused.value)
    assert of(FIRST, FIRST) == began
    grown = of(MORE, FIRST)
    assert grown == (began[0], [1, 10, 11, 12, 13, 33, 34, 35])
    assert of(FIRST, FIRST) == grown, "a run that goes on draws from the same classes, whichever stages are named"
