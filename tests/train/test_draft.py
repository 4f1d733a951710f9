"""A drafter: which layers stay, and that it learns to write as the whole model does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from esrt.errors import UsageError
from esrt.train.batches import Answers, answers
from esrt.train.draft import Distiller, Plan, _train, kept, prune
from esrt.train.examples import Example


@pytest.fixture(scope="module")
def whole() -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16, sliding_window=16, initializer_range=0.2,
        eos_token_id=1, pad_token_id=0, max_position_embeddings=256,
        layer_types=["sliding_attention"] * 5 + ["full_attention"],
    )  # fmt: skip
    return Gemma3ForCausalLM(config).eval()


def test_first_and_last_stay_and_evenly_some_between() -> None:
    assert kept(18, 6) == [0, 3, 7, 10, 14, 17]
    assert kept(18, 2) == [0, 17] and kept(4, 3) == [0, 2, 3]
    for count in (1, 18, 40):
        with pytest.raises(UsageError):
            kept(18, count)


def test_the_layers_that_stay_are_the_same(whole: Gemma3ForCausalLM) -> None:
    small = prune(whole, [0, 2, 5])
    assert small.config.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]
    for place, layer in enumerate([0, 2, 5]):
        ours, theirs = small.model.layers[place].state_dict(), whole.model.layers[layer].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(small.get_output_embeddings().weight, whole.get_input_embeddings().weight)
    # All layers: the same model, so nothing else was lost.
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.allclose(prune(whole, range(6))(ids).logits, whole(ids).logits, atol=1e-5)


def test_it_learns_and_touches_nothing_else(whole: Gemma3ForCausalLM) -> None:
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    distiller = Distiller(whole, prune(whole, [0, 2, 5]), [0, 2, 5], torch.arange(2, 300))
    learned = [parameter for parameter in distiller.student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    ids = torch.randint(2, 300, (4, 12), generator=generator).tolist()
    # A trunk of 6, and two branches of 3.
    examples = [Example(tuple(row), (False,) + (True,) * 11, (0,) * 6 + (1,) * 3 + (2,) * 3) for row in ids]
    audio = torch.randn(4, 5, 32, generator=generator)
    for _ in range(25):
        loss, shown = distiller.loss(audio, answers(examples), generator)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(shown["surprise"])
    assert losses[-1] < 0.2 * losses[0] and shown["right"] == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.state_dict().items())


def test_the_same_model_has_no_loss(whole: Gemma3ForCausalLM) -> None:
    distiller = Distiller(whole, prune(whole, range(6)), range(6), torch.arange(300))
    given = answers([Example(tuple(range(2, 14)), (True,) * 12, (0,) * 12)])
    _, shown = distiller.loss(torch.randn(1, 5, 32), given, torch.Generator().manual_seed(0))
    assert shown["states"] < 0.01 and shown["right"] > 0.7


def test_the_loss_is_the_cross_entropy(whole: Gemma3ForCausalLM) -> None:
    """Of all tokens that the model may write, where the sample has all that are not likely."""
    keep, given = [0, 2, 5], answers([Example(tuple(range(2, 14)), (True,) * 12, (0,) * 12)])
    distiller, audio = Distiller(whole, prune(whole, keep), keep, torch.arange(300)), torch.randn(1, 5, 32)
    _, shown = distiller.loss(audio, given, torch.Generator().manual_seed(0))
    choices = [
        distiller._hidden(llm, audio, given, [])[0][0, 4:-1] @ distiller.head.T for llm in (whole, distiller.student)
    ]
    wanted = torch.nn.functional.cross_entropy(choices[1], choices[0].argmax(-1))
    assert shown["surprise"] == pytest.approx(wanted.item(), abs=0.01)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(whole: Gemma3ForCausalLM, tmp_path: Path) -> None:
    class Two:
        """The same batch for a number, whenever it is asked for."""

        def batch(self, step: int) -> tuple[torch.Tensor, Answers]:
            generator = torch.Generator().manual_seed(step)
            ids = torch.randint(2, 300, (8,), generator=generator).tolist()
            return torch.randn(1, 5, 32, generator=generator), answers([Example(tuple(ids), (True,) * 8, (0,) * 8)])

        def held_back(self) -> Iterator[tuple[torch.Tensor, Answers]]:
            yield self.batch(99)

    def train(
        steps: int, run: Path, keep: Sequence[int] = (0, 5), model: str = "whole", to: str = "deu"
    ) -> dict[str, torch.Tensor]:
        run.mkdir(exist_ok=True)
        distiller = Distiller(whole, prune(whole, keep), keep, torch.arange(300))
        plan = Plan(2, (to,), {}, steps, warmup=1, rate=1e-3)
        _train(distiller, Two(), plan, run, model)  # type: ignore[arg-type]
        return {name: p.detach() for name, p in distiller.student.named_parameters() if p.requires_grad}

    train(2, tmp_path / "a")
    done, again = train(4, tmp_path / "a"), train(2, tmp_path / "b")
    assert any(not torch.equal(done[name], again[name]) for name in done)
    # Steps 3 and 4 from the checkpoint, and once more from a copy of it: the moments of the optimiser came along.
    assert all(torch.equal(done[name], tensor) for name, tensor in train(4, tmp_path / "b").items())
    assert (tmp_path / "a" / "log.jsonl").read_text().count('"step": 4') == 1
    for keep, model, to in (((0, 3), "whole", "deu"), ((0, 5), "another", "deu"), ((0, 5), "whole", "fra")):
        with pytest.raises(UsageError) as refused:
            train(6, tmp_path / "b", keep, model, to)
        assert refused.value.code == "resume_mismatch"
    with pytest.raises(UsageError, match="step 4 already") as refused:
        train(2, tmp_path / "b")
    assert refused.value.code == "resume_mismatch"
    (tmp_path / "b" / "state.safetensors").write_bytes(b"cut")
    with pytest.raises(UsageError) as refused:
        train(6, tmp_path / "b")
    assert refused.value.code == "run_damaged"
