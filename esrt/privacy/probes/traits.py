"""What else a clip tells: a network with a head for each question, and least squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from esrt.model.probe import Probe
from esrt.privacy.clips import Clip
from esrt.privacy.figures import Figure, bootstrap, r2
from esrt.privacy.probes import linear
from esrt.privacy.probes.fit import Array, ask, fit

HIDDEN = 96
Fact = Callable[[Clip, "Heard"], str | float | None]


@dataclass(frozen=True)
class Heard:
    """What is measured on a clip's own sound: seconds, and semitones above 55 Hz."""

    seconds: float
    pitch: float | None


@dataclass(frozen=True)
class Question:
    """A name, and the answer of a clip: one of a few words, or a number; None or "" where it is not known."""

    name: str
    answer: Fact
    number: bool = False


QUESTIONS = (
    Question("sex", lambda clip, _: clip.sex),
    Question("pitch", lambda _, heard: heard.pitch, number=True),
    Question("duration", lambda _, heard: float(np.log(heard.seconds)), number=True),
    Question("language", lambda clip, _: clip.language),
    Question("level", lambda clip, _: clip.level, number=True),
    Question("channel", lambda clip, _: clip.channel),
)


def attack(rows: Array, clips: Sequence[Clip], heard: Sequence[Heard], epochs: int) -> dict[str, Figure]:
    """A network that trains on the clips that are not scored, and answers every question on those that are.

    By question's name. Words: share right, equally of each word, so that chance is 1 / words. Numbers: R2, of which
    chance is 0.
    """
    torch.manual_seed(0)
    trained, heads, speakers = _asked(clips, heard)
    ends = np.cumsum([head.size for head in heads]).tolist()
    parts = [slice(end - head.size, end) for end, head in zip(ends, heads, strict=True)]

    def loss(found: Tensor, batch: Tensor) -> Tensor:
        return torch.stack([head.loss(found[:, part], batch) for head, part in zip(heads, parts, strict=True)]).sum()

    probe = fit(Probe(rows.shape[-1], ends[-1], HIDDEN), rows, np.flatnonzero(trained), loss, epochs)
    found = ask(probe, rows)
    return {
        question.name: head.score(found[:, part], ~trained, speakers)
        for question, head, part in zip(QUESTIONS, heads, parts, strict=True)
    }


def attack_linearly(rows: Array, clips: Sequence[Clip], heard: Sequence[Heard]) -> dict[str, Figure]:
    """The same by least squares, each question for itself."""
    trained, heads, speakers = _asked(clips, heard)
    found = {}
    for question, head in zip(QUESTIONS, heads, strict=True):
        places = np.flatnonzero(trained & ~np.isnan(head.targets))
        said = np.zeros((len(rows), head.size), np.float32)
        if len(places):
            said = linear.fit(rows, places, head.columns(), speakers)(rows)
        found[question.name] = head.score(said, ~trained, speakers)
    return found


def _asked(
    clips: Sequence[Clip], heard: Sequence[Heard]
) -> tuple[npt.NDArray[np.bool_], list[_Head], npt.NDArray[np.str_]]:
    """Which clips are trained on, a head for each question, and whose the clips are."""
    trained = np.array([not clip.scored for clip in clips])
    heads = [
        _head(question, [question.answer(clip, one) for clip, one in zip(clips, heard, strict=True)], trained)
        for question in QUESTIONS
    ]
    return trained, heads, np.array([clip.voice for clip in clips], str)


@dataclass(frozen=True)
class _Head:
    """`targets` [clips]: places among `words`, or numbers of mean 0 and spread 1; NaN where there is no answer."""

    words: tuple[str, ...]
    targets: npt.NDArray[np.float32]

    @property
    def size(self) -> int:
        return max(1, len(self.words))

    def columns(self) -> npt.NDArray[np.float32]:
        """`targets` as [clips, size]: a one in the column of the right word, or the number."""
        known: npt.NDArray[np.float32] = np.nan_to_num(self.targets)[:, None]
        return np.equal(known, np.arange(self.size)[None]).astype(np.float32) if self.words else known

    def loss(self, found: Tensor, batch: Tensor) -> Tensor:
        wanted = torch.from_numpy(self.targets)[batch]
        known = ~wanted.isnan()
        if not known.any():
            return found.sum() * 0
        if self.words:
            return nn.functional.cross_entropy(found[known], wanted[known].long())
        return nn.functional.mse_loss(found[known, 0], wanted[known])

    def score(self, found: Array, scored: npt.NDArray[np.bool_], speakers: npt.NDArray[np.str_]) -> Figure:
        places = np.flatnonzero(scored & ~np.isnan(self.targets))
        wanted, said = self.targets[places], found[places]
        if not self.words:
            return bootstrap(speakers[places], lambda drawn: r2(wanted[drawn], said[drawn, 0]), 0.0)
        right, there = said.argmax(1) == wanted, np.unique(wanted)

        def value(drawn: npt.NDArray[np.int64]) -> float:
            each = [right[drawn][wanted[drawn] == word] for word in there]
            return float(np.mean([one.mean() for one in each if len(one)])) if len(drawn) else float("nan")

        return bootstrap(speakers[places], value, 1 / max(1, len(there)))


def _head(question: Question, answers: Sequence[str | float | None], trained: npt.NDArray[np.bool_]) -> _Head:
    if question.number:
        numbers = np.array([np.nan if answer is None else answer for answer in answers], np.float32)
        known = numbers[trained & ~np.isnan(numbers)]
        spread = max(float(known.std()), 1e-6) if len(known) else 1.0
        return _Head((), ((numbers - (known.mean() if len(known) else 0)) / spread).astype(np.float32))
    words = sorted({str(a) for a, taught in zip(answers, trained, strict=True) if a and taught})
    places = [words.index(str(answer)) if answer in words else np.nan for answer in answers]
    return _Head(tuple(words) or ("",), np.array(places, np.float32))
