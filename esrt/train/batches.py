"""From a batch's number to its tensors: one process' part of the same clips, tasks and targets that all agree on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from esrt.train.adversary import Voices
from esrt.train.augment import augment, restyle
from esrt.train.encoding import Frames
from esrt.train.examples import Example, Tokenizer, always_into, example, one_caption, plain, token_ids
from esrt.train.recipes import Recipe, Stage
from esrt.train.sampler import Clip, Sampler

OTHERS = 5000  # classes of the tied CTC beside those that the batch needs


@dataclass(frozen=True)
class Vocabularies:
    """Token ids that occur in the training texts: a softmax over these alone is several times faster and no worse.

    `whisper` and `llm` are sorted; `tags` are the ids of the 102 language tags in the LLM's vocabulary, which `llm` is
    without. `outputs` are what the trained model may write: both, and enough to spell everything else.
    """

    whisper: Tensor
    llm: Tensor
    tags: Tensor
    outputs: Tensor


class Answers(NamedTuple):
    """Examples as tensors [b, s], padded; `branch` is -1 where nothing stands."""

    ids: Tensor
    learned: Tensor
    branch: Tensor
    positions: Tensor


class Targets(NamedTuple):
    """CTC targets of b clips, one after the other: class numbers (0 is the blank) [n], and how many each has [b].

    `classes` are the LLM's token ids that class 1 and those after it stand for; empty for Whisper's, which all count.
    `captions` [b, classes] says which of them the captions of each clip have, in a stage that asks for it.
    """

    tokens: Tensor
    lengths: Tensor
    classes: Tensor
    captions: Tensor | None = None


class Batch(NamedTuple):
    """Frames [b, t, width] of which `lengths` [b] are real, and what they are asked for; `voices` (`Voices.of`) are
    there where they shall be hidden.
    """

    frames: Tensor
    lengths: Tensor
    targets: Targets | None
    answers: Answers | None
    voices: Tensor | None = None


class Sample(NamedTuple):
    """A clip and what is asked of it; `task` is `ctc` where the LLM is not asked."""

    clip: Clip
    task: str
    example: Example | None


def answers(examples: Sequence[Example]) -> Answers:
    """Pads examples to the longest."""
    return Answers(
        pad_sequence([torch.tensor(e.ids) for e in examples], batch_first=True),
        pad_sequence([torch.tensor(e.learned) for e in examples], batch_first=True),
        pad_sequence([torch.tensor(e.branch) for e in examples], batch_first=True, padding_value=-1),
        pad_sequence([torch.tensor(e.positions) for e in examples], batch_first=True),
    )


@dataclass(frozen=True)
class Batches:
    """Where batches come from. What is drawn depends on seed, stage and number, never on how many processes there are.

    `end` is the LLM's token at the end of an answer.
    """

    recipe: Recipe
    sampler: Sampler
    features: Frames
    tokenizer: Tokenizer
    whisper_tokenizer: Tokenizer
    vocabularies: Vocabularies
    end: int
    voices: Voices | None = None

    def samples(self, stage: Stage, step: int) -> list[Sample]:
        """All clips of batch `step`, each with its task."""
        clips, _ = self.sampler.batch(stage.name, step, stage.batch, stage.weights)
        if stage.objective != "llm":
            return [Sample(clip, "ctc", None) for clip in clips]
        return [self._sample(stage, step, index, clip) for index, clip in enumerate(clips)]

    def _sample(self, stage: Stage, step: int, index: int, clip: Clip) -> Sample:
        rng = random.Random(f"{self.recipe.seed}/{stage.name}/{step}/{index}")
        (task,) = rng.choices(list(stage.tasks), list(stage.tasks.values()))
        if task == "caption":
            clip = one_caption(clip, rng)
        asked = task if (clip.captions if task == "caption" else clip.translations) else "asr"
        unnamed = rng.random() < self.recipe.unnamed
        clip = always_into(clip, self.recipe.always)
        return Sample(clip, asked, example(clip, asked, self.tokenizer, self.end, unnamed))

    def frames(
        self, clips: Sequence[Clip], seeds: Sequence[list[int]] = (), others: Sequence[Clip] = ()
    ) -> tuple[Tensor, Tensor]:
        """Encoder frames float32 [b, t, width], padded, and how many of each are real [b].

        With a seed and another clip for each, they are disturbed.
        """
        audios = list(dict.fromkeys(clip.audio for clip in (*clips, *others)))
        known = {audio: rows.astype(np.float32) for audio, rows in zip(audios, self.features.of(audios), strict=True)}
        found = [known[clip.audio] for clip in clips]
        if seeds:
            dice = [np.random.default_rng(seed) for seed in seeds]
            met = zip(found, [known[clip.audio] for clip in others], dice, strict=True)
            found = [augment(restyle(rows, other, rng), rng) for rows, other, rng in met]
        padded = pad_sequence([torch.from_numpy(rows) for rows in found], batch_first=True)
        return padded, torch.tensor([len(rows) for rows in found])

    def tensors(self, stage: Stage, step: int, samples: Sequence[Sample], part: slice) -> Batch:
        """A part of a batch's samples. The CTC's classes are those of the whole batch, as all parts share one loss."""
        mine = samples[part]
        targets = None
        if stage.objective == "ctc-whisper":
            targets = self._whisper_targets(mine)
        elif stage.objective == "ctc-llm" or stage.ctc_weight:
            targets = self._tied_targets(stage, step, samples, part)
        examples = [sample.example for sample in mine if sample.example is not None]
        seeds, others = [], []
        if self.recipe.augment:
            places = range(*part.indices(len(samples)))
            seeds = [[self.recipe.seed, step, place, *stage.name.encode()] for place in places]
            # Its neighbour, which nearly always is of the same part: the same one, whoever has which part.
            others = [samples[min(place ^ 1, len(samples) - 1)].clip for place in places]
        frames, lengths = self.frames([sample.clip for sample in mine], seeds, others)
        asked = answers(examples) if examples else None
        if not all(heard := [sample.clip.audio not in self.features.silent for sample in mine]):
            targets, asked = _only(torch.tensor(heard), targets, asked)
        voices = None if self.voices is None else self.voices.of([sample.clip.audio for sample in mine])
        return Batch(frames, lengths, targets, asked, voices)

    def _whisper_targets(self, samples: Sequence[Sample]) -> Targets:
        found = [torch.tensor(token_ids(self.whisper_tokenizer, plain(s.clip.transcript))).long() for s in samples]
        return _targets(found, self.vocabularies.whisper, torch.empty(0, dtype=torch.long))

    def _tied_targets(self, stage: Stage, step: int, samples: Sequence[Sample], part: slice) -> Targets:
        """Classes are the tokens of the batch, and others drawn at random.

        A softmax over all that occur costs more than the adapter, and teaches no more.
        """
        wanted = [torch.tensor(token_ids(self.tokenizer, s.clip.transcript)).long() for s in samples]
        generator = np.random.default_rng([self.recipe.seed, step, *stage.name.encode()])
        known = self.vocabularies.llm
        others = torch.from_numpy(generator.integers(len(known), size=OTHERS))
        said = [self._said(s.clip) for s in samples] if stage.told_weight else []
        classes = torch.unique(torch.cat([*wanted, *said, known[others]]))
        targets = _targets(wanted[part], classes, classes)
        if not said:
            return targets
        return targets._replace(captions=torch.stack([torch.isin(classes, words) for words in said[part]]))

    def _said(self, clip: Clip) -> Tensor:
        """The tokens of all that a clip's captions say."""
        texts = [text for _, texts in clip.captions for text in texts]
        return torch.tensor([token for text in texts for token in token_ids(self.tokenizer, text)]).long()


def _only(
    heard: Tensor, targets: Targets | None, asked: Answers | None
) -> tuple[Targets | None, Answers | None]:  # fmt: skip
    """No words are learned of the clips that are not `heard` [b], bool."""
    if targets is not None:
        tokens = targets.tokens[heard.repeat_interleave(targets.lengths)]
        targets = targets._replace(tokens=tokens, lengths=targets.lengths * heard)
    if asked is not None:
        asked = asked._replace(learned=asked.learned & heard[:, None])
    return targets, asked


def _targets(tokens: Sequence[Tensor], known: Tensor, classes: Tensor) -> Targets:
    """Token ids as places among the sorted `known`, the first of which is class 1."""
    lengths = torch.tensor([len(each) for each in tokens])
    return Targets(torch.searchsorted(known, torch.cat(list(tokens))) + 1, lengths, classes)
