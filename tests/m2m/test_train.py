"""Training on clips with made-up frames: the losses, what each stage moves, and a run that goes on bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from esrt.errors import UsageError
from esrt.m2m import recipes, train
from esrt.m2m.batches import IGNORED, Batch
from esrt.m2m.engine import Engine
from esrt.m2m.generate import Drafting, generate
from esrt.m2m.model import M2M, load, save
from esrt.m2m.network import Network, Parts
from esrt.m2m.prune import Size
from esrt.m2m.recipes import Stage, Weights
from esrt.m2m.train import Trainer, build, merged
from esrt.train import parallel
from esrt.train.checkpoint import RUN
from esrt.train.features import Features
from tests.m2m.conftest import recipe, tiny, trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


@pytest.mark.parametrize("stopped", [("joint", 4), ("drafters", 4)])
def test_a_stopped_run_goes_on_bit_for_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: tuple[str, int]
) -> None:
    monkeypatch.setattr(train, "SAVE_EVERY", 3)
    whole = trainer(data, tmp_path / "whole")
    whole.run()
    parts = trainer(data, tmp_path / "parts")
    step = parts.step

    def until(stage: Stage, number: int) -> dict[str, float]:
        if (stage.name, number) == stopped:
            raise KeyboardInterrupt
        return step(stage, number)

    monkeypatch.setattr(parts, "step", until)
    with pytest.raises(KeyboardInterrupt):
        parts.run()
    again = trainer(data, tmp_path / "parts")
    again.run()
    first, second = weights(whole), weights(again)
    assert all(torch.equal(first[name], second[name]) for name in first)
    before = weights(trainer(data, tmp_path / "fresh"))
    assert not all(torch.equal(first[name], before[name]) for name in first)


def test_a_model_takes_frames_of_its_own_encoder_only(data: Path, tmp_path: Path) -> None:
    own = tiny(0).whisper.model.encoder.state_dict()
    known = {"width": 16, "context": "speech", "weights": Features(tmp_path / "none", 16).check(own)}
    described = data / "features" / "encoder.json"
    described.write_text(json.dumps(known), encoding="utf-8")
    trainer(data, tmp_path / "run")
    described.write_text(json.dumps(known | {"weights": "of an encoder that was trained"}), encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        trainer(data, tmp_path / "again")
    assert refused.value.code == "features_differ"


def losses(network: Network, batch: Batch, of: Weights) -> dict[str, float]:
    with torch.no_grad():
        return {name: value.item() for name, value in network(batch, of, False)._asdict().items()}


def test_the_joint_loss_and_its_gate(data: Path, tmp_path: Path) -> None:
    """2 ST + 1 MT + 0.5 KL + 0.2 spec; the text teaches only once it is the better of the two."""
    made = trainer(data, tmp_path / "run")
    batch, paper = made.batches.batch(made.recipe.stages[0], 0), Weights()
    alone = losses(made.network, batch, Weights(draft=0.0))
    assert alone["total"] == pytest.approx(2 * alone["speech"] + alone["text"] + 0.5 * alone["teach"], rel=1e-5)
    joint = losses(made.network, batch, paper)
    assert joint["draft"] > 0
    assert joint["total"] == pytest.approx(alone["total"] + 0.2 * joint["draft"], rel=1e-5)


@pytest.mark.parametrize(("speech", "text", "taught"), [(2.0, 1.0, True), (1.0, 2.0, False)])
def test_who_reads_worse_than_it_hears_teaches_nobody(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: float, text: float, taught: bool
) -> None:
    made = trainer(data, tmp_path / "run")
    batch = made.batches.batch(made.recipe.stages[0], 0)
    count = int((batch.labels != IGNORED).sum())
    classes = len(batch.known())
    parts = [
        Parts(torch.tensor(loss), torch.tensor(loss), torch.randn(count, classes), torch.randn(count, 9))
        for loss in (speech, text)
    ]
    monkeypatch.setattr(made.network, "_branch", lambda *_: parts.pop(0))
    found = losses(made.network, batch, Weights())
    assert (found["teach"] > 0) == taught
    assert (found["draft"] > 2 * speech + text) == taught


def test_a_stage_moves_what_it_says(data: Path, tmp_path: Path) -> None:
    made = trainer(data, tmp_path / "run", stages=(Stage("b", "all", 2, 4, 1e-3, 1, 2, Weights(1.0, 0.0, 0.0, 0.0)),))
    assert made.network.text is None
    before = weights(made)
    made.begin(made.recipe.stages[0])
    made.step(made.recipe.stages[0], 0)
    moved = {name for name, value in weights(made).items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("decoder.") for name in moved)
    assert "decoder.embed_tokens.weight" not in moved
    before = weights(made)
    drafters = recipe().stages[1]
    made.begin(drafters)
    made.step(drafters, 0)
    moved = {name for name, value in weights(made).items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"kvspn", "medusa"}


def test_drafters_learn_to_foresee_their_base(data: Path, tmp_path: Path) -> None:
    base = Stage("base", "all", 60, 6, 3e-3, 5, 2, Weights(1.0, 0.0, 0.0, 0.0))
    stage = Stage("drafters", "drafters", 50, 6, 3e-3, 5, forks=2)
    made = trainer(data, tmp_path / "run", stages=(base, stage), augment=False)

    def kept(drafting: Drafting) -> float:
        engine, batch = Engine(made.base), made.batches.batch(stage, 1)
        state = engine.start(batch.sound, batch.lengths.tolist(), 33, 2)
        found = generate(engine, state, batch.ids[:, :3], 30, drafting)
        return found.kept / found.guesses

    every = (Drafting(), Drafting(most=2, gate=99.0))
    made.begin(base)
    for step in range(base.steps):
        made.step(base, step)
    before = [kept(drafting) for drafting in every]
    made.begin(stage)
    shown = [made.step(stage, step) for step in range(stage.steps)]
    after = [kept(drafting) for drafting in every]
    assert all(a > b + 0.1 for a, b in zip(after, before, strict=True)), (before, after)
    assert shown[-1]["draft"] < shown[0]["draft"] and shown[-1]["guessed"] > shown[0]["guessed"]


def test_an_encoder_with_lora(data: Path, tmp_path: Path) -> None:
    """All but the last layers learn through LoRA, those as they are; merged, they are one encoder again."""
    model = load(data.parent / "start")
    network = Network(model, recipe(encoder="lora", free=1, lora_rank=2, lora_alpha=4))
    assert network.encoder is not None
    free = {name for name, value in network.encoder.named_parameters() if value.requires_grad}
    assert any(name.startswith("layers.0.") for name in free)
    assert all("lora_" in name for name in free if not name.startswith("layers.1."))
    whole = {name for name, _ in network.encoder.named_parameters() if name.startswith("layers.1.")}
    assert whole <= free and not any("lora_" in name for name in whole)
    for name, value in network.encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    mel = torch.randn(1, 80, 40)
    with torch.no_grad():
        trained = network.encoder.eval()(mel)
        state = merged(network.encoder)
        model.whisper.model.encoder.load_state_dict(state)
        from esrt.m2m.offline import speech_encoder

        assert torch.allclose(speech_encoder(model)(mel), trained, atol=1e-4)


def test_sound_itself_where_the_encoder_trains(tmp_path: Path) -> None:
    """The paper's recipe in small: log-mel of real clips, LoRA, text encoder, KVSPN, all losses at once."""
    clips = sorted((Path(__file__).parents[1] / "data" / "held_out").glob("*.flac"))
    row = {"src": "eng", "tgt": "fra", "asr": "to the sea", "s2tt": "a la mer"}
    lines = [json.dumps(row | {"id": clip.stem, "audio": str(clip)}) for clip in clips]
    (tmp_path / "m.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    save(tiny(0), tmp_path / "start")
    stage = Stage("joint", "all", 2, 2, 1e-3, 1)
    paper = recipe(encoder="lora", free=1, lora_rank=2, lora_alpha=4, stages=(stage,), augment=False)
    model = train.train(paper, tmp_path, tmp_path / "run", tmp_path / "start")
    assert load(model).kvspn is not None
    before, after = load(tmp_path / "start"), load(model)
    name = "layers.0.self_attn.q_proj.weight"
    assert not torch.equal(
        before.whisper.model.encoder.state_dict()[name], after.whisper.model.encoder.state_dict()[name]
    )


def test_a_pruned_model_learns_from_the_whole_one(data: Path, tmp_path: Path) -> None:
    learn = Stage("distil", "all", 20, 4, 2e-3, 2, 2, Weights(1.0, 0.0, 1.0, 0.0))
    small = recipe(stages=(learn, Stage("drafters", "drafters", 2, 4, 1e-3, 1, 2)))
    folder = train.train(small, data, tmp_path / "run", data.parent / "start", Size(2, 1, 20), "int8")
    found = load(folder)
    assert found.config.layers == 2 and found.config.trimmed and found.config.precision == "int8"
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    taught = [line["teach"] for line in log if "teach" in line]
    assert taught[-1] < taught[0]


def test_a_pruned_model_learns_from_what_the_whole_one_did() -> None:
    for made in (recipes.m2m_base(), recipes.m2m_medium_12()):
        assert recipes.pruned(f"{made.model.name}-pruned").weights == made.weights
    assert recipes.pruned("of mine").weights == recipes.m2m_base().weights


def test_numbers_of_steps() -> None:
    short = recipes.with_steps(recipes.m2m_base(), [8, 4])
    assert [stage.steps for stage in short.stages] == [8, 4]
    assert all(stage.warmup <= stage.steps for stage in short.stages)
    with pytest.raises(UsageError):
        recipes.with_steps(recipes.m2m_base(), [8])


def test_unequal_parts(make: Callable[..., M2M]) -> None:
    """Half of a batch is half of its clips with all of their rows."""
    clips, rows = torch.arange(4)[:, None], torch.arange(8)[:, None]
    batch = Batch(clips, clips, rows, rows, clips, clips, torch.arange(3))
    half = train._parts(batch, 2, 1)
    assert half.lengths[:, 0].tolist() == [2, 3] and half.ids[:, 0].tolist() == [4, 5, 6, 7]


def test_a_batch_that_cannot_be_shared_out_is_refused(data: Path, tmp_path: Path) -> None:
    """Else the clips that are over would be left out of every step."""
    with pytest.raises(UsageError) as refused:
        trainer(data, tmp_path / "run", accumulate=3)
    assert refused.value.code == "batch_not_divisible"


def test_deepspeed_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    monkeypatch.setattr(parallel, "start", lambda *_: launched)
    with pytest.raises(UsageError) as refused:
        trainer(data, tmp_path / "run")
    assert refused.value.code == "deepspeed_stage"


def test_one_process_writes_the_model(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(data, tmp_path / "run")
    for main in (False, True):
        monkeypatch.setattr(made, "accelerator", SimpleNamespace(is_main_process=main, unwrap_model=lambda it: it))
        assert train.finish(made) == tmp_path / "run" / "model"
        assert (tmp_path / "run" / "model").is_dir() == main


def test_a_folder_has_one_run(data: Path, tmp_path: Path) -> None:
    """What a state is of stays: recipe, model and size."""
    stage = Stage("distil", "all", 1, 4, 1e-3, 1, 2, Weights(1.0, 0.0, 1.0, 0.0))
    mine, start, size, run = recipe(stages=(stage,)), data.parent / "start", Size(2, 1, 20), tmp_path / "run"
    build(mine, data, run, start, size).run()
    build(mine, data, run, start, size)
    save(tiny(1), tmp_path / "other")
    others = [
        (replace(mine, name="other"), start, size), (mine, tmp_path / "other", size), (mine, start, Size(3, 1, 20)),
        (mine, start, None),
    ]  # fmt: skip
    for whose, begun, left in others:
        with pytest.raises(UsageError) as refused:
            build(whose, data, run, begun, left)
        assert refused.value.code == "resume_mismatch"
    # A state of an older version has nothing beside it; its stage still has to be one of the recipe's.
    (run / RUN).unlink()
    build(mine, data, run, start, size)
    with pytest.raises(UsageError) as refused:
        build(recipe(), data, run, start, size)
    assert refused.value.code == "resume_mismatch"


def test_a_model_is_not_pruned_in_its_own_place(data: Path, tmp_path: Path) -> None:
    save(tiny(0), tmp_path / "run" / "model")
    learn = Stage("distil", "all", 1, 4, 1e-3, 1, 2, Weights(1.0, 0.0, 1.0, 0.0))
    with pytest.raises(UsageError, match="name another --run"):
        build(recipe(stages=(learn,)), data, tmp_path / "run", tmp_path / "run" / "model", Size(2, 1, 20))


def test_a_run_from_a_model_is_of_its_languages(data: Path, tmp_path: Path) -> None:
    model = tiny(0)
    model.config = replace(model.config, languages=("eng", "fra"))
    save(model, tmp_path / "two")
    batches = build(recipe(), data, tmp_path / "run", tmp_path / "two").batches
    assert batches.spoken == [model.prompt(code)[1] for code in ("eng", "fra")]
    asked = {int(token) for step in range(8) for token in batches.batch(recipe().stages[0], step).ids[:, 1]}
    assert asked == set(batches.spoken)
