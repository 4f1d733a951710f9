"""The training loop: stage after stage, batch after batch, resumable at every checkpoint."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from esrt.errors import ModelError
from esrt.train import checkpoint
from esrt.train.examples import Tokenizer, example, plain, token_ids
from esrt.train.features import Features
from esrt.train.network import Network, ctc_loss
from esrt.train.recipes import Recipe, Stage
from esrt.train.sampler import Clip, Sampler

SAVE_EVERY, LOG_EVERY = 100, 10  # steps
OTHERS = 5000


def groups(network: Network) -> dict[str, list[torch.nn.Parameter]]:
    """Which parameters follow which rate."""
    found: dict[str, list[torch.nn.Parameter]] = {"adapter": [], "projector": [], "lora": []}
    for name, parameter in checkpoint.trained(network).items():
        first = name.partition(".")[0]
        key = {"adapter": "adapter", "whisper_ctc": "adapter", "llm": "lora"}.get(first, "projector")
        found[key].append(parameter)
    return found


def rate(stage: Stage, step: int) -> float:
    """Share of the peak rate at a step: linear warm-up, then linear decay to a twentieth."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    return 1 - 0.95 * (step - stage.warmup) / max(1, stage.steps - stage.warmup)


class Trainer:
    """Everything one step needs."""

    def __init__(
        self, recipe: Recipe, network: Network, features: Features, sampler: Sampler,
        tokenizer: Tokenizer, whisper_tokenizer: Tokenizer, end: int,
    ) -> None:  # fmt: skip
        self.recipe, self.network, self.features, self.sampler = recipe, network, features, sampler
        self.tokenizer, self.whisper_tokenizer, self.end = tokenizer, whisper_tokenizer, end
        self.whisper_class = {int(token): index + 1 for index, token in enumerate(network.vocabularies.whisper)}
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "name": name} for name, parameters in groups(network).items()],
            lr=1e-4, betas=(0.9, 0.98), weight_decay=0.01,
        )  # fmt: skip

    def frames(self, batch: list[Clip]) -> tuple[Tensor, Tensor]:
        """Encoder frames float32 [b, t, width], padded, and how many of each are real [b]."""
        found = [torch.from_numpy(self.features.get(clip.audio).astype(np.float32)) for clip in batch]
        lengths = torch.tensor([len(rows) for rows in found])
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), lengths

    def tied_ctc(self, audio: Tensor, batch: list[Clip]) -> Tensor:
        """CTC over the LLM's tokens on projected rows [b, q, llm]: those of the batch, and others drawn at random.

        A softmax over all that occur costs more than the adapter, and teaches no more.
        """
        class_of = self.network.class_of
        wanted = [class_of[torch.tensor(token_ids(self.tokenizer, clip.transcript))] for clip in batch]
        others = torch.randint(len(self.network.vocabularies.llm), (OTHERS,))
        classes = torch.unique(torch.cat([*wanted, others]))
        targets = [torch.searchsorted(classes, tokens) + 1 for tokens in wanted]
        return ctc_loss(self.network.tied_ctc(audio, classes), targets)

    def loss(self, stage: Stage, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of batch `step` of a stage, and what to print."""
        batch, rng = self.sampler.batch(stage.name, step, stage.batch)
        torch.manual_seed(rng.getrandbits(32))
        rows = self.network.adapter(*self.frames(batch))
        if stage.objective == "ctc-whisper":
            targets = [
                torch.tensor([self.whisper_class[t] for t in token_ids(self.whisper_tokenizer, plain(clip.transcript))])
                for clip in batch
            ]
            loss = ctc_loss(self.network.whisper_ctc(rows), targets)
            return loss, {"ctc": loss.item()}
        audio = self.network.projector(rows)
        if stage.objective == "ctc-llm":
            loss = self.tied_ctc(audio, batch)
            return loss, {"ctc": loss.item()}
        tasks = rng.choices(list(stage.tasks), list(stage.tasks.values()), k=len(batch))
        examples = [
            example(clip, task, self.tokenizer, self.end, rng.random() < self.recipe.unnamed, rng)
            for clip, task in zip(batch, tasks, strict=True)
        ]
        losses, right = self.network.answer_loss(audio, examples)
        answer = losses.mean()
        ctc = self.tied_ctc(audio, batch)
        return answer + stage.ctc_weight * ctc, {"loss": answer.item(), "right": right.item(), "ctc": ctc.item()}

    def step(self, stage: Stage, step: int) -> dict[str, float]:
        """One optimiser step; raises ModelError `loss_not_finite` and changes nothing on a NaN."""
        share = rate(stage, step)
        peaks = {"adapter": stage.adapter_rate, "projector": stage.projector_rate, "lora": stage.lora_rate}
        for group in self.optimizer.param_groups:
            group["lr"] = share * peaks[group["name"]]
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
            loss, shown = self.loss(stage, step)
        if not math.isfinite(loss.item()):
            raise ModelError("loss_not_finite", f"The loss of stage {stage.name}, step {step}, is not a number.")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        return shown

    def run(self, out: Path) -> None:
        """Trains what is left of the recipe; state in out/state.safetensors, numbers in out/log.jsonl."""
        state = out / "state.safetensors"
        stages = list(self.recipe.stages)
        names = [stage.name for stage in stages]
        first, done = 0, 0
        if state.exists():
            name, done = checkpoint.restore(state, self.network, self.optimizer)
            first = names.index(name)
        for stage in stages[first:]:
            self.run_stage(stage, done, out, state)
            done = 0

    def run_stage(self, stage: Stage, done: int, out: Path, state: Path) -> None:
        self.network.train()
        window: list[dict[str, float]] = []
        began = time.monotonic()
        with (
            tqdm(total=stage.steps, initial=done, desc=f"stage {stage.name}", disable=None) as bar,
            (out / "log.jsonl").open("a", encoding="utf-8") as log,
        ):
            for step in range(done, stage.steps):
                window.append(self.step(stage, step))
                bar.update(1)
                if (step + 1) % LOG_EVERY == 0:
                    means = {key: round(sum(shown[key] for shown in window) / len(window), 4) for key in window[0]}
                    seconds = round(time.monotonic() - began, 1)
                    log.write(json.dumps({"stage": stage.name, "step": step + 1, "seconds": seconds, **means}) + "\n")
                    log.flush()
                    bar.set_postfix(means)
                    window.clear()
                if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
                    checkpoint.save(state, self.network, self.optimizer, stage.name, step + 1)
