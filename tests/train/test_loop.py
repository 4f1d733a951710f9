"""The loop on a tiny network: what a step does, what it leaves alone, where it starts and why it stops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from esrt.config import AdapterConfig
from esrt.errors import ModelError, UsageError
from esrt.model.checkpoint import Delta, save
from esrt.train.batches import answers
from esrt.train.checkpoint import Place, place, trained
from esrt.train.examples import Example
from esrt.train.features import Features
from esrt.train.loop import Trainer
from esrt.train.setup import warm_start
from tests.train.conftest import ADAPTER, FRAME_WIDTH, LLM_WIDTH, RECIPE, tiny_config, tiny_llm, tiny_network


def test_every_stage_lowers_its_loss(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()
    for stage in trainer.recipe.stages:
        key = "loss" if stage.objective == "llm" else "ctc"
        shown = [trainer.step(stage, step % stage.steps)[key] for step in range(40)]
        assert sum(shown[-4:]) < sum(shown[:4]), stage.name


def test_what_each_stage_moves(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()
    before = {name: value.detach().clone() for name, value in trainer.network.named_parameters()}
    trainer.step(trainer.recipe.stages[0], 1)
    moved = {
        name.split(".")[0] for name, value in trainer.network.named_parameters() if not torch.equal(value, before[name])
    }
    assert moved == {"adapter", "whisper_ctc"}
    for step in range(2):
        trainer.step(trainer.recipe.stages[2], step)
    moved_names = {name for name, value in trainer.network.named_parameters() if not torch.equal(value, before[name])}
    assert {"tags", "projector.0.weight"} <= moved_names
    assert any("lora_" in name for name in moved_names)
    assert not any(name.startswith("llm") and "lora_" not in name for name in moved_names), "the LLM's own weights stay"


def test_a_nan_stops_and_leaves_the_batch(make_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = make_trainer()
    stage = trainer.recipe.stages[2]
    with torch.no_grad():
        trainer.network.adapter.queries[0, 0] = torch.nan
    before = trainer.network.tags.detach().clone()
    with pytest.raises(ModelError, match="stage III, step 3") as caught:
        trainer.step(stage, 3)
    assert caught.value.code == "loss_not_finite" and str(tmp_path / "bad-batch.json") in str(caught.value)
    assert torch.equal(trainer.network.tags, before), "the weights stay"
    report = json.loads((tmp_path / "bad-batch.json").read_text())
    clips, _ = trainer.batches.sampler.batch("III", 3, stage.batch)
    assert (report["stage"], report["step"]) == ("III", 3)
    assert [sample["audio"] for sample in report["samples"]] == [clip.audio for clip in clips]
    assert all(math.isnan(sample["answer"]) for sample in report["samples"])


def test_no_words_are_learned_of_silence(make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip that turned out to be damaged, in a run whose frames are not kept."""
    trainer = make_trainer()
    features = trainer.batches.features
    for stage in trainer.recipe.stages:
        samples = trainer.batches.samples(stage, 0)
        monkeypatch.setattr(features, "silent", frozenset())
        whole = trainer.batches.tensors(stage, 0, samples, slice(0, 4))
        monkeypatch.setattr(features, "silent", frozenset({samples[1].clip.audio}))
        batch = trainer.batches.tensors(stage, 0, samples, slice(0, 4))
        silent = torch.tensor([sample.clip.audio in features.silent for sample in samples])
        assert batch.targets is not None and whole.targets is not None
        assert torch.equal(batch.targets.lengths, whole.targets.lengths * ~silent)
        assert len(batch.targets.tokens) == batch.targets.lengths.sum()
        if stage.objective == "llm":
            assert batch.answers is not None and whole.answers is not None
            assert torch.equal(batch.answers.learned.any(1), ~silent)
            assert torch.equal(batch.answers.learned[~silent], whole.answers.learned[~silent])
        assert all(map(math.isfinite, trainer.step(stage, 0).values()))


def test_a_frozen_llm_keeps_its_lora(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()
    frozen = replace(trainer.recipe.stages[2], lora_rate=0.0)
    before = {name: value.detach().clone() for name, value in trainer.network.llm.named_parameters()}
    for step in range(2):
        trainer.step(frozen, step)
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.llm.named_parameters())
    trainer.step(trainer.recipe.stages[2], 2)
    assert not all(torch.equal(value, before[name]) for name, value in trainer.network.llm.named_parameters())


def test_accumulated_and_recomputed_steps_are_the_same_steps(make_trainer: Callable[..., Trainer]) -> None:
    def shown(**fields: object) -> list[float]:
        trainer = make_trainer(**fields)
        return [trainer.step(stage, step)["ctc"] for stage in trainer.recipe.stages for step in range(3)]

    once = shown()
    assert shown(accumulate=2) == pytest.approx(once, rel=1e-4)
    assert shown(checkpointing=True) == pytest.approx(once, rel=1e-4)
    with pytest.raises(UsageError) as caught:
        shown(accumulate=3)
    assert caught.value.code == "batch_not_divisible"


def test_one_stage_alone_starts_from_the_state(make_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    first, _, last = RECIPE.stages
    make_trainer(stages=(first,)).run()
    trained = make_trainer(stages=(first,)).network.adapter.queries
    trainer = make_trainer(stages=(last,))
    trainer.run()
    assert not torch.equal(trainer.network.adapter.queries, trained)
    lines = (tmp_path / "log.jsonl").read_text()
    assert place(tmp_path) == Place("III", last.steps, False, trainer.balance.state)
    make_trainer(stages=(last,)).run()
    assert (tmp_path / "log.jsonl").read_text() == lines, "nothing is left to do"


def test_a_run_starts_from_a_model(make_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = make_trainer()
    for step in range(3):
        trainer.step(RECIPE.stages[2], step)
    network, config = trainer.network, tiny_config(ADAPTER)
    made = Delta(
        config, network.adapter.state_dict(), network.projector.state_dict(), torch.ones(8), network.tags.detach(), ""
    )
    save(tmp_path / "model", made, network.llm)
    started = tiny_network(tiny_llm())
    warm_start(started, tmp_path / "model")
    for name, value in trained(network).items():
        if "ctc" not in name:
            assert torch.equal(value, trained(started)[name]), name
    wider = tiny_network(tiny_llm(), adapter=replace(ADAPTER, queries=13))
    with pytest.raises(ModelError) as caught:
        warm_start(wider, tmp_path / "model")
    assert caught.value.code == "model_mismatch"


def test_stage_0_teaches_a_blip2_adapter(make_trainer: Callable[..., Trainer]) -> None:
    """Its width is not Whisper's, so its CTC head starts afresh."""
    trainer = make_trainer(
        adapter=AdapterConfig("blip2", queries=12, width=12, layers=2, heads=4, ffn=16, cross_every=2)
    )
    for stage in RECIPE.stages[:2]:
        shown = [trainer.step(stage, step % stage.steps)["ctc"] for step in range(40)]
        assert sum(shown[-4:]) < 0.95 * sum(shown[:4]), stage.name


def test_the_loss_equals_the_language_models_own() -> None:
    """Same rows, whole vocabulary: our restricted loss is transformers' loss over the same token ids."""
    llm = tiny_llm()
    ids = [12, 13, 95, 14, 15, 1]
    labels = torch.tensor([[-100, -100, *ids[2:]]])
    expected = llm(input_ids=torch.tensor([ids]), labels=labels).loss
    network = tiny_network(llm, dropout=0.0).eval()
    # The first token plays the audio: one row, exactly as the LLM sees it.
    audio = network.embed(torch.tensor([ids[:1]]))
    made = Example(tuple(ids[1:]), (False, *(True,) * 4), (0,) * 5)
    longer = Example(tuple(range(20, 27)), (False,) + (True,) * 6, (0,) * 7)
    losses, *_ = network.answer_loss(audio.expand(2, -1, -1), answers([made, longer]))
    assert torch.allclose(losses[0], expected, atol=1e-5)


def test_branches_do_not_see_each_other() -> None:
    """Two translations in one row of the batch cost what they cost apart."""
    network = tiny_network(tiny_llm(), dropout=0.0).eval()
    audio = torch.randn(1, 12, LLM_WIDTH)
    trunk, first, second = (12, 13, 95), (96, 20, 21, 1), (97, 22, 1)

    def loss(*branches: tuple[int, ...]) -> torch.Tensor:
        ids = sum(branches, trunk)
        learned = (False,) * 3 + tuple(n > 0 for branch in branches for n in range(len(branch)))
        branch = (0,) * 3 + tuple(k for k, branch in enumerate(branches, 1) for _ in branch)
        (loss,), *_ = network.answer_loss(audio, answers([Example(ids, learned, branch)]))
        whole: torch.Tensor = loss * sum(learned)
        return whole

    assert torch.allclose(loss(first, second), loss(first) + loss(second), atol=1e-4)
    assert not torch.allclose(loss(first, first), loss(first) + loss(second), atol=1e-2)


def test_interrupted_features_go_on(tmp_path: Path) -> None:
    features = Features(tmp_path, FRAME_WIDTH)
    first = np.ones((3, FRAME_WIDTH))
    features.append("a.wav", first)
    with (tmp_path / "frames.f16").open("ab") as file:
        file.write(b"half a clip")
    with (tmp_path / "index.jsonl").open("a") as file:
        file.write('["b.wav", 3')
    again = Features(tmp_path, FRAME_WIDTH)
    assert set(again.index) == {"a.wav"}
    again.append("b.wav", 2 * first)
    last = Features(tmp_path, FRAME_WIDTH)
    assert np.array_equal(last.get("a.wav"), first) and np.array_equal(last.get("b.wav"), 2 * first)
