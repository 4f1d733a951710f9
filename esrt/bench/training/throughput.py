"""Samples a second of our step, beside a plain loop over the same clips, tasks and network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from esrt.audio.padding import pad
from esrt.bench.page import machine, table
from esrt.bench.training import arms
from esrt.config import FRAME_SAMPLES, PRESETS, WINDOW_SAMPLES
from esrt.model.mel import LogMel
from esrt.train import setup
from esrt.train.batches import Sample
from esrt.train.examples import example
from esrt.train.loop import Trainer
from esrt.train.recipes import Recipe, Stage
from esrt.train.sampler import Clip
from esrt.train.sound import sound

IGNORED = -100  # transformers' label of a position that does not count


class Plain:
    """What one writes first: sound files in, rows padded, logits on all positions over the whole vocabulary.

    It trains the parameters of `trainer`'s network in the same precision, with an optimiser of its own. Each sample is
    a row with one answer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.network = trainer, trainer.network
        config = PRESETS[trainer.recipe.model]
        self.context, self.mel = config.context, LogMel(config.encoder.mel_bins)
        self.encoder = setup.speech_encoder(config, setup.read_whisper(config))
        parameters = [parameter for group in self.network.groups().values() for parameter in group]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-6)

    def encode(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        """Frames float32 [b, t, width], padded, and how many of each are real [b]."""
        waves = [torch.from_numpy(pad(sound(clip.audio)[:WINDOW_SAMPLES], self.context)) for clip in clips]
        lengths = torch.tensor([len(wave) // FRAME_SAMPLES for wave in waves])
        with torch.no_grad():
            return self.encoder(self.mel(pad_sequence(waves, batch_first=True)), lengths).float(), lengths

    def rows(self, samples: Sequence[Sample], audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows as the LLM sees them [b, s, llm], which of them are real [b, s], and the labels [b, s]."""
        batches, queries = self.trainer.batches, audio.shape[1]
        found = [
            example(
                replace(sample.clip, translations=sample.clip.translations[:1]), sample.task,
                batches.tokenizer, batches.end, unnamed=sample.example is not None and sample.example.branch[-1] > 0,
            )
            for sample in samples
        ]  # fmt: skip
        ids = pad_sequence([torch.tensor(each.ids) for each in found], batch_first=True)
        learned = pad_sequence([torch.tensor(each.learned) for each in found], batch_first=True)
        lengths = torch.tensor([queries + len(each.ids) for each in found])
        labels = torch.cat([torch.full((len(found), queries), IGNORED), ids.where(learned, IGNORED)], dim=1)
        rows = torch.cat([audio, self.network.embed(ids)], dim=1)
        return rows, torch.arange(rows.shape[1]) < lengths[:, None], labels

    def step(self, stage: Stage, step: int) -> int:
        """One optimiser step; returns how many answers it learned from."""
        samples = self.trainer.batches.samples(stage, step)
        with self.trainer.accelerator.autocast():
            audio = self.network.projector(self.network.adapter(*self.encode([sample.clip for sample in samples])))
            rows, real, labels = self.rows(samples, audio)
            hidden = self.network.llm.base_model.model.model(
                inputs_embeds=rows, attention_mask=real.long(), use_cache=False
            ).last_hidden_state
            logits = (hidden @ self.network.embedding.T).float()
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
            )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return len(samples)


def answers(samples: Sequence[Sample]) -> int:
    """How many answers a batch asks for: translations that branch off one transcript count each."""
    return sum(max(1, *sample.example.branch) for sample in samples if sample.example is not None)


def run(recipe: Recipe, data: Path, steps: int) -> str:
    """The section: `steps` steps of either loop in the recipe's last stage, by turns."""
    stage = recipe.stages[-1]
    ours, plain, counts = [], [], []
    trainer = arms.build(replace(recipe, stages=(stage,)), data)
    other = Plain(trainer)
    for step in range(steps + 1):
        began = time.perf_counter()
        trainer.step(stage, step)
        middle = time.perf_counter()
        other.step(stage, step)
        if step:  # the first of each warms up
            ours.append(middle - began)
            plain.append(time.perf_counter() - middle)
            counts.append(answers(trainer.batches.samples(stage, step)))
    precision = trainer.accelerator.mixed_precision
    batch, one, two = stage.batch, statistics.median(ours), statistics.median(plain)
    each = statistics.mean(counts)

    def line(name: str, seconds: list[float], learned: float) -> list[str]:
        middle = statistics.median(seconds)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        return [name, f"{middle:.2f}", spread, f"{batch / middle:.2f}", f"{learned / middle:.2f}"]

    return "\n\n".join(
        [
            table(
                ["loop", "seconds a step, median", "range", "samples/s", "answers/s"],
                [line("ours", ours, each), line("plain", plain, batch)],
            ),
            f"Ours is **{two / one:.1f} times** as fast in samples, {two / one * each / batch:.1f} times in answers (a "
            f"sample of ours asks for up to four translations of one clip). Stage {stage.name} of {recipe.name}, "
            f"{batch} clips a step, {steps} steps of each by turns on the same clips, precision {precision}.",
            "The plain loop reads and encodes the sound in each step, pads rows, and takes logits on all positions "
            f"over the whole vocabulary; it has no CTC, and its encoder works on the clips' own length as ours did. On "
            f"{machine()}.",
        ]
    )
