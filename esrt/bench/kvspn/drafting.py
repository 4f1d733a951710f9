"""The same model, the same clips: greedy, KVSPN in its variants, Medusa, and transformers' own decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationMixin, WhisperForConditionalGeneration
from transformers import logging as transformers_logging
from transformers.modeling_outputs import BaseModelOutput

from esrt.audio.io import load as sound
from esrt.bench.page import machine, table
from esrt.config import WINDOW_SAMPLES
from esrt.m2m import score
from esrt.m2m.engine import Engine
from esrt.m2m.generate import LIMIT, Drafting
from esrt.m2m.model import M2M, PROMPT, load
from esrt.m2m.offline import Ears
from esrt.m2m.prune import parameters, size_of
from esrt.m2m.score import Item, Run

PAPER = {
    "greedy": "100 %", "KVSPN, top 1": "137 %", "KVSPN, top 2": "141 %", "KVSPN, top 3": "143 %",
    "KVSPN, top inf": "148 %", "Medusa, top 1": "107 %",
}  # fmt: skip
VARIANTS: dict[str, Drafting | None] = {
    "greedy": None,
    "KVSPN, top 1": Drafting(),
    "KVSPN, top 2": Drafting(top=2),
    "KVSPN, top 3": Drafting(top=3),
    "KVSPN, top inf": Drafting(top=None),
    "KVSPN, top 1, up to 2 drafted": Drafting(most=2),
    "KVSPN, top 1, up to 3 drafted": Drafting(most=3),
    "Medusa, top 1": Drafting("medusa"),
}


def run(model: Path, small: Path, manifest: Path, clips: int, rounds: int) -> str:
    """The section."""
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()  # an assistant's lengths are worth a warning to it, for every text
    whole, assistant = load(model), load(small).whisper
    items = score.choose(manifest, whole.config.languages, clips)
    ears = Ears(whole)
    frames = score.listen(ears, items)
    heard = encoding(ears, items)
    engine = Engine(whole, screened=False)
    arms: dict[str, Callable[[Sequence[Item]], Run]] = {
        name: partial(score.write, engine, frames=frames, drafting=drafting) for name, drafting in VARIANTS.items()
    }
    exact = Engine(whole, drafting="float32", screened=False)
    arms["KVSPN, top 1, itself in float32"] = partial(score.write, exact, frames=frames, drafting=Drafting())
    screened = Engine(whole)
    arms["greedy, head screened"] = partial(score.write, screened, frames=frames)
    arms["KVSPN, top 1, head screened"] = partial(score.write, screened, frames=frames, drafting=Drafting())
    arms["transformers, greedy"] = partial(theirs, whole, frames, assistant=None)
    arms["transformers, assisted by the pruned model"] = partial(theirs, whole, frames, assistant=assistant)
    with tqdm(total=rounds * len(arms), desc="decoding", disable=None) as bar:
        runs = score.race({name: _told(arm, bar) for name, arm in arms.items()}, items, rounds)
    greedy = runs["greedy"]
    rows = []
    for name, found in runs.items():
        same = sum(a == b for a, b in zip(found.ids, greedy.ids, strict=True))
        rows.append(
            [
                name,
                f"{same} / {len(items)}",
                f"{1000 * found.seconds / found.tokens:.2f}",
                f"**{greedy.seconds / found.seconds:.0%}**",
                f"{(greedy.seconds + heard) / (found.seconds + heard):.0%}",
                f"{found.kept / found.guesses:.0%}" if found.guesses else "-",
                f"{found.tokens / found.passes:.2f}" if found.passes else "-",
                score.shown(score.bleu(items, found.texts)),
                PAPER.get(name, "-"),
            ]
        )
    head = [
        "", "texts as greedy", "ms a token", "speed", "with the encoder", "guesses kept", "tokens a pass", "BLEU",
        "paper's speed",
    ]  # fmt: skip
    counts, size = parameters(whole), size_of(whole)
    return "\n\n".join(
        [
            f"{whole.config.name}: {size.layers} decoder layers of width {whole.whisper.config.d_model}, float32, "
            "batch 1, whole output head where it is not screened; KVSPN has "
            f"{whole.config.blocks} blocks and {counts['kvspn'] / 1e6:.1f} M weights, "
            f"Medusa's head {counts['medusa'] / 1e6:.1f} M; both are int8 and guess among "
            f"{len(whole.draft):,} tokens. "
            f"{len(items)} texts of {len(frames)} clips by people from {manifest.name}, {clips} a language at most. "
            "Speed is that of whole texts against the first line, all in turns, the least time of each text in "
            f"{rounds} rounds. The encoder takes {1000 * heard / len(items):.0f} ms a text, and would take that once "
            "for all languages of a clip.",
            table(head, rows),
            f"Ran on {machine()}.",
        ]
    )


def _told(arm: Callable[[Sequence[Item]], Run], bar: Any) -> Callable[[Sequence[Item]], Run]:
    def told(items: Sequence[Item]) -> Run:
        found = arm(items)
        bar.update(1)
        return found

    return told


def encoding(ears: Ears, items: Sequence[Item]) -> float:
    """Seconds of encoding for all items, each as if it were alone: the better of two times a clip."""
    seconds: dict[str, float] = {}
    for audio in dict.fromkeys(item.audio for item in items):
        samples = sound(audio)[:WINDOW_SAMPLES]
        for _ in range(2):
            began = time.perf_counter()
            ears.frames(samples)
            seconds[audio] = min(seconds.get(audio, float("inf")), time.perf_counter() - began)
    return sum(seconds[item.audio] for item in items)


@torch.inference_mode()
def theirs(
    model: M2M, frames: Mapping[str, Tensor], items: Sequence[Item], assistant: WhisperForConditionalGeneration | None
) -> Run:
    """Transformers' own `generate`, greedy, or assisted by a smaller model that hears the same frames."""
    limit = min(LIMIT, model.whisper.config.max_target_positions - PROMPT)
    ids, seconds = [], []
    for item in items:
        prompt = torch.tensor([model.prompt(item.target)])
        heard = BaseModelOutput(frames[item.audio])
        if assistant is not None:
            # It would encode for itself: what it heard is known, and not counted.
            assistant.model.encoder.forward = lambda *_, heard=heard, **__: heard
        began = time.perf_counter()
        # Whisper's own `generate` takes no assistant beside a prompt of ids; below it lies the one of all models.
        made = GenerationMixin.generate(
            model.whisper, encoder_outputs=heard, decoder_input_ids=prompt,
            do_sample=False, num_beams=1, max_new_tokens=limit, assistant_model=assistant,
        )  # fmt: skip
        seconds.append(time.perf_counter() - began)
        special = {model.end, *prompt[0].tolist()}
        ids.append([token for token in made[0].tolist() if token not in special])
    return Run(ids, [model.text(found) for found in ids], sum(seconds), by_item=seconds)
