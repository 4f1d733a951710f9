"""Greedy decoding, with or without a drafter whose guesses the base checks on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from esrt.errors import UsageError
from esrt.m2m.engine import Engine, State

LIMIT = 200  # tokens of a text, as in the cloud's service


@dataclass(frozen=True)
class Drafting:
    """How guesses are made and accepted.

    A guess stands while it is among the base's `top` most likely tokens (1: what greedy decoding writes; None: always).
    `most` guesses are made in a row, those after the first only while the entropy of the one before, in nats, is below
    `gate`.
    """

    by: Literal["kvspn", "medusa"] = "kvspn"
    top: int | None = 1
    most: int = 1
    gate: float = 1.0


@dataclass
class Written:
    """Token ids of each row, without prompt and end, and what they took: passes of the base, guesses made and kept.

    A pass counts once for each row that it served.
    """

    ids: list[list[int]]
    passes: int = 0
    guesses: int = 0
    kept: int = 0
    finished: list[bool] = field(default_factory=list)


def generate(
    engine: Engine, state: State, prompts: Tensor, limit: int = LIMIT, drafting: Drafting | None = None
) -> Written:
    """Writes after prompts [b, p], each row until its end or `limit` tokens; guesses by `drafting`, if it is given.

    No text is longer than the state has room for. With `top` 1 the ids are those of greedy decoding, if the base is
    in float32: int8 rounds all rows of a call by the largest of them, and a guess is one row more. Raises UsageError:
    no_drafter, bad_drafting, bad_limit.
    """
    _check(engine, drafting, limit)
    limit = min(limit, state.keys[0].shape[2] - prompts.shape[1])
    top = 1 if drafting is None else drafting.top
    end, out = engine.model.end, Written([[] for _ in prompts], finished=[False] * len(prompts))
    rows = engine.step(prompts, state)[:, -1:]
    state.lengths = [length + prompts.shape[1] for length in state.lengths]
    newest = engine.likeliest(rows)[:, -1, 0].tolist()
    out.passes = len(prompts)
    for row, token in enumerate(newest):
        _put(out, row, [token], end, limit)
    active = list(range(len(newest)))  # the row of `out` that each row of the state writes
    while not all(done := [out.finished[row] for row in active]):
        left = [place for place, over in enumerate(done) if not over]
        if 2 * len(left) <= len(active):
            # One long text would pay for all those that have ended.
            state.keep(torch.tensor(left))
            rows, newest, active = rows[left], [newest[place] for place in left], [active[place] for place in left]
            done = [False] * len(left)
        guesses = _guess(engine, state, newest, rows, drafting, done)
        hidden = engine.step(torch.tensor([newest, *guesses]).T, state)
        likely = engine.likeliest(hidden, top or 1).tolist()
        kept = []
        for row in range(len(active)):
            if done[row]:
                kept.append(0)
                continue
            out.passes += 1
            made = [column[row] for column in guesses]
            stand = _standing(likely[row], made, top is None)
            out.guesses += len(made)
            out.kept += stand
            newest[row] = likely[row][stand][0]
            _put(out, active[row], [*made[:stand], newest[row]], end, limit)
            if not out.finished[active[row]]:
                # Cropping the cache is forgetting how far it reaches. A row that has ended stays where there is room.
                state.lengths[row] += 1 + stand
            kept.append(stand)
        if drafting is not None and drafting.by == "medusa":
            rows = hidden[torch.arange(len(kept)), torch.tensor(kept)][:, None]
    return out


def _check(engine: Engine, drafting: Drafting | None, limit: int) -> None:
    if drafting is not None:
        if not (engine.blocks if drafting.by == "kvspn" else engine.medusa):
            name = {"kvspn": "KVSPN", "medusa": "Medusa head"}[drafting.by]
            raise UsageError("no_drafter", f"This model has no {name}: train one, or decode without.")
        if drafting.most < 1 or (drafting.by == "medusa" and drafting.most > 1):
            text = "A drafter makes one guess at least, and Medusa's head one at most."
            raise UsageError("bad_drafting", text)
    if limit < 1:
        raise UsageError("bad_limit", "A text has one token at least: give a limit of 1 or more.")


def _put(out: Written, row: int, tokens: list[int], end: int, limit: int) -> None:
    """Adds tokens to a row up to its end, which may be a guess, or the limit."""
    for token in tokens:
        if token == end:
            out.finished[row] = True
            return
        out.ids[row].append(token)
        if len(out.ids[row]) == limit:
            out.finished[row] = True
            return


def _standing(likely: list[list[int]], guesses: list[int], everything: bool) -> int:
    """How many of a row's guesses stand: those among the likely tokens of their places, or with `everything` all."""
    for number, guess in enumerate(guesses):
        if not everything and guess not in likely[number]:
            return number
    return len(guesses)


def _guess(
    engine: Engine, state: State, newest: list[int], rows: Tensor, drafting: Drafting | None, done: list[bool]
) -> list[list[int]]:
    """Guesses for what follows the newest token of each row: columns of a token a row.

    No further than the decoder has positions, of which the newest token needs one and every guess another.
    """
    room = state.keys[0].shape[2] - max(state.lengths) - 1
    if drafting is None or room < 1:
        return []
    ids, before = torch.tensor(newest)[:, None], None
    guesses = list[list[int]]()
    for ahead in range(min(drafting.most, room)):
        before = engine.medusa_rows(rows) if drafting.by == "medusa" else engine.draft(ids, state, ahead, before)
        logits = engine.draft_head(before)[:, 0]
        guesses.append([engine.draft_list[place] for place in logits.argmax(-1).tolist()])
        if ahead + 1 < drafting.most:
            if not any(sure and not over for sure, over in zip(_sure(logits, drafting.gate), done, strict=True)):
                break
            ids = torch.tensor(guesses[-1])[:, None]
    return guesses


def _sure(logits: Tensor, gate: float) -> list[bool]:
    """Of each row, whether the entropy of its guess is below the gate."""
    log = logits.log_softmax(-1)
    entropies = -(log.exp() * log).sum(-1)
    return [entropy < gate for entropy in entropies.tolist()]
