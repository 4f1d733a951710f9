"""Who speaks: rows -> the space of a real speaker encoder, then the trials of the VoicePrivacy challenge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from esrt.model.probe import Probe
from esrt.privacy.clips import SYNTHETIC, Clip
from esrt.privacy.figures import Figure, bootstrap, eer
from esrt.privacy.probes.fit import Array, fit

ENROLLED = 3  # clips that an attacker has of each voice; the others are trials
HIDDEN = 96
_SHARP = 10.0


def train(rows: Array, prints: Array, clips: Sequence[Clip], epochs: int) -> Probe:
    """An attacker: [t, width] -> a voiceprint less what all have in common.

    `prints` [clips, n] are the speaker encoder's, of the sound. Learned of the clips that are not scored: each clip is
    drawn to its voice's mean print, and away from those of all other voices.
    """
    torch.manual_seed(0)
    places = np.flatnonzero([not clip.scored for clip in clips])
    names = sorted({clip.voice for clip in clips if not clip.scored})
    owner = np.array([names.index(clip.voice) if not clip.scored else -1 for clip in clips])
    middle = prints[places].mean(0)
    means = np.stack([prints[owner == number].mean(0) for number in range(len(names))]) - middle
    targets = nn.functional.normalize(torch.from_numpy(means).float(), dim=1)
    mine = torch.from_numpy(owner)

    def loss(found: Tensor, batch: Tensor) -> Tensor:
        cosines = nn.functional.normalize(found, dim=1) @ targets.T
        near = cosines[torch.arange(len(batch)), mine[batch]]
        return (1 - near).mean() + nn.functional.cross_entropy(_SHARP * cosines, mine[batch])

    return fit(Probe(rows.shape[-1], prints.shape[1], HIDDEN), rows, places, loss, epochs)


def verification(
    enrolled: Array, trials: Array, clips: Sequence[Clip], synthetic: bool, across: bool = False
) -> Figure:
    """Equal error rate over the scored clips' embeddings, [clips, n]: as the attacker enrolled them, and as it then met
    them.

    Voices are compared within a language (and, synthetic ones, within a sex): one that is told by its language is not
    recognised. With `across` a trial is in another language than what was enrolled: real voices that speak several.
    """
    places, names, model = _models(enrolled, clips, synthetic)
    scores = _unit(trials[places]) @ model.T
    same = np.array([[clips[place].speaker == name[0] for name in names] for place in places], bool)
    allowed = np.array([[_comparable(clips[place], name, across) for name in names] for place in places], bool)

    def value(drawn: npt.NDArray[np.int64]) -> float:
        kept = allowed[drawn]
        return eer(scores[drawn][kept], same[drawn][kept])

    return bootstrap(np.array([clips[place].speaker for place in places], str), value, 0.5)


def identification(enrolled: Array, trials: Array, clips: Sequence[Clip], synthetic: bool) -> Figure:
    """Share of trials whose nearest enrolled voice, of those of its language, is the right one."""
    places, names, model = _models(enrolled, clips, synthetic)
    there = np.array([[clips[place].language == name[1] for name in names] for place in places], bool)
    nearest = np.where(there, _unit(trials[places]) @ model.T, -np.inf).argmax(1) if names else places
    right = np.array([clips[place].speaker == names[at][0] for place, at in zip(places, nearest, strict=True)], bool)
    chance = float(np.mean(1 / there.sum(1))) if names else float("nan")
    speakers = np.array([clips[place].speaker for place in places], str)
    return bootstrap(speakers, lambda drawn: float(np.mean(right[drawn])) if len(drawn) else float("nan"), chance)


def figures(first: Array, own: Array, semi: Array, clips: Sequence[Clip]) -> dict[str, Figure]:
    """All figures of a view by name, from embeddings [clips, n].

    `first`: of plain clips by the attacker that knows plain clips alone; `own`: of the view by that attacker; `semi`:
    of the view by the attacker that was trained on it.
    """
    found = {}
    for name, enrolled, trials in (("ignorant", first, own), ("lazy", own, own), ("semi", semi, semi)):
        for kind, synthetic in (("", True), (", real", False)):
            found[f"{name}{kind}"] = verification(enrolled, trials, clips, synthetic)
    found["semi, across"] = verification(semi, semi, clips, False, across=True)
    found["identified"] = identification(semi, semi, clips, True)
    found["identified, real"] = identification(semi, semi, clips, False)
    return found


Name = tuple[str, str, str, str]


def _models(
    enrolled: Array, clips: Sequence[Clip], synthetic: bool
) -> tuple[npt.NDArray[np.int64], list[Name], npt.NDArray[np.float32]]:
    """Trials' places; voices as (speaker, language, sex, corpus); the mean embedding of each voice's enrolled clips.

    A real voice that speaks two languages has a model in each.
    """
    groups: dict[Name, list[int]] = {}
    for place, clip in enumerate(clips):
        if clip.scored and clip.speaker and (clip.corpus == SYNTHETIC) is synthetic:
            groups.setdefault((clip.speaker, clip.language, clip.sex, clip.corpus), []).append(place)
    groups = {name: found for name, found in groups.items() if len(found) > ENROLLED}
    model = [_unit(_unit(enrolled[found[:ENROLLED]]).mean(0)) for found in groups.values()]
    trials = np.array([place for found in groups.values() for place in found[ENROLLED:]], np.int64)
    return trials, list(groups), np.array(model, np.float32).reshape(len(groups), enrolled.shape[1])


def _comparable(clip: Clip, name: Name, across: bool) -> bool:
    _, language, sex, corpus = name
    if clip.corpus != corpus or (clip.language == language) is across:
        return False
    return clip.sex == sex or not (across or corpus == SYNTHETIC)


def _unit(vectors: Array) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return found
