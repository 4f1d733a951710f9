"""What goes and what stays when a decoder is made smaller."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from esrt.errors import UsageError
from esrt.m2m.batches import Batch
from esrt.m2m.engine import Engine
from esrt.m2m.forward import decode, memories
from esrt.m2m.generate import Drafting, generate
from esrt.m2m.model import M2M, load, save
from esrt.m2m.prune import Size, parameters, prune, size_of


def batch(model: M2M) -> Batch:
    ids = torch.tensor([[*model.prompt("eng"), 3, 4, 5]] * 2)
    labels = torch.tensor([[35, -100, 3, 4, 5, model.end]] * 2)
    frames = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(1))
    nothing = torch.zeros(2, 1, dtype=torch.long)
    return Batch(frames, torch.tensor([7, 7]), ids, labels, nothing, torch.ones(2), torch.arange(30))


def test_what_writes_nothing_goes_first(make: Callable[..., M2M]) -> None:
    model = make(2)
    layer = model.decoder.layers[1]
    with torch.no_grad():
        layer.self_attn.out_proj.weight[:, :8] = 0  # the first of two heads
        layer.encoder_attn.out_proj.weight[:, 8:] = 0  # the second
        layer.fc2.weight[:, 5:17] = 0
    small = prune(model, Size(4, 1, 20), [batch(model)])
    its = small.decoder.layers[1]
    assert torch.equal(its.self_attn.q_proj.weight, layer.self_attn.q_proj.weight[8:])
    assert torch.equal(its.encoder_attn.q_proj.weight, layer.encoder_attn.q_proj.weight[:8])
    kept = [*range(5), *range(17, 32)]
    assert torch.equal(its.fc1.weight, layer.fc1.weight[kept])
    assert size_of(small) == Size(4, 1, 20) and size_of(model) == Size(4, 2, 32)


def test_cutting_what_writes_nothing_changes_nothing(make: Callable[..., M2M]) -> None:
    model = make(2)
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.self_attn.out_proj.weight[:, :8] = 0
            layer.encoder_attn.out_proj.weight[:, :8] = 0
            layer.fc2.weight[:, 20:] = 0
    small, given = prune(model, Size(4, 1, 20), [batch(model)]), batch(model)
    with torch.no_grad():
        a, b = (decode(m.decoder, given.ids, memories(m.decoder, given.sound)).hidden for m in (model, small))
        # transformers' own forward knows pruned heads too.
        theirs = small.decoder(input_ids=given.ids, encoder_hidden_states=given.sound).last_hidden_state
    assert torch.allclose(a, b, atol=1e-5) and torch.allclose(b, theirs, atol=1e-5)


def test_layers_are_the_first_the_last_and_evenly_between(make: Callable[..., M2M]) -> None:
    model = make(1, layers=5)
    small = prune(model, Size(3, 2, 32), [])
    for mine, its in zip(small.decoder.layers, (0, 2, 4), strict=True):
        assert torch.equal(mine.fc1.weight, model.decoder.layers[its].fc1.weight)
    assert parameters(small)["decoder"] < parameters(model)["decoder"]
    assert small.config.layers == 3


def test_drafters_begin_as_those_of_the_larger_model(make: Callable[..., M2M]) -> None:
    model = make(1)
    layers, fewer = prune(model, Size(3, 2, 32), []), prune(model, Size(3, 1, 32), [batch(model)])
    assert model.kvspn is not None and model.medusa is not None
    old, heads = model.kvspn.state_dict(), model.medusa.state_dict()
    for small in (layers, fewer):
        assert small.kvspn is not None and small.medusa is not None
        assert all(torch.equal(value, heads[name]) for name, value in small.medusa.state_dict().items())
        new = small.kvspn.state_dict()
        assert torch.equal(new["blocks.0.fc1.weight"], old["blocks.0.fc1.weight"])
        living_on = small.decoder.layers[small.kvspn.groups[0][-1]].self_attn.q_proj.weight
        begun = old["blocks.0.q_proj.weight"] if small is layers else living_on
        assert torch.equal(new["blocks.0.q_proj.weight"], begun)


def test_a_pruned_model_drafts_saves_and_loads(make: Callable[..., M2M], tmp_path: Path) -> None:
    small = prune(make(1), Size(2, 1, 20), [batch(make(1))])
    save(small, tmp_path / "small")
    again, given = load(tmp_path / "small"), batch(small)
    engine = Engine(again, trimmed=True)
    prompts = given.ids[:, :3]
    greedy, drafted = (
        generate(engine, engine.start(given.sound, [7, 7], 20), prompts, 12, drafting).ids
        for drafting in (None, Drafting(most=2, gate=9.0))
    )
    assert greedy == drafted
    assert size_of(again) == Size(2, 1, 20)


@pytest.mark.parametrize("size", [Size(5, 2, 32), Size(4, 3, 32), Size(4, 2, 0)])
def test_nothing_grows_and_something_stays(make: Callable[..., M2M], size: Size) -> None:
    with pytest.raises(UsageError) as refused:
        prune(make(), size, [])
    assert refused.value.code == "bad_size"
