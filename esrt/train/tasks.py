"""What each task's loss counts: a task that gets worse on held-back clips gets weight back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from esrt.train.examples import plain
from esrt.train.recipes import Stage
from esrt.train.sampler import Clip

STEP, MOST = 1.25, 4.0
HELD_BACK = 50  # one text in so many


def held_back(clip: Clip) -> bool:
    """True for the clips that only validation sees: by what they say in English, so that a text goes with all its
    languages; where that is not known, by their own words.
    """
    said = {clip.source: clip.transcript, **dict(clip.translations)}
    text = plain(said.get("eng", clip.transcript))
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % HELD_BACK == 0


@dataclass
class Balance:
    """Factors of the tasks' loss weights, moved by their validation losses. `state` is task -> (factor, last loss)."""

    state: dict[str, tuple[float, float]] = field(default_factory=dict)

    def hear(self, losses: Mapping[str, float]) -> None:
        """A loss that rose since the last time lifts its task's factor, up to MOST; any other lowers it, down to 1."""
        for task, loss in losses.items():
            factor, last = self.state.get(task, (1.0, loss))
            self.state[task] = (min(factor * STEP, MOST) if loss > last else max(factor / STEP, 1.0), loss)

    def weights(self, stage: Stage) -> dict[str, float]:
        """What a sample's loss counts, by its task; 1 on average over the samples of the stage."""
        found = {task: stage.loss_weights.get(task, 1.0) * self.state.get(task, (1.0,))[0] for task in stage.tasks}
        mean = sum(share * found[task] for task, share in stage.tasks.items()) / sum(stage.tasks.values())
        return {task: weight / mean for task, weight in found.items()}
