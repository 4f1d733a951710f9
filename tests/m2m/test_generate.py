"""Drafting changes how fast a text comes, and with top 1 never what it says."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from esrt.errors import UsageError
from esrt.m2m.engine import Engine
from esrt.m2m.forward import decode, memories
from esrt.m2m.generate import Drafting, Written, generate
from esrt.m2m.model import M2M
from tests.m2m.conftest import tiny

LIMIT = 12


@cache
def engine(seed: int, trimmed: bool = False) -> Engine:
    return Engine(tiny(seed), trimmed=trimmed)


def inputs(seed: int, batch: int) -> tuple[Tensor, list[int], Tensor]:
    """Frames of clips of different lengths, and prompts."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 12, (batch,), generator=generator).tolist()
    frames = torch.randn(batch, max(lengths), 16, generator=generator)
    model = engine(0).model
    languages = torch.randint(0, 3, (batch,), generator=generator).tolist()
    return frames, lengths, torch.tensor([model.prompt(model.config.languages[place]) for place in languages])


def written(of: Engine, seed: int, batch: int, drafting: Drafting | None, limit: int = LIMIT) -> Written:
    frames, lengths, prompts = inputs(seed, batch)
    return generate(of, of.start(frames, lengths, 3 + limit + 4), prompts, limit, drafting)


def test_top_1_is_greedy_token_for_token() -> None:
    """1,000 random inputs on ten random models, alone and in batches of two to four, with every drafter."""
    drafters = (
        Drafting(), Drafting(most=3, gate=9.0), Drafting(most=4, gate=2.0), Drafting("medusa"),
    )  # fmt: skip
    inputs_seen = kept = guesses = ended = 0
    for number in range(400):
        of, batch = engine(number % 10, trimmed=number % 3 == 0), 1 + number % 4
        greedy = written(of, number, batch, None)
        found = written(of, number, batch, drafters[number // 4 % len(drafters)])
        assert found.ids == greedy.ids, f"input {number}"
        assert found.passes <= greedy.passes
        inputs_seen, kept, guesses = inputs_seen + batch, kept + found.kept, guesses + found.guesses
        ended += sum(len(ids) < LIMIT for ids in greedy.ids)
    # Otherwise this test would have seen no crop, no accepted guess or no end.
    assert inputs_seen == 1000
    assert 0.02 < kept / guesses < 0.9
    assert 100 < ended < 950


def reference(model: M2M, frames: Tensor, prompt: Tensor) -> list[int]:
    """Greedy, the whole sequence anew for each token, by the forward pass that training has."""
    ids, out = prompt[None], list[int]()
    with torch.no_grad():
        kept = memories(model.decoder, frames)
        while len(out) < LIMIT:
            row = decode(model.decoder, ids, kept).hidden[0, -1]
            token = int(model.outputs[(model.decoder.embed_tokens.weight[model.outputs] @ row).argmax()])
            if token == model.end:
                break
            out.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return out


@pytest.mark.parametrize("seed", range(6))
def test_a_row_of_a_batch_is_what_it_is_alone(seed: int) -> None:
    frames, lengths, prompts = inputs(seed, 3)
    found = written(engine(seed), seed, 3, Drafting(most=2, gate=9.0))
    for row, length in enumerate(lengths):
        assert found.ids[row] == reference(engine(seed).model, frames[row : row + 1, :length], prompts[row])


def test_a_larger_top_keeps_more() -> None:
    shares = []
    for top in (1, 2, 3, None):
        found = [written(engine(n % 10), n, 1, Drafting(top=top)) for n in range(60)]
        shares.append(sum(w.kept for w in found) / sum(w.guesses for w in found))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_all_guesses_kept_is_the_drafter_every_second_token() -> None:
    """With top inf each pass gives two tokens, up to the limit or an end."""
    for number in range(20):
        found = written(engine(number % 10), number, 1, Drafting(top=None))
        count = len(found.ids[0]) + (len(found.ids[0]) < LIMIT)
        assert found.passes == 1 + -(-(count - 1) // 2)


def test_an_end_that_was_guessed_ends_the_text() -> None:
    """Somewhere in these the end comes as a guess: what follows it in the same pass is no part of the text."""
    model = engine(0).model
    ends = 0
    for number in range(200):
        of = engine(number % 10)
        found = written(of, number, 1, Drafting(top=None))
        assert model.end not in found.ids[0]
        ends += found.finished[0] and len(found.ids[0]) < LIMIT and 2 * found.passes - 1 > len(found.ids[0]) + 1
    assert ends


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_no_text_is_longer_than_the_limit(limit: int) -> None:
    for number in range(20):
        greedy, drafted = (
            written(engine(number % 10), number, 2, drafting, limit) for drafting in (None, Drafting(most=4, gate=99.0))
        )
        assert drafted.ids == greedy.ids
        assert max(map(len, drafted.ids)) <= limit


def test_no_position_beyond_the_decoders_last() -> None:
    """A state with room for 8 positions: texts of 5 tokens, however many are asked for, and guesses stop in time."""
    frames, lengths, prompts = inputs(3, 1)
    for drafting in (None, Drafting(most=4, gate=99.0)):
        of = engine(2)
        found = generate(of, of.start(frames, lengths, 8), prompts, 60, drafting)
        assert len(found.ids[0]) <= 5


def test_a_row_that_is_full_waits_for_the_others() -> None:
    """Three rows with room for prompt and limit alone: where a guess stands at the limit of one, the others go on."""
    for number in range(60):
        frames, lengths, prompts = inputs(number, 3)
        of = engine(number % 10)
        greedy, drafted = (
            generate(of, of.start(frames, lengths, 3 + LIMIT), prompts, LIMIT, drafting).ids
            for drafting in (None, Drafting(most=3, gate=9.0))
        )
        assert drafted == greedy


def test_what_cannot_be_drafted_is_refused(make: Callable[..., M2M]) -> None:
    model = make()
    model.kvspn = model.medusa = None
    bare = Engine(model)
    frames, lengths, prompts = inputs(0, 1)
    for drafting, code in ((Drafting(), "no_drafter"), (Drafting("medusa"), "no_drafter")):
        with pytest.raises(UsageError) as refused:
            generate(bare, bare.start(frames, lengths, 10), prompts, 4, drafting)
        assert refused.value.code == code
    of = engine(0)
    for drafting in (Drafting(most=0), Drafting("medusa", most=2)):
        with pytest.raises(UsageError) as refused:
            generate(of, of.start(frames, lengths, 10), prompts, 4, drafting)
        assert refused.value.code == "bad_drafting"
