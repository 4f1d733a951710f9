"""From a batch's number to its tensors: clips, the languages each is asked for, and their token ids."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from esrt.audio.padding import pad
from esrt.config import FRAME_SAMPLES, WINDOW_SAMPLES
from esrt.m2m.config import token
from esrt.m2m.model import END, PLAIN, PROMPT, START, token_id
from esrt.m2m.recipes import Recipe, Stage
from esrt.model.mel import LogMel
from esrt.train.augment import augment
from esrt.train.features import Features
from esrt.train.manifest import Row
from esrt.train.sampler import Clip, Sampler
from esrt.train.sound import sound

IGNORED = -100
LONGEST = 128  # tokens of a text; longer ones are cut, and then have no end to learn
OTHERS = 5000
_TEXTS = 1000  # encoded at once: what a tokenizer returns takes a hundred times the memory of a text
_BYTES = 256  # the first ids of Whisper's byte-level vocabulary


class Batch(NamedTuple):
    """b clips, each asked for f languages; rows of one clip stand side by side.

    `sound` is frames [b, t, width] (a frozen encoder's) or log-mel [b, bins, 2t], of which `lengths` [b] frames are
    real. `ids` [b * f, s] begin with the prompt, and `labels` [b * f, s] are the ids that follow, IGNORED where nothing
    is learned; the first is the language that is spoken, as Whisper was trained. `source` [b, r] is the transcript with
    its length in `source_lengths`, for translation of text. `others` are ids that the softmax knows beside the labels:
    all that may be written, or OTHERS of them drawn at random, which takes less time.
    """

    sound: Tensor
    lengths: Tensor
    ids: Tensor
    labels: Tensor
    source: Tensor
    source_lengths: Tensor
    others: Tensor

    def known(self) -> Tensor:
        """The ids that the softmax knows, sorted."""
        return torch.unique(torch.cat([self.labels[self.labels != IGNORED], self.others]))


def vocabulary(
    tokenizer: Tokenizer, rows: Mapping[str, Iterable[Row]], weights: Mapping[str, float], languages: Sequence[str],
    draft: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Ids that the model may write (all of the texts, every byte, the end), and the `draft` most frequent (0: all).

    A manifest's tokens count as much as it is drawn from: `rows` and `weights` are by manifest.
    """
    shares, end = defaultdict[int, float](float), token_id(tokenizer, END)
    for name, members in rows.items():
        texts = {t for row in members for t, code in ((row.asr, row.src), (row.s2tt, row.tgt)) if code in languages}
        ordered, counts = sorted(texts), Counter({end: len(texts)})
        for first in range(0, len(ordered), _TEXTS):
            for found in tokenizer.encode_batch(ordered[first : first + _TEXTS], add_special_tokens=False):
                counts.update(found.ids)
        for one, count in counts.items():
            shares[one] += weights[name] * count / (counts.total() or 1)
    outputs = sorted({*shares, *range(_BYTES)})
    common = sorted(i for i, _ in sorted(shares.items(), key=lambda found: (-found[1], found[0]))[: draft or None])
    return torch.tensor(outputs), torch.tensor(common if draft else outputs)


def within(rows: Iterable[Row], languages: Sequence[str]) -> list[Row]:
    """The rows whose source, and target where there is one, are among the languages."""
    return [row for row in rows if row.src in languages and (not row.tgt or row.tgt in languages)]


@dataclass(frozen=True)
class Batches:
    """Where batches come from. What is drawn depends on seed, stage and number alone."""

    recipe: Recipe
    sampler: Sampler
    features: Features | None  # None: log-mel of the sound itself, for an encoder that is trained
    tokenizer: Tokenizer
    outputs: Tensor
    mel_bins: int = 80

    @property
    def spoken(self) -> list[int]:
        """Tokens of the languages: the first position says which one is heard."""
        return [token_id(self.tokenizer, token(code)) for code in self.recipe.model.languages]

    def batch(self, stage: Stage, step: int) -> Batch:
        """Batch `step` of a stage."""
        clips, rng = self.sampler.batch(stage.name, step, stage.batch)
        clips, sound, lengths = self._heard(clips, stage, step)
        asked = [self._asked(clip, stage.forks, rng) for clip in clips]
        rows = [self._row(clip, pair) for clip, pairs in zip(clips, asked, strict=True) for pair in pairs]
        source = [torch.tensor(self._ids(clip.transcript)) for clip in clips]
        return Batch(
            sound,
            lengths,
            pad_sequence([torch.tensor(ids) for ids, _ in rows], batch_first=True),
            pad_sequence([torch.tensor(labels) for _, labels in rows], batch_first=True, padding_value=IGNORED),
            pad_sequence(source, batch_first=True),
            torch.tensor([len(ids) for ids in source]),
            self._others(stage, step),
        )

    def _others(self, stage: Stage, step: int) -> Tensor:
        known = torch.cat([self.outputs, torch.tensor(self.spoken)])
        if len(known) <= OTHERS:
            return known
        generator = np.random.default_rng([self.recipe.seed, step, *stage.name.encode()])
        return known[torch.from_numpy(generator.choice(len(known), OTHERS, replace=False))]

    def _asked(self, clip: Clip, forks: int, rng: random.Random) -> list[tuple[str, str]]:
        """(language, text) of each of the clip's rows; an empty text where the clip has too few."""
        pairs = list(clip.translations[:forks])
        if not pairs or rng.random() < self.recipe.transcribe * forks:
            pairs = [*pairs[: forks - 1], (clip.source, clip.transcript)]
        return [*pairs, *[(clip.source, "")] * (forks - len(pairs))]

    def _ids(self, text: str) -> list[int]:
        return [*self.tokenizer.encode(text, add_special_tokens=False).ids[:LONGEST], token_id(self.tokenizer, END)]

    def _row(self, clip: Clip, pair: tuple[str, str]) -> tuple[list[int], list[int]]:
        target, text = pair
        start, to, plain = (token_id(self.tokenizer, name) for name in (START, token(target), PLAIN))
        spoken = token_id(self.tokenizer, token(clip.source))
        if not text:
            return [start, to, plain], [IGNORED] * PROMPT
        ids = self._ids(text)
        labels = [spoken, IGNORED, *ids]
        if len(ids) > LONGEST:
            labels[-1] = IGNORED
        return [start, to, plain, *ids[:-1]], labels

    def _heard(self, clips: Sequence[Clip], stage: Stage, step: int) -> tuple[list[Clip], Tensor, Tensor]:
        """The clips, and their `Batch.sound` and `lengths`. Another of them takes the place of one without sound, as a
        damaged file has none: nobody shall learn to hear words there.
        """
        if self.features is None:
            sounds = [sound(clip.audio)[:WINDOW_SAMPLES] for clip in clips]
            whole = [place for place, samples in enumerate(sounds) if len(samples)] or [0]
            places = [place if len(sounds[place]) else whole[place % len(whole)] for place in range(len(clips))]
            waves = [pad(sounds[place], "speech") for place in places]
            mel = LogMel(self.mel_bins)
            mels = [mel(torch.from_numpy(wave)[None])[0].T for wave in waves]
            lengths = torch.tensor([len(wave) // FRAME_SAMPLES for wave in waves])
            return [clips[place] for place in places], pad_sequence(mels, batch_first=True).transpose(1, 2), lengths
        found = [self.features.get(clip.audio).astype(np.float32) for clip in clips]
        if self.recipe.augment:
            seeds = [[self.recipe.seed, step, place, *stage.name.encode()] for place in range(len(clips))]
            found = [augment(rows, np.random.default_rng(seed)) for rows, seed in zip(found, seeds, strict=True)]
        padded = pad_sequence([torch.from_numpy(rows) for rows in found], batch_first=True)
        return list(clips), padded, torch.tensor([len(rows) for rows in found])
