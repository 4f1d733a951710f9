"""Codebooks from training clips: they fit what they were made from, and go into the model folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from esrt.config import ModelConfig
from esrt.errors import UsageError
from esrt.model import checkpoint, manifest
from esrt.model.qformer import QFormer
from esrt.train import adapter_rows, codebooks
from esrt.train.features import Features
from esrt.train.manifest import Row, write_manifest
from esrt.wire.codecs import Tables, decode, encode
from tests.model import tiny

pytest.importorskip("faiss")

QUERIES, WIDTH = 8, 16


def rows(seed: int, clips: int = 1100) -> npt.NDArray[np.float32]:
    """Rows of which few directions hold the most, around a mean of each query; a channel of large values."""
    dice = np.random.default_rng(seed)
    fixed = np.random.default_rng(0)
    directions = fixed.standard_normal((WIDTH, WIDTH)) * 0.6 ** np.arange(WIDTH)[:, None]
    made = fixed.standard_normal((QUERIES, WIDTH)) + dice.standard_normal((clips, QUERIES, WIDTH)) @ directions
    made[..., 3] = 40 + 5 * made[..., 3]
    return made.astype(np.float32)


@pytest.fixture(scope="module")
def tables() -> Tables:
    made = codebooks.books(rows(1), np.eye(WIDTH, dtype=np.float32)) | codebooks.int4(rows(1))
    arrays = {name: tensor.numpy() for name, tensor in made.items()}
    return checkpoint.tables_of({"int8_scale": np.full(WIDTH, 0.5, np.float32), **arrays})


def test_each_longer_codec_loses_less_of_clips_that_were_not_trained_on(tables: Tables) -> None:
    clips = rows(2, 40)
    mean = rows(1).mean(0)
    lost = []
    for codec in ("rvq8", "rvq16", "rvq32", "int4"):
        got = np.stack([decode(encode(clip, codec, tables, bytes(8)), tables) for clip in clips])
        lost.append(float(np.square(got - clips).sum() / np.square(clips - mean).sum()))
    assert 0.1 > lost[0] > lost[1] > lost[2]
    assert lost[2] < 0.01 and lost[3] < 0.05


def test_int4_takes_the_step_that_loses_least() -> None:
    """Of normal values in 16 even levels: 0.335 standard deviations (Max, 1960)."""
    scale = codebooks.int4(np.random.default_rng(0).normal(7, 2, (100, 40, 3)))["int4_scale"]
    assert (scale / 2 - 0.335).abs().max() < 0.02


def test_what_the_projector_does_not_see_is_not_coded() -> None:
    seen = np.eye(WIDTH, dtype=np.float32)
    seen[3] = 0  # the channel of large values
    tensors = codebooks.books(rows(1), seen)
    made = checkpoint.tables_of(
        {"int8_scale": np.ones(WIDTH, np.float32), **{n: t.numpy() for n, t in tensors.items()}}
    )
    assert made.codebooks is not None
    clip = rows(2, 1)[0]
    other = clip.copy()
    other[:, 3] += 1
    np.testing.assert_array_equal(made.codebooks.search(clip, 32), made.codebooks.search(other, 32))


def test_a_layer_norm_behind_the_first_matrix_counts() -> None:
    first = nn.Linear(4, 3)
    plain = codebooks.metric(nn.Sequential(first, nn.ReLU()))
    centred = codebooks.metric(nn.Sequential(first, nn.LayerNorm(3)))
    np.testing.assert_array_equal(plain, first.weight.detach().numpy().T)
    assert np.abs(centred.mean(1)).max() < 1e-6 and np.abs(plain.mean(1)).max() > 1e-3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trained model, and a manifest with clips whose frames are cached."""
    whisper = tmp_path / "whisper"
    whisper.mkdir()
    save_file({"encoder.x": torch.zeros(1)}, whisper / "model.safetensors")
    config = tiny.config(whisper, whisper)
    checkpoint.save(tmp_path / "model", tiny.delta(config), small=True)
    data, dice = tmp_path / "data", np.random.default_rng(0)
    features = Features(data / "features", tiny.WIDTH)
    clips = []
    for number in range(1100):
        audio = str(data / f"{number}.wav")
        features.append(audio, dice.standard_normal((0 if number == 5 else 3 + number % 4, tiny.WIDTH)))
        clips.append(Row(str(number), audio, "eng", "", "text", ""))
    write_manifest(data / "clips.jsonl", clips)
    return tmp_path


def test_a_model_folder_gets_its_tables(folder: Path) -> None:
    model, data = folder / "model", folder / "data"
    before = checkpoint.load_delta(model)
    codebooks.run(model, data, ["clips"], 1100)
    manifest.check(model)
    tables = checkpoint.load_tables(model)
    assert tables.codecs == ["bf16", "int8", "int4", "rvq8", "rvq16", "rvq32"]
    after = checkpoint.load_delta(model)
    assert torch.equal(after.int8_scale, before.int8_scale) and after.codec
    config = ModelConfig.load(model / "config.json")
    adapter: QFormer = adapter_rows.load_adapter(model, config)
    features = Features(data / "features", tiny.WIDTH)
    heard = [rows.half().numpy() for _, rows in adapter_rows.batches(adapter, features, list(features.index))]
    made = np.concatenate(heard)
    assert made.shape == (1099, 8, tiny.WIDTH), "a clip without frames is left out"
    clip = made[700].astype(np.float32)
    got = decode(encode(clip, "rvq32", tables, bytes(8)), tables)
    assert np.square(got - clip).sum() < 0.05 * np.square(clip - made.mean(0, dtype=np.float32)).sum()
    books = tables.codebooks
    assert books is not None
    codebooks.run(model, data, ["clips"], 1100)
    again = checkpoint.load_tables(model).codebooks
    assert again is not None and np.array_equal(again.words, books.words), "nothing is left to chance"


def test_what_cannot_be_trained(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        codebooks.run(folder / "model", folder / "data", ["clips"], 10)
    assert caught.value.code == "too_few_clips"
    assert checkpoint.load_tables(folder / "model").codecs == ["bf16", "int8"], "nothing was changed"
    for name in ("llm", "whisper"):
        (folder / "model" / name).mkdir()
    (folder / "model" / "edge.onnx").touch()
    with pytest.raises(UsageError) as caught:
        codebooks.run(folder / "model", folder / "data", ["clips"], 1100)
    assert caught.value.code == "model_is_built"
