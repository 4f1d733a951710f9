"""What a batch asks of a model, and of whose words it knows nothing."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from esrt.m2m.batches import IGNORED, vocabulary, within
from esrt.m2m.model import save
from esrt.m2m.recipes import Stage
from esrt.m2m.train import build
from esrt.train.manifest import Row, read_manifest
from tests.m2m.conftest import recipe, tiny, trainer


def test_a_batch_says_what_it_should(data: Path, tmp_path: Path) -> None:
    made = trainer(data, tmp_path / "run")
    batches, stage = made.batches, made.recipe.stages[0]
    batch, model = batches.batch(stage, 3), made.base
    assert len(batch.ids) == 2 * len(batch.lengths) and batch.ids.shape == batch.labels.shape
    spoken = {model.prompt(code)[1] for code in model.config.languages}
    for ids, labels in zip(batch.ids.tolist(), batch.labels.tolist(), strict=True):
        assert ids[0] == model.prompt("eng")[0] and ids[1] in spoken and ids[2] == model.prompt("eng")[2]
        assert labels[0] in spoken and labels[1] == IGNORED
        said = [token for token in labels[2:] if token != IGNORED]
        assert said[-1] == model.end and ids[3 : 3 + len(said) - 1] == said[:-1]
    again = batches.batch(stage, 3)
    assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))


def test_only_known_languages_and_only_tokens_of_the_texts(data: Path) -> None:
    rows = read_manifest(data / "m.jsonl")
    kept = within(rows, ("eng", "fra"))
    assert kept and {row.src for row in kept} | {row.tgt for row in kept} == {"eng", "fra", ""}
    model = tiny(0)
    outputs, draft = vocabulary(model.tokenizer, {"m": rows}, {"m": 1.0}, ("eng",), 4)
    assert model.end in outputs.tolist()
    assert len(draft) == 4 and set(draft.tolist()) <= set(outputs.tolist())
    # What a manifest is drawn from decides, not how long it is.
    once = Row("1", "a.wav", "eng", "", "zzz", "")
    sizes = {"m": rows, "small": [once]}
    first, second = (
        vocabulary(model.tokenizer, sizes, {"m": share, "small": 1 - share}, ("eng",), 2)[1] for share in (0.999, 0.001)
    )
    assert first.tolist() != second.tolist()


def test_nothing_is_learned_of_a_damaged_clip(tmp_path: Path) -> None:
    """Where the encoder trains, a file turns out to be damaged in the middle of a run: another clip takes its place."""
    clip = next((Path(__file__).parents[1] / "data" / "held_out").glob("*.flac"))
    (tmp_path / "half.flac").write_bytes(clip.read_bytes()[:20_000])
    row = {"src": "eng", "tgt": "", "s2tt": ""}
    lines = [
        row | {"id": "a", "audio": str(clip), "asr": "to the sea"},
        row | {"id": "b", "audio": "half.flac", "src": "fra", "asr": "a cat"},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    save(tiny(0), tmp_path / "start")
    stage = Stage("joint", "all", 2, 8, 1e-3, 1)
    batches = build(
        recipe(encoder="lora", free=1, lora_rank=2, stages=(stage,), augment=False), tmp_path, tmp_path / "run",
        tmp_path / "start",
    ).batches  # fmt: skip
    assert {clip.transcript for clip in batches.sampler.batch("joint", 0, 8)[0]} == {"to the sea", "a cat"}
    batch = batches.batch(stage, 0)
    assert {batches.tokenizer.decode(ids.tolist(), skip_special_tokens=True) for ids in batch.source} == {"to the sea"}
    assert all(torch.equal(mel, batch.sound[0]) for mel in batch.sound) and batch.sound[0].std() > 0
