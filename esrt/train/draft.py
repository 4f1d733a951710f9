"""A drafter for UGSD: an ESRT model whose LLM has lost most of its layers, and learned to write as the whole one does.

Of the LLM's layers the first, the last and evenly some between them stay (as KVSPN prunes its decoder). Then they learn
from the whole model on the same clips, whose references are only read along: at every token the whole model's own
choice is the target, and below it the states that its layers hand on. Embedding, output layer, projector and the
device's half stay as they are, so that drafter and verifier share tokenizer and adapter.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from esrt import hub
from esrt.config import ModelConfig
from esrt.errors import UsageError
from esrt.model.checkpoint import load_outputs
from esrt.model.language_model import load_language_model, quiet
from esrt.model.manifest import CARD, MANIFEST, identity, put, whole_folder
from esrt.model.precision import decoding_type
from esrt.train import checkpoint
from esrt.train.batches import Answers
from esrt.train.draft_batches import Source
from esrt.train.network import layout
from esrt.train.setup import part

LIKELY, OTHERS = 32, 4096
"""Of the output's tokens the loss counts those that the whole model finds likely; a sample stands for the rest."""
STATES = 0.5
"""What the states' loss counts beside that of the choices."""
SAVE_EVERY = 100  # steps, and looks at held-back clips


@dataclass(frozen=True)
class Plan:
    """How a drafter is made: `layers` of the LLM stay; `weights` says how often a manifest is drawn from, by its stem.

    `to` are the languages it learns to translate into; transcripts it learns in all languages of the clips.
    """

    layers: int
    to: tuple[str, ...]
    weights: Mapping[str, float]
    steps: int = 700
    batch: int = 6
    rate: float = 5e-4
    warmup: int = 30
    seed: int = 0


def kept(layers: int, count: int) -> list[int]:
    """Which `count` of `layers` stay: the first, the last, and evenly some between. Raises UsageError `bad_layers`."""
    if not 2 <= count < layers:
        raise UsageError("bad_layers", f"A drafter of this model has 2 to {layers - 1} layers, not {count}.")
    return [round(place * (layers - 1) / (count - 1)) for place in range(count)]


def prune(llm: Gemma3ForCausalLM, keep: Sequence[int]) -> Gemma3ForCausalLM:
    """The same language model with the layers `keep` only, in float32, which are copies."""
    config = llm.config.to_dict()
    config |= {"num_hidden_layers": len(keep), "layer_types": [llm.config.layer_types[old] for old in keep]}
    state = {}
    for name, tensor in llm.state_dict().items():
        head, _, rest = name.partition("layers.")
        if not rest:
            # A copy of what learns; the table, the most of it, does not.
            state[name] = tensor if tensor.ndim == 2 else tensor.clone()
            continue
        old, _, leaf = rest.partition(".")
        if int(old) in keep:
            state[f"{head}layers.{list(keep).index(int(old))}.{leaf}"] = tensor.clone()
    with quiet():
        return Gemma3ForCausalLM.from_pretrained(
            None, config=Gemma3TextConfig(**config), state_dict=state, dtype=torch.float32
        )


@dataclass
class Distiller:
    """The whole model and its drafter on the same rows. `classes` int64 [n] are the tokens that the model may write."""

    teacher: Gemma3ForCausalLM
    student: Gemma3ForCausalLM
    keep: Sequence[int]
    classes: Tensor

    def __post_init__(self) -> None:
        self.teacher.requires_grad_(False).eval()
        self.student.requires_grad_(False).train()
        self.student.model.layers.requires_grad_(True)
        self.student.model.norm.requires_grad_(True)
        # One table for both: the largest of the weights, and none that learns.
        self.student.set_input_embeddings(self.teacher.get_input_embeddings())
        self.student.tie_weights()
        self.head = self.teacher.get_input_embeddings().weight[self.classes]

    def loss(self, audio: Tensor, given: Answers, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Audio rows [b, q, llm] and what follows them -> the loss, and what to print of it.

        Cross-entropy of the whole model's own choices, mean over the learned tokens; plus STATES times the squared
        error of the kept layers' outputs, relative to the size of the whole model's, mean over all rows. Its choices
        and not its distribution: the drafter shall be in doubt of what the other will choose, and not where the other
        is in doubt itself, as at the first word of a sentence that may begin in many ways.
        """
        queries = audio.shape[1]
        wanted, targets = self._hidden(self.teacher, audio, given, [*self.keep[1:], len(self.teacher.model.layers)])
        made, states = self._hidden(self.student, audio, given, list(range(1, len(self.keep) + 1)))
        real = nn.functional.pad(given.branch, (queries, 0)) >= 0
        errors = [
            (state.float() - target.float())[real].pow(2).mean() / target.float()[real].pow(2).mean()
            for state, target in zip(states, targets, strict=True)
        ]
        learned = given.learned
        teacher = wanted[:, queries - 1 : -1][learned].to(self.head.dtype) @ self.head.T
        student = made[:, queries - 1 : -1][learned]
        likely = torch.unique(teacher.topk(LIKELY).indices)
        others = torch.randint(len(self.head), (OTHERS,), generator=generator)
        others = others[~torch.isin(others, likely)]
        rows = self.head[torch.cat([likely, others])]
        logits = (student.to(rows.dtype) @ rows.T).float()
        # The sample's part of the sum is as large as what it stands for, all that is not likely.
        logits[:, len(likely) :] += math.log(max(1, len(self.head) - len(likely)) / max(1, len(others)))
        choice = torch.searchsorted(likely, teacher.argmax(-1))
        surprise = nn.functional.cross_entropy(logits, choice)
        state_loss = torch.stack(errors).mean()
        right = (logits[:, : len(likely)].argmax(-1) == choice).float().mean()
        shown = {"surprise": surprise.item(), "states": state_loss.item(), "right": right.item()}
        return surprise + STATES * state_loss, shown | {"tokens": float(learned.sum())}

    def _hidden(
        self, llm: Gemma3ForCausalLM, audio: Tensor, given: Answers, after: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """The last states [b, n, width], normed, and those that go into the layers `after` (past the last: out)."""
        kind = next(llm.parameters()).dtype
        rows = torch.cat([audio, self.student.get_input_embeddings()(given.ids).float()], dim=1)
        own: dict[str, Any] = layout(audio.shape[1], given, llm.config.sliding_window)
        learning = llm is self.student
        with torch.set_grad_enabled(learning), torch.autocast("cpu", torch.bfloat16, enabled=_bf16() and learning):
            output = llm.model(inputs_embeds=rows.to(kind), use_cache=False, output_hidden_states=True, **own)
        # The last of `hidden_states` is normed, and is what the output layer reads.
        return output.last_hidden_state, [output.hidden_states[layer] for layer in after]


def _bf16() -> bool:
    return decoding_type() is torch.bfloat16


def make(model: str, plan: Plan, data: Path, run: Path) -> Path:
    """Makes a drafter of `model` and returns its folder, `run`/model: ready, with the same half for the device.

    A run that was stopped goes on from its last checkpoint; the drafter of one that had ended keeps what it has got
    since. Raises UsageError, ModelError.
    """
    folder = hub.resolve(model)
    checkpoint.begin(run)
    teacher = load_language_model(folder / "llm", decoding_type())
    keep = kept(len(teacher.model.layers), plan.layers)
    classes = load_outputs(folder)
    if classes is None:
        classes = torch.arange(len(teacher.get_input_embeddings().weight))
    distiller = Distiller(teacher, prune(teacher, keep), keep, classes)
    source = Source(plan, folder, data)
    _train(distiller, source, plan, run, identity(folder))
    if not checkpoint.is_of(run / "model", run):  # one that is there may have a gate by now
        save(distiller.student, folder, run / "model", plan)
    return run / "model"


def _train(distiller: Distiller, source: Source, plan: Plan, run: Path, model: str) -> None:
    """`model` names the whole one: a checkpoint of another is not gone on with."""
    student, of = distiller.student, json.dumps([model, distiller.keep, plan.to, dict(plan.weights)])
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.01)
    at, done = run / checkpoint.FILE, 0
    if at.is_file():
        state, made_of = _state(at)
        if made_of != of:
            text = f"{at} is not of these layers, languages and manifests of this model: name another --run."
            raise UsageError("resume_mismatch", text)
        done = int(state.pop("step"))
        if done > plan.steps:
            raise UsageError("resume_mismatch", f"{at} is of step {done:,} already: give --steps {done} or more.")
        student.load_state_dict(part(state, "student."), strict=False)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in part(state, "optimizer.").items():
            number, _, what = name.partition(".")
            moments.setdefault(int(number), {})[what] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    began = time.monotonic()
    for step in tqdm(range(done, plan.steps), desc="draft", unit="batch", disable=None):
        share = min((step + 1) / plan.warmup, 1 - 0.97 * max(0, step - plan.warmup) / plan.steps)
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * share
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        loss, shown = distiller.loss(*source.batch(step), generator)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps:
            shown |= {f"held_back_{name}": value for name, value in validate(distiller, source).items()}
            whole = {f"student.{name}": p.detach() for name, p in student.named_parameters() if p.requires_grad}
            for number, moments in optimizer.state_dict()["state"].items():
                whole |= {f"optimizer.{number}.{what}": tensor for what, tensor in moments.items()}
            beside = at.with_suffix(".part")
            save_file(whole | {"step": torch.tensor(step + 1)}, beside, {"of": of})
            put(beside, at)
        line = {"step": step + 1, "seconds": round(time.monotonic() - began, 1)}
        with (run / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line | {name: round(value, 4) for name, value in shown.items()}) + "\n")


def _state(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """A checkpoint's tensors, and what it is of. Raises UsageError `run_damaged`."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get("of")  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise checkpoint.damaged(path) from error


@torch.no_grad()
def validate(distiller: Distiller, source: Source) -> dict[str, float]:
    """On held-back clips, if there are any, mean over the tokens: cross-entropy, and the share on which both agree."""
    sums, tokens = {"surprise": 0.0, "right": 0.0}, 0.0
    for audio, given in source.held_back():
        _, shown = distiller.loss(audio, given, torch.Generator().manual_seed(0))
        tokens += shown["tokens"]
        for name in sums:
            sums[name] += shown[name] * shown["tokens"]
    return {name: value / tokens for name, value in sums.items()} if tokens else {}


def save(student: Gemma3ForCausalLM, whole: Path, folder: Path, plan: Plan) -> None:
    """Writes the drafter of the ready model `whole` as a ready model folder of its own."""
    with whole_folder(folder) as work:
        for path in whole.iterdir():
            if path.name in ("llm", "llm_delta", MANIFEST, "config.json", CARD):
                continue
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, work / path.name)
        config = ModelConfig.load(whole / "config.json")
        config = replace(config, name=f"{config.name}-draft", llm=replace(config.llm, layers=plan.layers))
        config.save(work / "config.json")
        with quiet():
            student.to(torch.bfloat16).save_pretrained(work / "llm")
        for name in ("tokenizer.json", "tokenizer_config.json", "origin.json", "generation_config.json"):
            if (whole / "llm" / name).is_file():
                shutil.copyfile(whole / "llm" / name, work / "llm" / name)
        made = f"distilled on {plan.steps} batches of {plan.batch} clips, into {', '.join(plan.to)}."
        card = f"# {config.name}\n\n{plan.layers} layers of the LLM of the model it drafts for, {made}\n"
        (work / CARD).write_text(card, encoding="utf-8")
