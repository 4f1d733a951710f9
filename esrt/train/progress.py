"""What a run says of itself, by its main process: a progress bar, a log of JSON lines, and accelerate's trackers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from accelerate import Accelerator
from tqdm import tqdm

from esrt.train.recipes import Plan, Timed

LOG_EVERY = 10  # steps


class Progress:
    """One stage's bar and its lines in folder/log.jsonl, of which `done` steps are done already."""

    def __init__(self, accelerator: Accelerator, folder: Path, recipe: Plan, stage: Timed, done: int) -> None:
        self._accelerator, self._log, self._stage = accelerator, folder / "log.jsonl", stage
        names = [each.name for each in recipe.stages]
        self._before = sum(each.steps for each in recipe.stages[: names.index(stage.name)])
        self._window: list[Mapping[str, float]] = []
        self._began = self._window_began = time.monotonic()
        hidden = None if accelerator.is_main_process else True  # None: where there is no terminal
        self._bar = tqdm(total=stage.steps, initial=done, desc=f"stage {stage.name}", disable=hidden)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()

    def show(self, step: int, shown: Mapping[str, float]) -> None:
        """Counts a step, the `step`-th; every LOG_EVERY of them the means go to bar, log and trackers."""
        self._bar.update(1)
        self._window.append(shown)
        if step % LOG_EVERY:
            return
        means = {
            key: round(sum(each[key] for each in self._window) / len(self._window), 4)
            for key in shown
            if key != "tokens"
        }
        now = time.monotonic()
        tokens = round(sum(each["tokens"] for each in self._window) / (now - self._window_began), 1)
        self._window_began = now
        self._window.clear()
        self._bar.set_postfix({**means, "tokens/s": tokens})
        self.note(step, {**means, "tokens_per_second": tokens})

    def note(self, step: int, values: Mapping[str, object]) -> None:
        """A line of the log, and the same for the trackers."""
        if not self._accelerator.is_main_process:
            return
        seconds = round(time.monotonic() - self._began, 1)
        line = json.dumps({"stage": self._stage.name, "step": step, "seconds": seconds, **values})
        with self._log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")
        self._accelerator.log(dict(_flat(values)), step=self._before + step)


def _flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers with their names; those of a mapping within are called `outer/inner`."""
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, float):
            found.append((prefix + name, value))
    return found
