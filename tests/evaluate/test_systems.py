"""ESRT's language model alone, which has to write as the service does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esrt import hub
from esrt.cloud.text import circles
from esrt.evaluate import systems
from esrt.evaluate.run import Clip
from esrt.model import checkpoint
from tests.model import tiny


def test_text_alone_writes_what_the_service_may_and_stops_where_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "cache"))
    tiny.save_gemma(tmp_path / "gemma")
    tiny.save_whisper(tmp_path / "whisper")
    letter = json.loads((tmp_path / "gemma" / "tokenizer.json").read_text())["model"]["vocab"]["a"]
    delta = replace(tiny.delta(tiny.config(tmp_path / "whisper", tmp_path / "gemma")), outputs=torch.tensor([letter]))
    checkpoint.save(tmp_path / "model", delta, small=True)
    system = systems.text_alone(hub.resolve(str(tmp_path / "model")), circles)
    [answer] = system([Clip("a.wav", "eng", "A cat.", ("deu",), named=True)])
    assert answer.translations == {"deu": "a"}  # of 32, at which it stops
