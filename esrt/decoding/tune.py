"""Which gamma fits a budget: clips of a manifest are drafted and checked at one gamma after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from esrt.decoding.gates import Calibrated, Guess, fit
from esrt.decoding.speech import Speculative
from esrt.errors import UsageError
from esrt.wire.schemas import Drafting

STEPS = 6
"""Of the bisection: among the doubts that occurred, each halves what is left."""


@dataclass(frozen=True)
class Point:
    """What clips took at one gamma, in all. `seconds` are those of the whole answers, without encoding."""

    gamma: float
    clips: int
    drafting: Drafting
    seconds: float
    checked: list[tuple[Guess, bool]]

    @property
    def escalated(self) -> float:
        """Share of the drafted tokens that were sent."""
        return self.drafting.escalated / max(1, self.drafting.drafted)

    @property
    def bytes(self) -> float:
        """Sent, a clip."""
        return self.drafting.bytes_sent / self.clips

    @property
    def latency(self) -> float:
        """Seconds a clip."""
        return self.seconds / self.clips


def measure(speculative: Speculative, gamma: float, frames: Sequence[bytes], to: Sequence[str]) -> Point:
    """Draft and check all `frames`. Raises UsageError `link_cut` where the cloud cannot be reached."""
    total, seconds, checked = Drafting(), 0.0, list[tuple[Guess, bool]]()
    for frame in frames:
        answer = speculative.translate(frame, to)
        assert answer.drafting is not None
        if answer.drafting.cut is not None:
            raise UsageError(
                "link_cut", f"The cloud went out of reach [{answer.drafting.cut}]: measure where it can be reached."
            )
        total += answer.drafting
        seconds += answer.usage.seconds
        checked += speculative.tally.checked
    return Point(gamma, len(frames), total, seconds, checked)


def tune(run: Callable[[float], Point], doubts: Sequence[float], fits: Callable[[Point], bool]) -> list[Point]:
    """Points by gamma, of which the first that `fits` is the smallest found; infinity, which sends nothing, is last.

    `doubts` are those of blocks that occurred. A smaller gamma sends more, so the search halves their range.
    """
    ladder = sorted({0.0, *doubts})
    found = {float("inf"): run(float("inf"))}
    low, high = 0, len(ladder) - 1
    for _ in range(STEPS):
        if low > high:
            break
        middle = (low + high) // 2
        point = found[ladder[middle]] = run(ladder[middle])
        if fits(point):
            high = middle - 1
        else:
            low = middle + 1
    return [found[gamma] for gamma in sorted(found)]


def calibrate(checked: Sequence[tuple[Guess, bool]]) -> Calibrated:
    """The gate that knows how often tokens that were `checked` were refused. Raises UsageError `nothing_to_fit`."""
    return fit([token for token, _ in checked], [refused for _, refused in checked])
