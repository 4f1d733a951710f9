"""Recipes: what is trained, on what, for how long. A recipe is a function that returns dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from esrt.errors import UsageError


class Timed(Protocol):
    """The part of a stage that the rate and the progress of a run follow."""

    @property
    def name(self) -> str: ...

    @property
    def steps(self) -> int: ...

    @property
    def warmup(self) -> int: ...


class Plan(Protocol):
    """The part of a recipe that processes, precision and progress follow, whatever it trains."""

    @property
    def stages(self) -> Sequence[Timed]: ...

    @property
    def bf16(self) -> bool | None: ...

    @property
    def accumulate(self) -> int: ...


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum.

    `objective`: `ctc-whisper` (CTC on the adapter over Whisper's tokens), `ctc-llm` (CTC on the projector over the
    LLM's own tokens, tied to its embedding), `llm` (the LLM's loss on answers, plus `ctc_weight` times the former),
    `hide` (rows that stay where they were and tell less of the voice: `train.adversary`). `told_weight` is what
    telling captions apart by the mean of the rows counts beside `ctc-llm`, among those that a process has at once.
    `batch` counts clips of one step, over all processes. Rates are peak rates of AdamW; `lora_rate` 0 keeps the LLM
    frozen, LoRA included. `tasks` are the shares in which samples are drawn (ESRT paper, Table II), `loss_weights` what
    a task's loss counts beside the others' (1 where nothing is said), `weights` the manifests of this stage where they
    are not the recipe's.
    """

    name: str
    objective: Literal["ctc-whisper", "ctc-llm", "llm", "hide"]
    steps: int
    batch: int
    adapter_rate: float
    projector_rate: float = 0.0
    lora_rate: float = 0.0
    ctc_weight: float = 0.0
    tasks: Mapping[str, float] = field(default_factory=lambda: {"asr": 1.0})
    warmup: int = 100
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    told_weight: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Stages one after the other. `weights` says how often a manifest is drawn from, by its file's stem.

    Languages of a manifest, and targets of a language, are drawn with weight rows^(1 / temperature), times the weight
    in `tiers` of the language's tier (high, medium or low; 1 where nothing is said).
    """

    name: str
    model: str
    stages: tuple[Stage, ...]
    weights: Mapping[str, float]
    start: str | None = None  # name or folder of a model whose weights are the first; None: from the base weights
    seed: int = 0
    temperature: float = 5.0
    tiers: Mapping[str, float] = field(default_factory=dict)
    cap: int = 50_000  # rows of one (src, tgt) in a manifest
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    unnamed: float = 0.7  # share of samples whose prompt does not name the source
    always: str = ""  # language that every clip is translated into, besides those that are drawn, where it has one
    augment: bool = False  # disturb the frames of each clip anew each time it is drawn
    adversary: float = 0.0  # weight of what probes read of speaker and duration, which the adapter learns to hide
    validate_every: int = 0  # steps between looks at held-back clips, which move the tasks' loss weights; 0: never
    accumulate: int = 1  # parts a process computes its share of a batch in, one after the other
    checkpointing: bool = False  # compute the LLM's activations twice rather than keep them
    frozen_llm: bool = False  # no LoRA in any stage
    bf16: bool | None = None  # autocast; None: where a short measurement finds it faster


TABLE_II: dict[str, Mapping[str, float]] = {
    "I": {"asr": 1.0},
    "II": {"asr": 0.2, "smt": 0.4, "srt": 0.4},
    "III": {"asr": 0.2, "srt": 0.8},
}


def esrt_270m() -> Recipe:
    """The default model on two cores: CTC warm-up (stage 0), then the paper's stages I to III, shortened."""
    return Recipe(
        name="esrt-270m",
        model="ESRT-270M",
        # What was recorded is little text by few voices, soon known by heart: most clips are new sentences, spoken, and
        # most of those by programs that the encoder understands.
        weights={
            "human": 0.15,
            "revoiced": 0.1,
            "pico": 0.33,
            "festival": 0.18,
            "kokoro": 0.1,
            "synth": 0.04,
            "prompts": 0.04,
            "tuxpaint": 0.06,
        },
        always="eng",
        augment=True,
        # A fresh mask for every product costs a processor more time than the products of LoRA themselves.
        lora_dropout=0.0,
        # LoRA in every stage with the LLM, not in III alone: this LLM has never seen a task, and must first learn to
        # read audio rows. The paper's has been trained to translate.
        stages=(
            Stage("0a", "ctc-whisper", steps=1300, batch=16, adapter_rate=5e-4, warmup=100),
            Stage("0b", "ctc-llm", steps=1400, batch=16, adapter_rate=2e-4, projector_rate=1e-3, warmup=50),
            Stage("I", "llm", 330, 8, 1e-4, 2e-4, 5e-4, 0.3, TABLE_II["I"], warmup=30),
            Stage("II", "llm", 250, 8, 1e-4, 2e-4, 5e-4, 0.3, TABLE_II["II"], warmup=1),
            Stage("III", "llm", 1900, 8, 1e-4, 2e-4, 5e-4, 0.3, TABLE_II["III"], warmup=1),
        ),
    )


def _paper(name: str, model: str, accumulate: int, checkpointing: bool) -> Recipe:
    """The paper's curriculum: one rate of 1e-4, warm-up 1,000, LoRA in stage III only.

    Stage 0, the steps and the batch are ours; the paper does not give them.
    """
    rate, speech = 1e-4, {"commonvoice": 1.0}
    return Recipe(
        name=name,
        model=model,
        weights={"commonvoice": 0.5, "fleurs": 0.5},
        unnamed=0.5,
        validate_every=500,
        accumulate=accumulate,
        checkpointing=checkpointing,
        stages=(
            Stage("0a", "ctc-whisper", 10_000, 64, 5e-4, warmup=1000, weights=speech),
            Stage("0b", "ctc-llm", 5_000, 64, 2e-4, 1e-3, warmup=1000, weights=speech),
            Stage("I", "llm", 20_000, 64, rate, rate, tasks=TABLE_II["I"], warmup=1000, weights=speech),
            Stage("II", "llm", 20_000, 64, rate, rate, tasks=TABLE_II["II"], warmup=1000, weights={"fleurs": 1.0}),
            Stage("III", "llm", 20_000, 64, rate, rate, rate, 0.0, TABLE_II["III"], 1000, weights={"fleurs": 1.0}),
        ),
    )


def esrt_270m_captions() -> Recipe:
    """ESRT-270M learns to say how something is said (prosody captions), and keeps translating.

    A fourth task beside Table II's. The adapter learns too, so the device's half is another one afterwards. In stage
    `tell` the mean of a clip's rows has to find its captions among those of the batch: from the LLM's loss alone, 300
    steps taught the form of captions and nothing of what they say.
    """
    return replace(
        esrt_270m(),
        name="esrt-270m-captions",
        start="ESRT-270M",
        weights={"prosody": 0.7, "human": 0.3},
        stages=(
            Stage("tell", "ctc-llm", 400, 32, adapter_rate=1e-4, projector_rate=5e-4, warmup=30, told_weight=1.0),
            Stage("captions", "llm", 300, 8, 2e-4, 2e-4, 3e-4, 0.1, {"caption": 0.7, "srt": 0.3}, warmup=30),
        ),
    )


def esrt_270m_private() -> Recipe:
    """ESRT-270M whose rows shall tell neither who speaks nor for how long: gradient reversal (docs/privacy.md).

    Only the adapter learns: the cloud's half stays as it is.
    """
    return replace(
        esrt_270m(),
        name="esrt-270m-private",
        start="ESRT-270M",
        weights={"human": 0.4, "synth": 0.6},
        adversary=0.15,
        stages=(Stage("hide", "hide", steps=300, batch=32, adapter_rate=5e-5, warmup=50),),
    )


def esrt_1b() -> Recipe:
    """ESRT-1B on one GPU."""
    return _paper("esrt-1b", "ESRT-1B", accumulate=2, checkpointing=False)


def esrt_4b() -> Recipe:
    """ESRT-4B on one GPU of 80 GB, or on several."""
    return _paper("esrt-4b", "ESRT-4B", accumulate=4, checkpointing=True)


def esrt_12b() -> Recipe:
    """ESRT-12B with LoRA, on GPUs of 80 GB."""
    return _paper("esrt-12b", "ESRT-12B", accumulate=8, checkpointing=True)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "esrt-270m": esrt_270m,
    "esrt-270m-captions": esrt_270m_captions,
    "esrt-270m-private": esrt_270m_private,
    "esrt-1b": esrt_1b,
    "esrt-4b": esrt_4b,
    "esrt-12b": esrt_12b,
}


def get(name: str, stage: str | None = None) -> Recipe:
    """Recipe `name`, or one stage of it (`0` is 0a and 0b). Raises UsageError unknown_recipe and unknown_stage."""
    if name not in RECIPES:
        raise UsageError("unknown_recipe", f"There is no recipe {name!r}; there is {', '.join(RECIPES)}.")
    recipe = RECIPES[name]()
    if stage is None:
        return recipe
    stages = tuple(each for each in recipe.stages if stage in (each.name, each.name.rstrip("ab")))
    if not stages:
        names = ", ".join(each.name for each in recipe.stages)
        raise UsageError(
            "unknown_stage", f"Recipe {name} has no stage {stage!r}; it has {names} (and 0 for 0a and 0b)."
        )
    return replace(recipe, stages=stages)


def frozen(recipe: Recipe) -> Recipe:
    """The recipe without LoRA: of the LLM the tags' rows alone learn."""
    return replace(recipe, frozen_llm=True, stages=tuple(replace(stage, lora_rate=0.0) for stage in recipe.stages))


def table() -> str:
    """All recipes and their stages, one a line."""
    row = "{:<10} {:<6} {:<12} {:>7} {:>6} {:<30} {}"
    lines = [row.format("RECIPE", "STAGE", "OBJECTIVE", "STEPS", "BATCH", "TASKS", "RATES: adapter/projector/LoRA")]
    for make in RECIPES.values():
        recipe = make()
        for stage in recipe.stages:
            tasks = " ".join(f"{task}={share:g}" for task, share in stage.tasks.items())
            if stage.objective == "hide":
                tasks = "-"
            elif stage.objective != "llm":
                tasks = f"ctc told=+{stage.told_weight:g}" if stage.told_weight else "ctc"
            elif stage.ctc_weight:
                tasks += f" ctc=+{stage.ctc_weight:g}"
            llm = f"{stage.lora_rate:g}" if stage.lora_rate else "frozen"
            rates = f"{stage.adapter_rate:g} / {stage.projector_rate:g} / {llm}"
            cells = (recipe.name, stage.name, stage.objective, stage.steps, stage.batch, tasks, rates)
            lines.append(row.format(*cells).rstrip())
    return "\n".join(lines)
