"""The finder: fitted on training clips, kept beside the model, and right about clips that it was not fitted on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from esrt.config import ModelConfig
from esrt.errors import ModelError, UsageError
from esrt.model import checkpoint, finder, manifest
from esrt.train import adapter_rows
from esrt.train import finder as fitting
from esrt.train.features import Features
from esrt.train.manifest import Row, write_manifest
from tests.model import tiny

CODES = ("deu", "fra", "rus")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trained model, and manifests of three languages whose frames are cached: each lies another way from zero."""
    whisper = tmp_path / "whisper"
    whisper.mkdir()
    save_file({"encoder.x": torch.zeros(1)}, whisper / "model.safetensors")
    checkpoint.save(tmp_path / "model", tiny.delta(tiny.config(whisper, whisper)), small=True)
    dice = np.random.default_rng(0)
    ways = dict(zip(CODES, dice.standard_normal((3, tiny.WIDTH)), strict=True))
    features = Features(tmp_path / "data" / "features", tiny.WIDTH)
    for name in ("clips", "others"):
        rows = []
        for number in range(120):
            code, audio = CODES[number % 3], str(tmp_path / "data" / f"{name}{number}.wav")
            features.append(audio, ways[code] + dice.standard_normal((0 if number == 7 else 4, tiny.WIDTH)))
            rows.append(Row(f"{name}{number}", audio, code, "", "text", ""))
        write_manifest(tmp_path / "data" / f"{name}.jsonl", rows)
    return tmp_path


def test_a_model_folder_gets_a_finder(folder: Path) -> None:
    model, data = folder / "model", folder / "data"
    assert finder.load(model) is None
    before = checkpoint.fingerprint(model)
    assert fitting.run(model, data, ["clips"], 1000, {"rus", "deu", "eng"}) == ["deu", "rus"]
    assert fitting.run(model, data, ["clips"], 1000) == list(CODES)
    manifest.check(model)
    assert checkpoint.fingerprint(model) == before, "devices need nothing new"
    find, features = finder.load(model), Features(data / "features", tiny.WIDTH)
    assert find is not None
    adapter = adapter_rows.load_adapter(model, ModelConfig.load(model / "config.json"))
    others = [audio for audio in features.index if "others" in audio]
    found = {
        audio: find(row.numpy())
        for audios, rows in adapter_rows.batches(adapter, features, others)
        for audio, row in zip(audios, rows, strict=True)
    }
    assert len(found) == 119, "a clip without frames is left out"
    right = sum(code == CODES[int(Path(audio).stem.removeprefix("others")) % 3] for audio, code in found.items())
    assert right > 110, "and of clips that it has not heard"


def test_what_a_language_may_have_of_a_manifest_is_bounded(folder: Path) -> None:
    rows = [Row(str(n), f"{n}.wav", "deu" if n % 4 else "fra", "", "text", "") for n in range(100)]
    drawn = fitting._draw(rows, 20)
    assert [code for _, code in drawn] == ["deu"] * 20 + ["fra"] * 20 and len(dict(drawn)) == 40
    assert drawn == fitting._draw(rows, 20), "nothing is left to chance"


def test_where_nothing_may_be_written_nothing_is_heard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    with pytest.raises(PermissionError):
        fitting.run(folder / "model", folder / "data", ["not-even-there"], 10)


def test_what_cannot_be_fitted_or_read(folder: Path) -> None:
    model, data = folder / "model", folder / "data"
    write_manifest(data / "one.jsonl", [Row("1", str(data / "clips0.wav"), "deu", "", "text", "")])
    with pytest.raises(UsageError) as refused:
        fitting.run(model, data, ["one"], 10)
    assert refused.value.code == "too_few_languages" and finder.load(model) is None, "nothing was changed"
    finder.save(model, CODES, torch.zeros(3, 4), torch.zeros(3))
    whole = (model / checkpoint.FINDER).read_bytes()
    save_file({"weight": torch.zeros(3, 4), "bias": torch.zeros(2)}, model / checkpoint.FINDER)
    for damage in (None, whole[:-9]):
        if damage is not None:
            (model / checkpoint.FINDER).write_bytes(damage)
        with pytest.raises(ModelError) as damaged:
            finder.load(model)
        assert damaged.value.code == "model_damaged"
    for name in ("llm", "whisper"):
        (model / name).mkdir()
    (model / "edge.onnx").touch()
    with pytest.raises(UsageError) as refused:
        fitting.run(model, data, ["clips"], 10)
    assert refused.value.code == "model_is_built"
