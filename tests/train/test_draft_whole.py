"""A drafter made whole, of a small model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from esrt import hub
from esrt.decoding import drafter
from esrt.errors import UsageError
from esrt.model import checkpoint
from esrt.train.draft import Plan, make
from esrt.train.draft_batches import Source
from esrt.train.features import Features
from esrt.train.manifest import Row, write_manifest
from esrt.wire.codecs import encode
from tests.model import tiny

PLAN = Plan(2, ("deu",), {"clips": 1.0}, steps=3, batch=2, warmup=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A ready model of three layers, and a folder with a manifest of clips whose frames are cached."""
    folder = tmp_path_factory.mktemp("whole")
    delta = tiny.save_delta(folder, layers=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESRT_CACHE", str(folder / "cache"))
        ready = hub.resolve(str(delta))
    dice, features, rows = np.random.default_rng(0), Features(folder / "data" / "features", tiny.WIDTH), []
    for number in range(120):
        audio = str(folder / "data" / f"{number}.wav")
        features.append(audio, dice.standard_normal((20 + number % 40, tiny.WIDTH)))
        rows.append(Row(str(number), audio, "eng", "deu", f"a reference {number}", "ein Satz"))
    write_manifest(folder / "data" / "clips.jsonl", rows)
    return ready, folder / "data"


def test_a_drafter_is_made_and_drafts(whole: tuple[Path, Path], tmp_path: Path) -> None:
    ready, data = whole
    made = make(str(ready), PLAN, data, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and 0 <= lines[-1]["held_back_right"] <= 1
    (made / "gate.json").write_text("{}")
    assert make(str(ready), PLAN, data, tmp_path / "run") == made and (made / "gate.json").exists()
    drafts, rows = drafter.load(made), np.zeros((8, tiny.WIDTH), np.float32)
    drafts.listen(encode(rows, "int8", checkpoint.load_tables(ready), checkpoint.fingerprint(ready)))
    assert 0 < drafts.next([]).first <= 1


def test_clips_without_frames(whole: tuple[Path, Path], tmp_path: Path) -> None:
    write_manifest(tmp_path / "clips.jsonl", [Row("a", "a.wav", "eng", "", "Hello.", "")])
    with pytest.raises(UsageError) as caught:
        make(str(whole[0]), PLAN, tmp_path, tmp_path / "run")
    assert caught.value.code == "no_features"


def test_frames_of_another_encoder(whole: tuple[Path, Path], tmp_path: Path) -> None:
    features = Features(tmp_path / "features", tiny.WIDTH)
    features.append("a.wav", np.ones((20, tiny.WIDTH)))
    about = {"width": tiny.WIDTH, "context": "speech", "weights": "another"}
    (tmp_path / "features" / "encoder.json").write_text(json.dumps(about))
    with pytest.raises(UsageError) as caught:
        Source(PLAN, whole[0], tmp_path)
    assert caught.value.code == "features_differ"


def test_a_run_that_goes_on_draws_the_same_captions(whole: tuple[Path, Path], tmp_path: Path) -> None:
    ready, _ = whole
    dice, features = np.random.default_rng(0), Features(tmp_path / "features", tiny.WIDTH)
    captions, rows = tuple("a" * length for length in range(1, 30)), []
    for number in range(120):
        audio = str(tmp_path / f"{number}.wav")
        features.append(audio, dice.standard_normal((20, tiny.WIDTH)))
        rows.append(Row(str(number), audio, "eng", "eng", f"a reference {number}", "", captions))
    write_manifest(tmp_path / "clips.jsonl", rows)

    def source() -> Source:
        return Source(PLAN, ready, tmp_path)

    through, resumed = source(), source()
    before = [through.batch(step)[1].ids for step in range(3)]
    held = [answers.ids for _, answers in resumed.held_back()]
    assert held and torch.equal(resumed.batch(2)[1].ids, before[2])
    assert all(torch.equal(one.ids, ids) for (_, one), ids in zip(resumed.held_back(), held, strict=True))
