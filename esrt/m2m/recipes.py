"""Recipes of whisperM2M: which base, which languages, what is trained on what, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from esrt.errors import UsageError
from esrt.m2m.config import M2MConfig

PAPER = ("eng", "cmn", "deu", "spa", "fra", "ita")


@dataclass(frozen=True)
class Weights:
    """What each loss counts: translation of speech and of text, the latter teaching the former, and the drafter's.

    The drafter's has the same three parts with the same weights (paper: 2 ST + 1 MT + 0.5 KL + 0.2 spec). Zero for
    text means that no text encoder is made.
    """

    speech: float = 2.0
    text: float = 1.0
    teach: float = 0.5
    draft: float = 0.2


@dataclass(frozen=True)
class Stage:
    """One stage. `batch` counts clips of a step over all processes; each is asked for `forks` languages at once.

    `trains`: `all` (base and KVSPN together, or the base alone where `losses.draft` is 0), or `drafters` (KVSPN and
    Medusa on a frozen base, whose own greedy outputs they learn to foresee).
    """

    name: str
    trains: Literal["all", "drafters"]
    steps: int
    batch: int
    rate: float
    warmup: int
    forks: int = 1
    losses: Weights = field(default_factory=Weights)


@dataclass(frozen=True)
class Recipe:
    """Stages one after the other. `weights` says how often a manifest is drawn from, by its file's stem.

    `encoder`: `frozen` trains on frames that are computed once and kept; `lora` puts LoRA (`lora_rank`, `lora_alpha`)
    on all of its layers but the last `free`, which train as they are. `transcribe` is the share of a clip's languages
    that is its own, so that the model stays a recogniser.
    """

    name: str
    model: M2MConfig
    stages: tuple[Stage, ...]
    weights: Mapping[str, float]
    encoder: Literal["frozen", "lora"]
    lora_rank: int = 32
    lora_alpha: int = 64
    free: int = 4
    text_layers: int = 6
    transcribe: float = 0.2
    augment: bool = False
    seed: int = 0
    temperature: float = 5.0
    cap: int = 50_000
    accumulate: int = 1
    bf16: bool | None = None


def m2m_medium_12() -> Recipe:
    """The paper's: Whisper medium with 12 of 24 decoder layers, all losses at once, batch 64, AdamW 1e-4.

    The number of steps is ours; the paper does not give it.
    """
    return Recipe(
        name="m2m-medium-12",
        model=M2MConfig("whisperM2M-medium-12", "openai/whisper-medium", 12, 3, PAPER),
        stages=(Stage("joint", "all", 50_000, 64, 1e-4, 5000),),
        weights={"covost2": 0.5, "fleurs": 0.5},
        encoder="lora",
        accumulate=4,
    )


def m2m_base() -> Recipe:
    """Whisper base on one core in two hours: its decoder on cached frames, then the drafters.

    No text encoder: it would start from nothing, and an hour is too short for it to have anything to teach.
    """
    languages = ("eng", "fra", "ita", "spa", "rus", "deu", "ces", "nld", "pol", "swe")
    return Recipe(
        name="m2m-base",
        model=M2MConfig("whisperM2M-base", "openai/whisper-base", 6, 2, languages, medusa=3, draft=8192),
        stages=(
            Stage("base", "all", 900, 12, 2e-4, 40, forks=3, losses=Weights(1.0, 0.0, 0.0, 0.0)),
            Stage("drafters", "drafters", 2500, 12, 5e-4, 30, forks=3),
        ),
        weights={"human": 0.4, "synth": 0.5, "prompts": 0.1},
        encoder="frozen",
        augment=True,
    )


def pruned(model: str) -> Recipe:
    """After pruning the model of that name: references and the unpruned model teach it, then its drafters learn on.

    The manifests are those of the recipe that made it.
    """
    base = m2m_base()
    own = next((found for make in RECIPES.values() if model.startswith((found := make()).model.name)), base)
    learn, drafters = base.stages
    return replace(
        base,
        name="m2m-pruned",
        weights=own.weights,
        stages=(
            replace(learn, name="distil", steps=400, warmup=40, losses=Weights(1.0, 0.0, 1.0, 0.0)),
            replace(drafters, steps=300),
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"m2m-base": m2m_base, "m2m-medium-12": m2m_medium_12}


def get(name: str) -> Recipe:
    """A recipe by its name. Raises UsageError `unknown_recipe`."""
    if name not in RECIPES:
        raise UsageError("unknown_recipe", f"There is no recipe {name!r}; there is {', '.join(RECIPES)}.")
    return RECIPES[name]()


def with_steps(recipe: Recipe, steps: Sequence[int] | None) -> Recipe:
    """The recipe with other numbers of steps, one a stage. Raises UsageError `usage`."""
    if steps is None:
        return recipe
    if len(steps) != len(recipe.stages):
        names = ", ".join(stage.name for stage in recipe.stages)
        raise UsageError("usage", f"Recipe {recipe.name} has the stages {names}: give a number of steps for each.")
    stages = (
        replace(stage, steps=count, warmup=min(stage.warmup, count // 4))
        for stage, count in zip(recipe.stages, steps, strict=True)
    )
    return replace(recipe, stages=tuple(stages))
