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
    `most` guesses are made in a row, the second and those after it only while the entropy of the one before, in nats,
    is below `gate`.
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

    No text is longer than the state has room for. With `top` 1 the ids are those of greedy decoding. Raises UsageError:
    no_drafter, bad_drafting, bad_limit.
    """
    _check(engine, drafting, limit)
    limit = min(limit, state.keys[0].shape[2] - prompts.shape[1])
    end, out = engine.model.end, Written([[] for _ in prompts], finished=[False] * len(prompts))
    rows = engine.step(prompts, state)[:, -1:]
    state.lengths = [length + prompts.shape[1] for length in state.lengths]
    newest = [engine.token(place) for place in engine.logits(rows)[:, -1].argmax(-1).tolist()]
    out.passes = len(prompts)
    for row, token in enumerate(newest):
        _put(out, row, [token], end, limit)
    while not all(out.finished):
        guesses = _guess(engine, state, newest, rows, drafting, out)
        ids = torch.tensor([[token, *(column[row] for column in guesses)] for row, token in enumerate(newest)])
        hidden = engine.step(ids, state)
        logits = engine.logits(hidden)
        best = logits.argmax(-1).tolist()
        chosen = []
        for row, places in enumerate(best):
            if out.finished[row]:
                chosen.append(0)
                continue
            out.passes += 1
            stands = 0
            for number, column in enumerate(guesses):
                if not _accepted(engine, logits[row, number], places[number], column[row], drafting):
                    break
                stands += 1
            out.guesses += len(guesses)
            out.kept += stands
            newest[row] = engine.token(places[stands])
            _put(out, row, [*(column[row] for column in guesses[:stands]), newest[row]], end, limit)
            # Cropping the cache is forgetting how far it reaches.
            state.lengths[row] += 1 + stands
            chosen.append(stands)
        rows = hidden[torch.arange(len(chosen)), torch.tensor(chosen)][:, None] if guesses else hidden
    return out


def _check(engine: Engine, drafting: Drafting | None, limit: int) -> None:
    if drafting is not None:
        if not (engine.blocks if drafting.by == "kvspn" else engine.medusa):
            name = {"kvspn": "KVSPN", "medusa": "Medusa head"}[drafting.by]
            raise UsageError("no_drafter", f"This model has no {name}: train one, or decode without.")
        if drafting.most < 1 or (drafting.by == "medusa" and drafting.most > 1):
            raise UsageError("bad_drafting", "A drafter makes one guess at least, and Medusa's head one at most.")
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


def _accepted(engine: Engine, logits: Tensor, best: int, guess: int, drafting: Drafting | None) -> bool:
    if drafting is None or drafting.top is None or engine.token(best) == guess:
        return True
    if drafting.top == 1:
        return False
    place = guess if engine.ids is None else int(torch.searchsorted(engine.ids, guess))
    return int((logits > logits[place]).sum()) < drafting.top


def _guess(
    engine: Engine, state: State, newest: list[int], rows: Tensor, drafting: Drafting | None, out: Written
) -> list[list[int]]:
    """Guesses for what follows the newest token of each row: a column for each position, at most `most`.

    No further than the decoder has positions, of which the newest token needs one and every guess another.
    """
    room = state.keys[0].shape[2] - max(state.lengths) - 1
    if drafting is None or room < 1:
        return []
    if drafting.by == "medusa":
        return [_most_likely(engine, engine.draft_head(engine.medusa_rows(rows)))]
    columns: list[list[int]] = []
    ids, before = torch.tensor(newest)[:, None], None
    for ahead in range(min(drafting.most, room)):
        before = engine.draft(ids, state, ahead, before)
        logits = engine.draft_head(before)
        columns.append(_most_likely(engine, logits))
        if ahead + 1 < drafting.most:
            if not any(_sure(logits, out, drafting.gate)):
                break
            ids = torch.tensor(columns[-1])[:, None]
    return columns


def _most_likely(engine: Engine, logits: Tensor) -> list[int]:
    return [engine.draft_list[place] for place in logits[:, 0].argmax(-1).tolist()]


def _sure(logits: Tensor, out: Written, gate: float) -> list[bool]:
    """Of each unfinished row, whether the entropy of its guess is below the gate."""
    log = logits[:, 0].log_softmax(-1)
    entropies = -(log.exp() * log).sum(-1)
    return [entropy < gate for entropy, done in zip(entropies.tolist(), out.finished, strict=True) if not done]
