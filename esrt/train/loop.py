"""The training loop: stage after stage, batch after batch, on any number of processes, resumable at checkpoints."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device

from esrt.errors import ModelError
from esrt.train import checkpoint, parallel
from esrt.train.batches import Batches, Sample
from esrt.train.network import Losses, Network
from esrt.train.progress import Progress
from esrt.train.recipes import Recipe, Stage, Timed
from esrt.train.tasks import Balance

SAVE_EVERY = 100  # steps
VALIDATION_BATCHES = 4


def rate(stage: Timed, step: int) -> float:
    """Share of the peak rate at a step: linear warm-up, then linear decay to a twentieth."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    return 1 - 0.95 * (step - stage.warmup) / max(1, stage.steps - stage.warmup)


class _AdamW(torch.optim.AdamW):
    """What has no rate does not change, nor do its moments: for what a stage leaves out DeepSpeed has zeros."""

    def step(self, closure: Any = None) -> Any:
        every = self.param_groups
        self.param_groups = [group for group in every if group["lr"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = every


class Trainer:
    """Everything one step needs. State, log and what went wrong are written into `folder`, by the main process."""

    def __init__(
        self, recipe: Recipe, network: Network, batches: Batches, accelerator: Accelerator, folder: Path,
        validation: Batches | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.batches, self.validation = recipe, batches, validation
        self.accelerator, self.folder = accelerator, folder
        optimizer = _AdamW(
            [{"params": parameters, "name": name} for name, parameters in network.groups().items()],
            lr=1e-4, betas=(0.9, 0.98), weight_decay=0.01,
        )  # fmt: skip
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self.parameters = list(self.model.parameters())
        self.balance = Balance()

    @property
    def network(self) -> Network:
        """The network itself, out of what spreads it over processes."""
        network: Network = self.accelerator.unwrap_model(self.model)
        return network

    def parts(self, stage: Stage) -> list[slice]:
        """This process' parts of a batch. Raises UsageError `batch_not_divisible`."""
        each = self.accelerator.gradient_accumulation_steps
        size = parallel.part_size(self.accelerator, stage.name, stage.batch)
        first = self.accelerator.process_index * each
        return [slice(size * index, size * (index + 1)) for index in range(first, first + each)]

    def losses(self, batches: Batches, stage: Stage, step: int, samples: Sequence[Sample], part: slice) -> Losses:
        """The losses of a part of a batch."""
        batch = send_to_device(batches.tensors(stage, step, samples, part), self.accelerator.device)
        with self.accelerator.autocast():  # under FSDP the model does not do so by itself
            losses: Losses = self.model(stage.objective, batch)
        return losses

    def step(self, stage: Stage, step: int) -> dict[str, float]:
        """One optimiser step; returns what to print, of the whole batch.

        Raises ModelError `loss_not_finite` on a NaN: the weights stay (under DeepSpeed those of the last state), and
        the batch is written to bad-batch.json.
        """
        share = rate(stage, step)
        peaks = {"adapter": stage.adapter_rate, "projector": stage.projector_rate, "lora": stage.lora_rate}
        peaks["tags"] = stage.projector_rate if stage.objective == "llm" else 0.0  # nothing else reads them
        for group in self.optimizer.param_groups:
            group["lr"] = share * peaks[group["name"]]
            if group["name"] == "lora":
                for parameter in group["params"]:
                    parameter.requires_grad_(stage.lora_rate > 0)
        if not self.model.training:
            self.model.train()
        if self.recipe.lora_dropout:
            # It alone asks torch's generator; each process drops other units.
            seed = f"{self.recipe.seed}/{stage.name}/{step}/{self.accelerator.process_index}"
            torch.manual_seed(random.Random(seed).getrandbits(32))
        samples = self.batches.samples(stage, step)
        counts, found = self.balance.weights(stage), []
        ctc_weight = stage.ctc_weight if stage.objective == "llm" else 1.0
        for part in self.parts(stage):
            with self.accelerator.accumulate(self.model):
                losses = self.losses(self.batches, stage, step, samples, part)
                weights = torch.tensor([counts.get(s.task, 1.0) for s in samples[part]], device=losses.ctc.device)
                leak = self.recipe.adversary * losses.leak
                told = stage.told_weight * losses.told
                self.accelerator.backward((weights * losses.answer + ctc_weight * losses.ctc + leak + told).mean())
            found.append(torch.stack(losses).detach())
        # One column a sample, in the order of `samples`: processes have consecutive parts.
        whole = Losses(*self.accelerator.gather(torch.cat(found, dim=1).T.contiguous()).T.cpu())
        norm = self.accelerator.clip_grad_norm_(self.parameters, 1.0)
        if not torch.stack(whole).isfinite().all() or (norm is not None and not math.isfinite(norm)):
            raise self._not_finite(stage, step, samples, whole)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        shown = {"tokens": whole.tokens.sum().item()}
        if stage.objective == "llm":
            right = (whole.right * whole.tokens).sum() / whole.tokens.sum()
            shown |= {"loss": whole.answer.mean().item(), "right": right.item()}
        if ctc_weight:
            shown["ctc"] = whole.ctc.mean().item()
        if stage.told_weight:
            shown["told"] = whole.told.mean().item()
        if self.recipe.adversary:
            shown["leak"] = whole.leak.mean().item()
        return shown

    def _not_finite(self, stage: Stage, step: int, samples: Sequence[Sample], losses: Losses) -> ModelError:
        path = self.folder / "bad-batch.json"
        if self.accelerator.is_main_process:
            found = [
                {"audio": s.clip.audio, "task": s.task, "answer": answer, "ctc": ctc, "transcript": s.clip.transcript}
                for s, answer, ctc in zip(samples, losses.answer.tolist(), losses.ctc.tolist(), strict=True)
            ]
            report = {"stage": stage.name, "step": step, "samples": found}
            path.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return ModelError(
            "loss_not_finite",
            f"The loss of stage {stage.name}, step {step}, or its gradient is not a number: {path} has the batch.",
        )

    @torch.no_grad()
    def validate(self, stage: Stage) -> dict[str, float]:
        """The loss of each task of a stage on the same held-back clips; tasks that none of them serves are left out."""
        if self.validation is None:
            return {}
        self.model.eval()
        found: dict[str, list[float]] = {}
        for task in stage.tasks:
            asked = replace(stage, name="validation", tasks={task: 1.0}, ctc_weight=0.0)
            for number in range(VALIDATION_BATCHES):
                samples = self.validation.samples(asked, number)
                parts = [
                    self.losses(self.validation, asked, number, samples, part).answer for part in self.parts(stage)
                ]
                losses = self.accelerator.gather(torch.cat(parts)).tolist()
                found.setdefault(task, []).extend(
                    loss for sample, loss in zip(samples, losses, strict=True) if sample.task == task
                )
        return {task: round(sum(losses) / len(losses), 6) for task, losses in found.items() if losses}

    def run(self) -> None:
        """Trains what is left of the recipe's stages; where the state is of another stage, all of them."""
        names = [stage.name for stage in self.recipe.stages]
        first, done = 0, 0
        if (at := checkpoint.place(self.folder)) is not None:
            checkpoint.restore(self.folder, self.accelerator, self.model, self.optimizer)
            self.balance.state = dict(at.tasks)
            if at.stage in names:
                first, done = names.index(at.stage), at.step
        for stage in self.recipe.stages[first:]:
            self.run_stage(stage, done)
            done = 0

    def run_stage(self, stage: Stage, done: int) -> None:
        """Trains a stage of which `done` steps are done."""
        bf16 = parallel.in_bf16(self.accelerator)
        with Progress(self.accelerator, self.folder, self.recipe, stage, done) as progress:
            for step in range(done, stage.steps):
                progress.show(step + 1, self.step(stage, step))
                every = self.recipe.validate_every
                if stage.objective == "llm" and every and (step + 1) % every == 0:
                    heard = self.validate(stage)
                    self.balance.hear(heard)
                    progress.note(step + 1, {"validation": heard, "loss_weights": self.balance.weights(stage)})
                if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
                    at = checkpoint.Place(stage.name, step + 1, bf16, self.balance.state)
                    checkpoint.save(self.folder, self.accelerator, self.model, self.optimizer, at)
