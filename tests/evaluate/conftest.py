"""What tests of evaluation share: short sounds, manifests, results."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from esrt.evaluate.results import Result, result
from esrt.train.manifest import Row

Make = Callable[[Sequence[tuple[str, str, str]]], Path]


def made(
    number: int, src: str, tgt: str, said: str, heard: str, wanted: str, translated: str, **more: object
) -> Result:
    """One result; `found` is the language that the system says it heard, `named` whether it was told."""
    row = Row(f"clip-{number}", f"{number}.wav", src, tgt, said, wanted)
    found = more.get("found", src)
    assert found is None or isinstance(found, str)
    return result(row, row.audio, bool(more.get("named")), found, heard, translated)


@pytest.fixture
def manifest(tmp_path: Path) -> Make:
    """`manifest([(clip, src, tgt), ...])` writes a manifest and a second of sound for each clip."""

    def make(rows: Sequence[tuple[str, str, str]]) -> Path:
        path = tmp_path / "data" / "test.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for clip, src, tgt in rows:
                sound = path.with_name(f"{clip}.wav")
                with wave.open(str(sound), "wb") as out:
                    out.setparams((1, 2, 16000, 0, "NONE", ""))
                    out.writeframes(np.zeros(16000, "<i2").tobytes())
                wanted = f"{clip} in {tgt}" if tgt else ""
                row = {"id": clip, "audio": sound.name, "src": src, "tgt": tgt, "asr": f"{clip} said", "s2tt": wanted}
                file.write(json.dumps(row) + "\n")
        return path

    return make
