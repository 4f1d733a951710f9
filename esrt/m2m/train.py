"""The training of whisperM2M: stage after stage, on any number of processes, resumable bit for bit at checkpoints."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device

from esrt.config import PRESETS
from esrt.errors import ModelError, UsageError
from esrt.m2m.batches import IGNORED, Batch, Batches, vocabulary, within
from esrt.m2m.engine import Engine
from esrt.m2m.generate import generate
from esrt.m2m.linear import Precision
from esrt.m2m.model import M2M, PROMPT, drafters, from_base, load, save
from esrt.m2m.network import Losses, Network
from esrt.m2m.offline import encoder_shape
from esrt.m2m.prune import Size, prune
from esrt.m2m.recipes import Recipe, Stage
from esrt.model import manifest
from esrt.train import checkpoint, parallel
from esrt.train.features import Features, frame_counts
from esrt.train.loop import rate
from esrt.train.manifest import read_manifest
from esrt.train.progress import Progress
from esrt.train.sampler import Sampler, capped
from esrt.train.setup import cached_frames, taught

SAVE_EVERY = 25  # steps, a few minutes on a processor
IMPORTANCE_BATCHES = 8
BASE_SHOWN = ("total", "speech", "text", "teach", "draft", "right")
LONGEST_OWN = 64  # tokens of the base's own outputs that drafters learn from


class Trainer:
    """Everything one step needs. State and log are written into `folder`."""

    def __init__(
        self, recipe: Recipe, model: M2M, network: Network, batches: Batches, accelerator: Accelerator, folder: Path
    ) -> None:
        self.recipe, self.base, self.batches = recipe, model, batches
        self.accelerator, self.folder = accelerator, folder
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.01)
        self.frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self.engine: Engine | None = None

    @property
    def network(self) -> Network:
        """The network itself, out of what spreads it over processes."""
        network: Network = self.accelerator.unwrap_model(self.model)
        return network

    def begin(self, stage: Stage) -> None:
        """Lets train what the stage trains; `drafters` need the base as it is now, to write."""
        drafting = stage.trains == "drafters"
        for name, parameter in self.network.named_parameters():
            if name.startswith("kvspn."):
                wanted = drafting or stage.losses.draft > 0
            else:
                wanted = drafting == name.startswith("medusa.")
            parameter.requires_grad_(wanted and name not in self.frozen)
        self.engine = Engine(_on_processor(self.base), trimmed=True) if drafting else None

    def step(self, stage: Stage, step: int) -> dict[str, float]:
        """One optimiser step; returns what to print. Raises ModelError `loss_not_finite`; the weights stay then."""
        for group in self.optimizer.param_groups:
            group["lr"] = stage.rate * rate(stage, step)
        self.model.train()
        batch = self.batches.batch(stage, step)
        if self.engine is not None:
            batch = self.own(batch)
        mine = _parts(batch, self.accelerator.num_processes, self.accelerator.process_index)
        each = self.accelerator.gradient_accumulation_steps
        found: list[Losses] = []
        for part in (_parts(mine, each, index) for index in range(each)):
            with self.accelerator.accumulate(self.model):
                losses: Losses = self.model(
                    send_to_device(part, self.accelerator.device), stage.losses, stage.trains == "drafters"
                )
                self.accelerator.backward(losses.total)
            found.append(losses)
        means = [torch.stack(values).detach().mean() for values in zip(*found, strict=True)]
        whole = Losses(*self.accelerator.gather(torch.stack(means)[None]).mean(0).cpu())
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
        if not math.isfinite(whole.total.item()) or (norm is not None and not math.isfinite(norm)):
            raise ModelError("loss_not_finite", f"The loss of stage {stage.name}, step {step}, is not a number.")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        names = ("draft", "guessed", "medusa") if stage.trains == "drafters" else BASE_SHOWN
        shown = {name: getattr(whole, name).item() for name in names}
        return {"tokens": float((batch.labels != IGNORED).sum()), **shown}

    def own(self, batch: Batch) -> Batch:
        """The batch with what the base itself writes in place of the references, greedily."""
        assert self.engine is not None
        forks = len(batch.ids) // len(batch.lengths)
        prompts = batch.ids[:, :PROMPT]
        with torch.inference_mode():
            state = self.engine.start(batch.sound, batch.lengths.tolist(), PROMPT + LONGEST_OWN, forks, drafts=False)
            written = generate(self.engine, state, prompts, LONGEST_OWN)
        end = self.engine.model.end
        rows = [ids if len(ids) == LONGEST_OWN else [*ids, end] for ids in written.ids]
        longest = max(len(ids) for ids in rows)
        ids = torch.zeros(len(rows), PROMPT + longest - 1, dtype=torch.long)
        labels = torch.full((len(rows), PROMPT - 1 + longest), IGNORED)
        ids[:, :PROMPT] = prompts
        for row, tokens in enumerate(rows):
            ids[row, PROMPT : PROMPT + len(tokens) - 1] = torch.tensor(tokens[:-1])
            labels[row, PROMPT - 1 : PROMPT - 1 + len(tokens)] = torch.tensor(tokens)
        return batch._replace(ids=ids, labels=labels)

    def run(self) -> None:
        """Trains what is left of the recipe's stages."""
        names = [stage.name for stage in self.recipe.stages]
        first, done = 0, 0
        if (at := checkpoint.place(self.folder)) is not None:
            checkpoint.restore(self.folder, self.accelerator, self.model, self.optimizer)
            first, done = names.index(at.stage), at.step
        bf16 = parallel.in_bf16(self.accelerator)
        for stage in self.recipe.stages[first:]:
            self.begin(stage)
            with Progress(self.accelerator, self.folder, self.recipe, stage, done) as progress:
                for step in range(done, stage.steps):
                    progress.show(step + 1, self.step(stage, step))
                    if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
                        at = checkpoint.Place(stage.name, step + 1, bf16)
                        checkpoint.save(self.folder, self.accelerator, self.model, self.optimizer, at)
            done = 0


def _on_processor(model: M2M) -> M2M:
    """The base where an engine can decode: a copy of it, if it trains on another device."""
    if next(model.decoder.parameters()).device.type == "cpu":
        return model
    return replace(model, whisper=deepcopy(model.whisper).cpu(), kvspn=None, medusa=None)


def _parts(batch: Batch, count: int, index: int) -> Batch:
    """The `index`-th of `count` parts of a batch's clips, with their rows."""
    if count == 1:
        return batch
    clips_each, forks = len(batch.lengths) // count, len(batch.ids) // len(batch.lengths)
    mine = slice(index * clips_each, (index + 1) * clips_each)
    rows = slice(mine.start * forks, mine.stop * forks)
    return Batch(
        batch.sound[mine], batch.lengths[mine], batch.ids[rows], batch.labels[rows],
        batch.source[mine], batch.source_lengths[mine], batch.others,
    )  # fmt: skip


def build(
    recipe: Recipe, data: Path, folder: Path, start: Path | None = None, size: Size | None = None,
    precision: Precision = "float32",
) -> Trainer:  # fmt: skip
    """A trainer for the manifests `data`/<name>.jsonl of the recipe; encodes what is not in `data`/features yet.

    The first weights are those of the model in `start`, whose configuration takes the place of the recipe's, or the
    base's. With `size` that model is pruned first, and teaches; the small one has a trimmed head and products of
    `precision`. Raises UsageError (manifest_..., bad_size, batch_not_divisible, resume_mismatch, usage), ModelError.
    """
    if start is not None and start.resolve() == (folder / "model").resolve():
        raise UsageError("usage", f"The model of this run would take the place of {start}: name another --run.")
    checkpoint.begin(folder)
    at = checkpoint.place(folder)
    accelerator = parallel.start(recipe, folder, None if at is None else at.bf16)
    if checkpoint.deep(accelerator):  # it would decay what a stage leaves as it is
        raise UsageError("deepspeed_stage", "DeepSpeed cannot train this: launch without it.")
    for stage in recipe.stages:
        parallel.part_size(accelerator, stage.name, stage.batch)  # before hours of encoding
    torch.manual_seed(recipe.seed)
    model = None if start is None else load(start)
    of = {
        "recipe": recipe.name,
        "start": None if start is None else manifest.identity(start),
        "size": None if size is None else asdict(size),
    }
    stages = [stage.name for stage in recipe.stages]
    checkpoint.same_run(folder, at, of, accelerator.is_main_process, stages)
    if model is not None:
        recipe = replace(recipe, model=model.config)
    languages = recipe.model.languages
    rows = {
        name: capped(within(read_manifest(data / f"{name}.jsonl"), languages), recipe.cap, recipe.seed)
        for name in sorted(recipe.weights)
    }
    if model is None:
        whisper, tokenizer = from_base(recipe.model)
        written = vocabulary(tokenizer, rows, recipe.weights, languages, recipe.model.draft)
        model = M2M(recipe.model, whisper, tokenizer, *written)
    if model.kvspn is None:
        model.kvspn, model.medusa = drafters(model.config, model.decoder)
    features, audios = None, list(dict.fromkeys(row.audio for found in rows.values() for row in found))
    if recipe.encoder == "frozen":
        with accelerator.main_process_first():
            features = cached(data / "features", audios, model, accelerator.device)
        lengths = features.lengths
    else:
        lengths = frame_counts(audios)
    sets = {name: taught(name, found, lengths, accelerator) for name, found in rows.items()}
    sampler = Sampler(sets, recipe.weights, recipe.seed, recipe.temperature)
    batches = Batches(recipe, sampler, features, model.tokenizer, model.outputs, model.whisper.config.num_mel_bins)
    teacher = None
    if size is not None:
        teacher = model.decoder
        looked_at = replace(recipe.stages[0], name="importance")
        model = prune(model, size, (batches.batch(looked_at, n) for n in range(IMPORTANCE_BATCHES)))
        model.config = replace(model.config, trimmed=True, precision=precision)
        teacher.to(accelerator.device).requires_grad_(False)
    return Trainer(recipe, model, Network(model, recipe, teacher), batches, accelerator, folder)


def cached(folder: Path, audios: list[str], model: M2M, device: torch.device) -> Features:
    """The cache of the frozen encoder's frames in `folder`, with all of `audios` in it."""
    config = replace(PRESETS["ESRT-270M"], encoder=encoder_shape(model), context="speech")
    return cached_frames(folder, audios, config, model.whisper.model.state_dict(), device)


def finish(trainer: Trainer) -> Path:
    """Writes the model folder, `folder`/model, and returns it. All processes may call this; the main one writes."""
    model, network, folder = trainer.base, trainer.network, trainer.folder / "model"
    if not trainer.accelerator.is_main_process:
        return folder
    if network.encoder is not None:
        model.whisper.model.encoder.load_state_dict(merged(network.encoder))
    save(model, folder)
    return folder


def merged(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The encoder's weights with LoRA in them, under Whisper's own names."""
    part: Any
    for part in encoder.modules():
        if hasattr(part, "merge") and hasattr(part, "base_layer"):
            part.merge()
    state = {name: value for name, value in encoder.state_dict().items() if "lora_" not in name}
    return {name.replace(".base_layer.", "."): value.detach().clone() for name, value in state.items()}


def train(
    recipe: Recipe, data: Path, folder: Path, start: Path | None = None, size: Size | None = None,
    precision: Precision = "float32",
) -> Path:  # fmt: skip
    """Trains a recipe on the manifests in `data`, state and log in `folder`; a run that was stopped goes on.

    Returns the model folder, `folder`/model. For the others see `build`.
    """
    trainer = build(recipe, data, folder, start, size, precision)
    trainer.accelerator.init_trackers(recipe.name)
    trainer.run()
    model = finish(trainer)
    trainer.accelerator.end_training()
    return model
