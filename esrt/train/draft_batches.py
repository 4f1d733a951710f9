"""What a drafter learns from: clips as the whole model reads them, whose references are only read along."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from esrt.config import ModelConfig
from esrt.errors import UsageError
from esrt.model import checkpoint
from esrt.model.language_model import load_tokenizer
from esrt.train.adapter_rows import load_adapter
from esrt.train.batches import Answers, answers
from esrt.train.examples import example, one_caption
from esrt.train.manifest import read_manifest
from esrt.train.sampler import Clip, Sampler, clips
from esrt.train.setup import open_cache, read_whisper
from esrt.train.tasks import held_back

if TYPE_CHECKING:
    from esrt.train.draft import Plan


class Source:
    """Batches for one drafter: audio rows as the whole model reads them, and what follows."""

    def __init__(self, plan: Plan, folder: Path, data: Path) -> None:
        """`folder` is the ready model's, `data` has the manifests and the cached frames.

        Raises UsageError: no_features, features_differ where the frames are another encoder's; ModelError.
        """
        config = ModelConfig.load(folder / "config.json")
        self._features = open_cache(data / "features", config, read_whisper(config))
        lengths = self._features.lengths
        sets = {}
        for name in plan.weights:
            rows = [row for row in read_manifest(data / f"{name}.jsonl") if row.audio in lengths]
            sets[name] = [
                replace(clip, translations=tuple(t for t in clip.translations if t[0] in plan.to))
                for clip in clips(rows, lengths)
                if clip.transcript
            ]
            if not sets[name]:
                raise UsageError("no_features", f"No clip of {name} has cached frames in {data}: train a model first.")
        back = [clip for found in sets.values() for clip in found if held_back(clip)]
        self.back = random.Random(plan.seed).sample(back, min(64, len(back)))
        taught = {name: [clip for clip in found if not held_back(clip)] or found for name, found in sets.items()}
        self._sampler = Sampler(taught, dict(plan.weights), plan.seed)
        self._plan, self._tokenizer = plan, load_tokenizer(folder / "llm")
        self._adapter = load_adapter(folder, config).requires_grad_(False)
        self._projector = checkpoint.load_projector(folder)

    def batch(self, step: int) -> tuple[Tensor, Answers]:
        """Audio rows [b, queries, llm] and what follows them, of batch number `step`."""
        return self.tensors(self._sampler.batch("draft", step, self._plan.batch)[0], f"{self._plan.seed}/{step}")

    @torch.no_grad()
    def tensors(self, found: Sequence[Clip], seed: str) -> tuple[Tensor, Answers]:
        """The same of any clips; `seed` says which of their captions."""
        frames = [torch.from_numpy(self._features.get(clip.audio)).float() for clip in found]
        rows = self._adapter(pad_sequence(frames, batch_first=True), torch.tensor([len(each) for each in frames]))
        said = [one_caption(clip, random.Random(f"{seed}/{index}")) for index, clip in enumerate(found)]
        end = int(self._tokenizer.eos_token_id)
        examples = [example(clip, "caption" if clip.captions else "srt", self._tokenizer, end, True) for clip in said]
        return self._projector(rows), answers(examples)

    def held_back(self) -> Iterator[tuple[Tensor, Answers]]:
        """Clips that the drafter never learns from."""
        for first in range(0, len(self.back), 8):
            yield self.tensors(self.back[first : first + 8], f"{self._plan.seed}/held back/{first}")
