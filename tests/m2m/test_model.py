"""The shapes of the paper, parity with transformers, and model folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from esrt.errors import ModelError, UsageError
from esrt.m2m import recipes
from esrt.m2m.beam import beam
from esrt.m2m.config import FILE, M2MConfig, token
from esrt.m2m.engine import Engine
from esrt.m2m.forward import decode, memories, padding
from esrt.m2m.generate import Drafting, generate
from esrt.m2m.kvspn import KVSPN, groups
from esrt.m2m.linear import linear
from esrt.m2m.model import M2M, find, kept_layers, load, save


def test_kvspn_has_the_papers_weights() -> None:
    """44.04 M in the matrices of three blocks of width 1024; vectors (biases, norms, the carry) are another 0.05 M."""
    with torch.device("meta"):
        kvspn = KVSPN(1024, 16, 12, 3)
    matrices = sum(p.numel() for p in kvspn.parameters() if p.ndim == 2)
    assert matrices == 44_040_192
    assert sum(p.numel() for p in kvspn.parameters()) - matrices < 60_000
    assert [len(group) for group in kvspn.groups] == [4, 4, 4]


@pytest.mark.parametrize(("layers", "blocks", "sizes"), [(12, 3, [4, 4, 4]), (6, 2, [3, 3]), (5, 2, [3, 2])])
def test_blocks_share_all_layers_out(layers: int, blocks: int, sizes: list[int]) -> None:
    found = groups(layers, blocks)
    assert [len(group) for group in found] == sizes
    assert [layer for group in found for layer in group] == list(range(layers))


def test_pruning_keeps_the_first_and_the_last_layer() -> None:
    assert kept_layers(24, 12) == [0, 2, 4, 6, 8, 10, 13, 15, 17, 19, 21, 23]
    assert kept_layers(6, 6) == list(range(6))
    assert kept_layers(6, 2) == [0, 5]


def test_the_papers_recipe() -> None:
    recipe = recipes.get("m2m-medium-12")
    (stage,) = recipe.stages
    assert (recipe.model.layers, recipe.model.blocks, recipe.text_layers) == (12, 3, 6)
    assert (recipe.lora_rank, recipe.lora_alpha, recipe.free) == (32, 64, 4)
    losses = stage.losses
    assert (losses.speech, losses.text, losses.teach, losses.draft) == (2.0, 1.0, 0.5, 0.2)
    assert (stage.rate, stage.warmup, stage.batch) == (1e-4, 5000, 64)
    with pytest.raises(UsageError, match="m2m-base"):
        recipes.get("m2m-huge")


def test_a_language_that_whisper_does_not_know() -> None:
    assert token("deu") == "<|de|>"
    with pytest.raises(UsageError) as refused:
        token("umb")
    assert refused.value.code == "language_not_in_whisper"


def frames_of(model: M2M, count: int = 2) -> Tensor:
    return torch.randn(count, 9, model.whisper.config.d_model, generator=torch.Generator().manual_seed(5))


def test_the_forward_pass_is_transformers_own(make: Callable[..., M2M]) -> None:
    model = make()
    frames, ids = frames_of(model), torch.randint(0, 34, (2, 7), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        theirs = model.decoder(input_ids=ids, encoder_hidden_states=frames).last_hidden_state
        ours = decode(model.decoder, ids, memories(model.decoder, frames)).hidden
        # Two languages of one clip share its memory.
        shared = decode(model.decoder, ids, memories(model.decoder, frames[:1]), fork=2).hidden
        alone = decode(model.decoder, ids, memories(model.decoder, frames[:1].repeat(2, 1, 1))).hidden
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(shared, alone, atol=1e-5)
    engine = Engine(model)
    state = engine.start(frames, [9, 9], 20)
    assert torch.allclose(engine.step(ids, state), theirs, atol=1e-5)


def test_greedy_is_what_transformers_generates(make: Callable[..., M2M]) -> None:
    for seed in range(5):
        model = make(seed)
        frames, prompts = frames_of(model, 1), torch.tensor([model.prompt("deu")])
        forbidden = [i for i in range(model.whisper.config.vocab_size) if i not in model.outputs.tolist()]
        made = model.whisper.generate(
            encoder_outputs=BaseModelOutput(frames), decoder_input_ids=prompts, max_new_tokens=10, do_sample=False,
            suppress_tokens=forbidden, num_beams=1,
        )  # fmt: skip
        theirs = [i for i in made[0].tolist() if i in model.outputs.tolist() and i != model.end]
        engine = Engine(model)
        assert generate(engine, engine.start(frames, [9], 20), prompts, 10).ids[0] == theirs


def test_drafts_are_those_of_training(make: Callable[..., M2M]) -> None:
    """The module on growing caches, and on whole sequences with masks: first draft and second."""
    model = make(3)
    assert model.kvspn is not None
    torch.nn.init.normal_(model.kvspn.carry)
    engine, frames = Engine(model, drafting="float32"), frames_of(model)
    ids = torch.randint(0, 34, (2, 8), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        out, kept = decode(model.decoder, ids, memories(model.decoder, frames)), model.kvspn.memories(frames)
        first = model.decoder.layer_norm(model.kvspn(out.embedded, out.caches, kept, 0))
        ahead = out.embedded[:, 1:] + model.kvspn.carry * first[:, :-1]
        ahead = torch.cat([out.embedded[:, :1], ahead], dim=1)
        second = model.decoder.layer_norm(model.kvspn(ahead, out.caches, kept, 1))
    state = engine.start(frames, [9, 9], 20)
    engine.step(ids[:, :5], state)
    state.lengths = [5, 5]
    one = engine.draft(ids[:, 5:6], state)
    assert torch.allclose(one[:, 0], first[:, 5], atol=1e-5)
    assert torch.allclose(engine.draft(ids[:, 6:7], state, 1, one)[:, 0], second[:, 6], atol=1e-5)


def test_padding_of_frames_changes_nothing(make: Callable[..., M2M]) -> None:
    model = make()
    frames = frames_of(model)
    ids = torch.tensor([model.prompt("eng"), model.prompt("fra")])
    longer = torch.cat([frames, torch.full((2, 4, frames.shape[2]), 99.0)], dim=1)
    with torch.no_grad():
        inside = padding(torch.tensor([9, 9]), 13)
        a = decode(model.decoder, ids, memories(model.decoder, longer), inside).hidden
        b = decode(model.decoder, ids, memories(model.decoder, frames)).hidden
    assert torch.allclose(a, b, atol=1e-5)


def test_a_beam_of_one_is_greedy_and_a_wider_one_no_less_likely(make: Callable[..., M2M]) -> None:
    for seed in range(6):
        model = make(seed)
        engine, frames, prompt = Engine(model), frames_of(model, 1), model.prompt("fra")
        greedy = generate(engine, engine.start(frames, [9], 20), torch.tensor([prompt]), 8).ids[0]
        assert beam(engine, frames, prompt, 1, 8) == greedy
        found = beam(engine, frames, prompt, 4, 8)
        assert len(found) <= 8 and model.end not in found


def test_int8_is_near(make: Callable[..., M2M]) -> None:
    weight, bias, rows = torch.randn(64, 32), torch.randn(64), torch.randn(3, 32)
    exact, rounded = linear(weight, bias, "float32")(rows), linear(weight, bias, "int8")(rows)
    assert torch.allclose(exact, rows @ weight.T + bias, atol=1e-5)
    assert 0 < (rounded - exact).abs().max() < 0.5


def test_a_folder_gives_the_model_back(make: Callable[..., M2M], tmp_path: Path) -> None:
    model = make(1)
    save(model, tmp_path / "model")
    again = load(find(str(tmp_path / "model")))
    assert again.config == model.config
    frames, prompts = frames_of(model), torch.tensor([model.prompt("eng"), model.prompt("deu")])
    # Weights are kept as float16: the model that is read again is compared with itself, written once more.
    save(again, tmp_path / "more")
    third = load(tmp_path / "more")
    for drafting in (None, Drafting(), Drafting("medusa")):
        texts = [
            generate(engine, engine.start(frames, [9, 9], 20), prompts, 10, drafting).ids
            for engine in (Engine(again), Engine(third))
        ]
        assert texts[0] == texts[1]


def test_what_is_no_model_is_refused(make: Callable[..., M2M], tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        find(str(tmp_path))
    assert refused.value.code == "offline_model_missing"
    save(make(), tmp_path / "model")
    raw = json.loads((tmp_path / "model" / FILE).read_text(encoding="utf-8"))
    (tmp_path / "model" / FILE).write_text(json.dumps(raw | {"blocks": 9}), encoding="utf-8")
    with pytest.raises(ModelError) as refused:
        load(tmp_path / "model")
    assert refused.value.code == "model_damaged"
    with pytest.raises(UsageError) as wrong:
        replace(make().config, blocks=9)
    assert wrong.value.code == "bad_blocks"
    assert M2MConfig("a", "b", 2, 2, ("eng",)).blocks == 2
