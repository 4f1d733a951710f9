"""Training on clips with made-up frames: the losses, what each stage moves, and a run that goes on bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from esrt.errors import UsageError
from esrt.m2m import recipes, train
from esrt.m2m.batches import IGNORED, Batch, vocabulary, within
from esrt.m2m.engine import Engine
from esrt.m2m.generate import Drafting, generate
from esrt.m2m.model import M2M, load, save
from esrt.m2m.network import Network, Parts
from esrt.m2m.prune import Size
from esrt.m2m.recipes import Recipe, Stage, Weights
from esrt.m2m.train import Trainer, build, merged
from esrt.train.checkpoint import RUN
from esrt.train.features import Features
from esrt.train.manifest import Row, read_manifest
from tests.m2m.conftest import tiny

WORDS = ["a", "cat", "and", "a", "dog", "go", "out", "to", "see", "the", "sea", "and", "the", "sun"]
CLIPS = 24


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A manifest of clips in three languages, their frames, and a model to begin with."""
    folder = tmp_path / "data"
    features = Features(folder / "features", 16)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(CLIPS):
        text = " ".join(WORDS[number % 5 : number % 5 + 2 + number % 4])
        source = ("eng", "fra", "deu")[number % 3]
        row = {"id": f"{number}", "audio": f"{number}.wav", "src": source, "tgt": "", "asr": text, "s2tt": ""}
        lines.append(row)
        lines += [row | {"tgt": code, "s2tt": text[::-1]} for code in ("eng", "fra", "deu") if code != source]
        features.append(str(folder.resolve() / f"{number}.wav"), rng.standard_normal((4 + number % 6, 16)))
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "m.jsonl").write_text(text + "\n", encoding="utf-8")
    save(tiny(0), tmp_path / "start")
    return folder


def recipe(**fields: object) -> Recipe:
    stages = (
        Stage("joint", "all", 6, 4, 1e-3, 2, forks=2),
        Stage("drafters", "drafters", 6, 4, 1e-3, 2, forks=2),
    )
    whole = Recipe("tiny", tiny(0).config, stages, {"m": 1.0}, "frozen", text_layers=2, augment=True, bf16=False)
    return replace(whole, **fields)  # type: ignore[arg-type]


def trainer(data: Path, run: Path, **fields: object) -> Trainer:
    return build(recipe(**fields), data, run, data.parent / "start")


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
