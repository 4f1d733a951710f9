"""The edge loop of UGSD: draft a block, keep it or have it checked (papers.md's third; Algorithm 1 of UGSD).

A block is drafted greedily. If its doubt reaches gamma it goes to the cloud, else it stands as it is, and nothing is
sent. Of a block that was checked the accepted tokens stand; the first that was not is the cloud's own, and the rest of
the draft is dropped. With `ahead`, drafting goes on while the cloud checks, on the guess that all is accepted: blocks
that turn out to need a check meanwhile go together in the next round trip, and a refusal takes the draft back to where
it went wrong.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from esrt.decoding.gates import Gate, Guess, Largest, entropy
from esrt.errors import CloudError, UsageError
from esrt.wire.verification import MAX_BLOCK, MAX_RANK, Verdict

LONGER = 2
"""Tokens at most by which a block is longer after two accepted whole, and shorter after a correction (paper: 3/5/7)."""


class Drafts(Protocol):
    """A small language model that has listened to a clip."""

    def next(self, ids: Sequence[int]) -> Guess:
        """The likeliest token after the clip's rows and `ids`."""
        ...


class Checks(Protocol):
    """A cloud that has the same clip, or can get it."""

    def verify(self, prefix: Sequence[int], block: Sequence[int], rank: int) -> Verdict:
        """How much of `block` stands after the clip's rows and `prefix`. Raises CloudError."""
        ...


@dataclass(frozen=True)
class Settings:
    """A block is checked from a doubt of `gamma` on: 0 checks every block, infinity none.

    A token stands while at most `rank` - 1 others are likelier to the cloud; 1 is the cloud's own greedy choice.
    `block` is the first block's length, and stays it where it is 1; `ahead` the blocks drafted while one is checked.
    """

    gamma: float = 3.0
    rank: int = 20
    block: int = 5
    ahead: int = 0
    gate: Callable[[], Gate] = lambda: Largest(entropy)

    def __post_init__(self) -> None:
        if math.isnan(self.gamma) or self.gamma < 0:
            raise UsageError("bad_gamma", f"gamma is a doubt of 0 or more, or inf, not {self.gamma}.")
        if not 1 <= self.rank <= MAX_RANK:
            raise UsageError("bad_rank", f"A rank is a whole number from 1 to {MAX_RANK}, not {self.rank}.")
        if not 1 <= self.block <= MAX_BLOCK - LONGER:
            raise UsageError("bad_block", f"A block has 1 to {MAX_BLOCK - LONGER} tokens, not {self.block}.")
        most = MAX_BLOCK // (self.block + self.longer)  # what was drafted ahead may have to be checked at once
        if not 0 <= self.ahead <= most:
            raise UsageError("bad_ahead", f"With blocks of {self.block}, 0 to {most} are drafted ahead.")

    @property
    def longer(self) -> int:
        """How far a block's length moves: by less than the block, so that single tokens stay single."""
        return min(LONGER, self.block - 1)


@dataclass
class Tally:
    """What a text took, in tokens: `drafted` (dropped ones too), `escalated` of them, `corrected` by the cloud; `local`
    is how many of the `written` were never checked. `round_trips` counts checks. `cut` says why the cloud was not asked
    any more, None where it always answered. `first` is when the first token stood (time.perf_counter).
    """

    drafted: int = 0
    escalated: int = 0
    corrected: int = 0
    written: int = 0
    local: int = 0
    round_trips: int = 0
    cut: str | None = None
    first: float | None = None
    checked: list[tuple[Guess, bool]] = field(default_factory=list)
    """Each token that was checked and, of a block, all up to the first refused one: whether it was refused."""


Ends = Callable[[Sequence[int]], bool]


@dataclass
class _Flight:
    start: int
    guesses: list[Guess]
    answer: Future[Verdict]


class _Text:
    """One text in the making. `ids` is what stands, and behind it what is only guessed to stand."""

    def __init__(self, prompt: Sequence[int], drafts: Drafts, checks: Checks, settings: Settings, tally: Tally) -> None:
        self._prompt, self._drafts, self._checks = list(prompt), drafts, checks
        self._settings, self._tally = settings, tally
        self._gate = settings.gate()
        self._gate.reset(True)
        self.ids: list[int] = []
        self._guesses: list[Guess | None] = []  # of each id; None for the cloud's own
        self._local: list[bool] = []
        self._length, self._streak = settings.block, 0
        self._flight: _Flight | None = None
        self._waiting: tuple[int, int] | None = None
        self._beyond = 0  # blocks drafted since the flight began

    def write(self, ends: Ends) -> list[int]:
        """Draft and check until `ends(ids)`, and nothing waits for an answer any more."""
        with ExitStack() as held:
            line = held.enter_context(ThreadPoolExecutor(1, "esrt-verify")) if self._settings.ahead else None
            while True:
                ended = ends(self.ids)
                if not ended and (self._flight is None or self._beyond < self._settings.ahead):
                    self._draft(ends, line)
                    ended = ends(self.ids)
                elif self._flight is None:
                    break
                flight = self._flight
                full = ended or self._beyond >= self._settings.ahead
                if flight is not None and (full or flight.answer.done()):
                    self._hear(flight, line)
                if self._tally.first is None and (len(self.ids) if self._flight is None else self._flight.start):
                    self._tally.first = time.perf_counter()
        self._tally.written += len(self.ids)
        self._tally.local += sum(self._local)
        return self.ids

    def _draft(self, ends: Ends, line: ThreadPoolExecutor | None) -> None:
        start, block = len(self.ids), list[Guess]()
        while len(block) < self._length and not ends(self.ids):
            found = self._drafts.next([*self._prompt, *self.ids])
            block.append(found)
            self.ids.append(found.token)
        self._guesses += block
        self._local += [True] * len(block)
        self._tally.drafted += len(block)
        self._beyond += 1
        unsure = self._gate(block) >= self._settings.gamma and self._tally.cut is None
        self._gate.reset(unsure)
        if not unsure:
            self._length = max(self._length, self._settings.block)
        elif self._flight is None:
            self._send(start, len(self.ids), line)
        else:
            first = start if self._waiting is None else self._waiting[0]
            self._waiting = (first, len(self.ids))

    def _send(self, start: int, end: int, line: ThreadPoolExecutor | None) -> None:
        block = self.ids[start:end]
        guesses = [found for found in self._guesses[start:end] if found is not None]
        assert len(guesses) == len(block), "only drafted tokens are checked"
        self._local[start:end] = [False] * len(block)
        self._tally.escalated += len(block)
        self._tally.round_trips += 1
        self._beyond = 0
        asked = ([*self._prompt, *self.ids[:start]], block, self._settings.rank)
        if line is not None:
            answer = line.submit(self._checks.verify, *asked)
        else:
            answer = Future()
            try:
                answer.set_result(self._checks.verify(*asked))
            except Exception as error:
                answer.set_exception(error)
        self._flight = _Flight(start, guesses, answer)

    def _hear(self, flight: _Flight, line: ThreadPoolExecutor | None) -> None:
        try:
            verdict = flight.answer.result()
        except CloudError as error:
            if not is_cut(error):
                raise
            self._flight = self._waiting = None
            self._tally.cut = error.code
            self._local[flight.start :] = [True] * (len(self.ids) - flight.start)
            return
        self._flight = None
        count = len(flight.guesses)
        refused = verdict.accepted < count
        heard = flight.guesses[: verdict.accepted + 1]
        self._tally.checked += [(found, place == verdict.accepted) for place, found in enumerate(heard)]
        if not refused:
            self._streak += 1
            self._length = self._settings.block + (self._settings.longer if self._streak >= 2 else 0)
            if self._waiting is not None:
                start, end = self._waiting
                self._waiting = None
                self._send(start, end, line)
            return
        if verdict.correction is None:
            raise CloudError("bad_response", "The cloud refused a token and named no other: is its version right?")
        place = flight.start + verdict.accepted
        del self.ids[place:], self._guesses[place:], self._local[place:]
        self.ids.append(verdict.correction)
        self._guesses.append(None)
        self._local.append(False)
        self._waiting = None
        self._tally.corrected += 1
        self._streak, self._length = 0, self._settings.block - self._settings.longer


def write(
    prompt: Sequence[int], drafts: Drafts, checks: Checks, settings: Settings, ends: Ends, tally: Tally
) -> list[int]:
    """A text: the ids after a clip's rows and `prompt`, up to and with the one at which `ends(ids)` holds.

    `tally` is counted on. A cloud that cannot be reached, or has no time, is no error: what is drafted stands from then
    on, and `tally.cut` says so. Raises CloudError for any other refusal.
    """
    return _Text(prompt, drafts, checks, settings, tally).write(ends)


def is_cut(error: CloudError) -> bool:
    """Whether the error is of the way to the cloud or of its load, rather than of what was asked."""
    return error.code != "bad_response" and (error.status in (0, 408, 429) or error.status >= 500)
