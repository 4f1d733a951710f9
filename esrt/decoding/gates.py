"""How unsure a drafted block is: gates. A block is escalated when its doubt reaches gamma.

The paper's gate is the entropy, in nats; the others are here to be compared with it. A gate sees what a drafter says
of each of its tokens, and may remember: one gate serves one text at a time, and `reset` begins the next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from esrt.errors import UsageError


@dataclass(frozen=True)
class Guess:
    """A drafted token. `entropy` (nats) is that of the distribution over the whole vocabulary; `first` and `second` are
    its two largest probabilities, the first of which is the token's own.
    """

    token: int
    entropy: float
    first: float
    second: float


def guess(logits: npt.NDArray[np.float32], ids: npt.NDArray[np.int64] | None = None) -> Guess:
    """The likeliest token of logits [n], and how sure it is. `ids` [n] are the tokens, 0 to n - 1 where not given.

    What `ids` leaves out has probability 0, and so has -inf.
    """
    best = int(np.argmax(logits))
    shifted = logits.astype(np.float64) - float(logits[best])
    weights = np.exp(shifted)
    total = float(weights.sum())
    finite = weights > 0
    entropy = math.log(total) - float((weights[finite] * shifted[finite]).sum()) / total
    second = float(np.partition(weights, -2)[-2]) / total if len(weights) > 1 else 0.0
    return Guess(best if ids is None else int(ids[best]), max(0.0, entropy), 1 / total, second)


class Gate(Protocol):
    """What says how unsure a block is."""

    def __call__(self, block: Sequence[Guess]) -> float:
        """The doubt of a block of at least one token, 0 or more."""
        ...

    def reset(self, escalated: bool) -> None:
        """A block was escalated or not, or (`escalated` as well) a text begins."""
        ...


class Largest:
    """The largest doubt of a block's tokens, each by itself."""

    def __init__(self, doubt: Callable[[Guess], float]) -> None:
        self._doubt = doubt

    def __call__(self, block: Sequence[Guess]) -> float:
        return max(self._doubt(token) for token in block)

    def reset(self, escalated: bool) -> None:
        """Nothing is remembered."""


def entropy(token: Guess) -> float:
    """The paper's: entropy in nats, 0 to log of the vocabulary's size."""
    return token.entropy


def probability(token: Guess) -> float:
    """1 minus the token's probability."""
    return 1 - token.first


def margin(token: Guess) -> float:
    """1 minus the distance to the second token's probability."""
    return 1 - (token.first - token.second)


@dataclass(frozen=True)
class Calibrated:
    """How likely it is that the cloud would refuse the token: a logistic model of what the drafter says of it.

    `weights` are those of 1, entropy, log of the probability, and margin; `fit` finds them.
    """

    weights: tuple[float, float, float, float]

    @staticmethod
    def load(path: Path) -> Calibrated:
        """Raises UsageError `gate_not_readable`."""
        try:
            a, b, c, d = (float(weight) for weight in json.loads(path.read_text(encoding="utf-8"))["weights"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                "gate_not_readable", f"{path} is no calibrated gate: `esrt ugsd tune` makes one ({error})."
            ) from error
        return Calibrated((a, b, c, d))

    def save(self, path: Path) -> None:
        """Write the weights as JSON."""
        path.write_text(json.dumps({"weights": self.weights}) + "\n", encoding="utf-8")

    def __call__(self, token: Guess) -> float:
        return float(1 / (1 + np.exp(-float(np.dot(self.weights, _features(token))))))


def _features(token: Guess) -> list[float]:
    return [1.0, token.entropy, math.log(max(token.first, 1e-12)), token.first - token.second]


def fit(tokens: Sequence[Guess], refused: Sequence[bool], rounds: int = 30) -> Calibrated:
    """The logistic model under which it is likeliest that just these tokens were refused (Newton's method).

    Raises UsageError `nothing_to_fit` where there are none, or all were answered alike.
    """
    if len(set(refused)) < 2:
        raise UsageError("nothing_to_fit", "Calibration needs tokens that the cloud refused and some that it accepted.")
    x = np.array([_features(token) for token in tokens])
    y = np.array(refused, dtype=np.float64)
    weights = np.zeros(x.shape[1])
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        # A little ridge: features that say the same must not run away from each other.
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 1e-3 * np.eye(x.shape[1])
        weights += np.linalg.solve(curvature, x.T @ (y - p) - 1e-3 * weights)
    a, b, c, d = weights.tolist()
    return Calibrated((a, b, c, d))


FILE = "gate.json"
"""Where a drafter's folder has its calibrated gate."""


class PipeSD:
    """PipeSD's rule: escalate when the running product of probabilities since the last check falls under `product`, or
    one probability under `single`. Its doubt is 1 then and 0 else: any gamma between serves.
    """

    def __init__(self, product: float, single: float) -> None:
        self._product, self._single = product, single
        self._running = 1.0

    def __call__(self, block: Sequence[Guess]) -> float:
        for token in block:
            self._running *= token.first
        return float(self._running < self._product or min(token.first for token in block) < self._single)

    def reset(self, escalated: bool) -> None:
        if escalated:
            self._running = 1.0


GATES: dict[str, Callable[[Guess], float]] = {"entropy": entropy, "probability": probability, "margin": margin}
