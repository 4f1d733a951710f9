"""Whether memory stays flat over a long run, and whether `esrt train --dry-run` says the truth."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil  # type: ignore[import-untyped]  # accelerate brings it
import torch

from esrt import hub
from esrt.bench.chart import line_chart
from esrt.bench.page import machine, table
from esrt.bench.training import arms
from esrt.config import PRESETS, AdapterConfig
from esrt.errors import UsageError
from esrt.model.language_model import load_tokenizer, tag_ids
from esrt.train import memory, parallel, setup
from esrt.train.batches import Batches, Vocabularies
from esrt.train.features import Features
from esrt.train.loop import Trainer
from esrt.train.manifest import read_manifest
from esrt.train.network import Network
from esrt.train.recipes import TABLE_II, Recipe, Stage
from esrt.train.sampler import Sampler, clips

MEGABYTE = 1e6
SMALL = replace(
    PRESETS["ESRT-270M"],
    adapter=AdapterConfig("whisper", queries=20, width=32, layers=2, heads=4, ffn=64, cross_every=1),
    llm=replace(PRESETS["ESRT-270M"].llm, width=32, layers=2, heads=2, head_dim=16, ffn=64),
)


def resident() -> float:
    """Megabytes of this process that are in memory."""
    return float(psutil.Process().memory_info().rss) / MEGABYTE


class Watched(Trainer):
    """The real loop, which also notes how much memory it has every `every` steps."""

    every = 100

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.seen: list[tuple[int, float]] = []

    def step(self, stage: Stage, step: int) -> dict[str, float]:
        """One step, as Trainer does it."""
        shown = super().step(stage, step)
        if (step + 1) % self.every == 0:
            self.seen.append((step + 1, resident()))
        return shown


def small_trainer(steps: int, name: str, data: Path, run: Path) -> Watched:
    """The real loop and tokenizers, the clips of manifest `name` that are encoded already, and a very small network.

    Raises UsageError `features_missing`.
    """
    stage = Stage("III", "llm", steps, 8, 1e-4, 2e-4, 5e-4, 0.3, TABLE_II["III"])
    recipe = Recipe("small", "ESRT-270M", (stage,), {name: 1.0}, lora_rank=4, bf16=False)
    rows = read_manifest(data / f"{name}.jsonl")
    features = Features(data / "features", SMALL.encoder.width)
    rows = [row for row in rows if row.audio in features.index]
    if not rows:
        raise UsageError("features_missing", f"{data / 'features'} has no clip of {name}.jsonl: begin to train first.")
    whisper = setup.read_whisper_tokenizer(SMALL)
    tokenizer = load_tokenizer(hub.base(SMALL.llm.weights))
    tags, end = tag_ids(tokenizer), int(tokenizer.eos_token_id)
    heard, written = setup.vocabularies(run / "vocabularies.json", rows, tokenizer, whisper, [end])
    known = Vocabularies(*(torch.tensor(ids) for ids in (heard, written, tags, [*tags, *written])))
    sampler = Sampler({name: clips(rows, features.lengths)}, recipe.weights, 0)
    embedding = torch.randn(len(heard), SMALL.adapter.width)
    network = Network(SMALL, memory.language_model(SMALL.llm), known, embedding, recipe.lora_rank, 8, 0.0)
    batches = Batches(recipe, sampler, features, tokenizer, whisper, known, end)
    return Watched(recipe, network, batches, parallel.start(recipe, run), run)


def flat(recipe: Recipe, data: Path, steps: int, picture: Path) -> str:
    """The section: memory over `steps` steps of the loop with its log and checkpoints, and a chart in `picture`."""
    with TemporaryDirectory() as folder:
        trainer = small_trainer(steps, next(iter(recipe.weights)), data, Path(folder))
        trainer.every = max(1, steps // 10)
        trainer.run()
    seen = trainer.seen
    (slope, _) = np.polyfit([step for step, _ in seen], [size for _, size in seen], 1)
    later = seen[len(seen) // 2 :]
    (end, _) = np.polyfit([step for step, _ in later], [size for _, size in later], 1)
    picture.write_text(line_chart({"resident": seen}, "step", "MB", from_zero=True), encoding="utf-8")
    return "\n\n".join(
        [
            f"Resident memory grows by {1000 * slope:+.1f} MB in 1,000 steps, {1000 * end:+.1f} MB in the second half: "
            f"the real loop with its checkpoints and log, real clips and tokenizers, a small network. On {machine()}.",
            table(["step", *(str(step) for step, _ in seen)], [["MB", *(f"{size:.1f}" for _, size in seen)]]),
            f"![resident memory by step]({picture.name})",
        ]
    )


@contextmanager
def watched() -> Iterator[list[float]]:
    """Within, the list has one number: the most memory there was."""
    peak, done = [resident()], threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def real(recipe: Recipe, stage: Stage, data: Path, steps: int) -> tuple[float, float, float]:
    """Megabytes of `steps` steps of a stage: before anything is loaded, at the peak, and what the dry run adds to them.

    For a process of its own: memory that an earlier stage has given back would be used again unseen.
    """
    before = resident()
    alone = replace(recipe, stages=(stage,))
    trainer = arms.build(alone, data)
    bf16, known = parallel.in_bf16(trainer.accelerator), trainer.batches.vocabularies
    seconds, tokens = 0.0, 0
    gc.collect()
    with watched() as peak:
        for step in range(steps):
            trainer.step(stage, step)
            samples = trainer.batches.samples(stage, step)
            seconds = max(seconds, *(sample.clip.frames / memory.FRAMES for sample in samples))
            tokens = max(tokens, *(len(s.example.ids) if s.example is not None else 0 for s in samples))
    clips = memory.Clips(seconds, tokens, len(known.llm), len(known.whisper))
    (need,) = memory.needs(alone, 1, clips, bf16)
    return before, peak[0], need.total(recipe.checkpointing) / MEGABYTE


def expected(recipe: Recipe, data: Path, steps: int) -> str:
    """The section: the peak of `steps` real steps of each stage beside what the dry run says of the same clips."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = pool.starmap(real, [(recipe, stage, data, steps) for stage in recipe.stages], chunksize=1)
    rows = [
        [
            stage.name,
            f"{told:,.0f} MB",
            f"{peak - before:,.0f} MB",
            f"{(peak - before) / told:.2f}",
            f"{before:,.0f} MB",
        ]
        for stage, (before, peak, told) in zip(recipe.stages, found, strict=True)
    ]
    return "\n\n".join(
        [
            table(["stage", "--dry-run", f"peak of {steps} real steps", "real / dry run", "libraries, on top"], rows),
            f"{recipe.model}; the dry run is given the longest clip and answer that those steps drew. On {machine()}.",
        ]
    )
