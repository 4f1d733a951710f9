"""Translations of held-out clips between all languages of a model, beside Whisper's own into English."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from esrt.audio.io import load as sound
from esrt.bench.page import machine, table
from esrt.config import WINDOW_SAMPLES
from esrt.evaluate.baselines.whisper import Whisper
from esrt.m2m import score
from esrt.m2m.engine import Engine
from esrt.m2m.generate import LIMIT, generate
from esrt.m2m.model import PROMPT, load
from esrt.m2m.offline import Ears

ENGLISH, BATCH = "eng", 8


def run(model: Path, manifest: Path, each: int) -> str:
    """The section: `each` clips of every language of the manifest, in every language of the model."""
    whole = load(model)
    items = score.choose(manifest, whole.config.languages, each)
    frames = score.listen(Ears(whole), items)
    engine, texts = Engine(whole), []
    for item in tqdm(items, desc="translating", disable=None):
        rows = frames[item.audio]
        state = engine.start(rows, [rows.shape[1]], PROMPT + LIMIT, drafts=False)
        texts.append(whole.text(generate(engine, state, torch.tensor([whole.prompt(item.target)])).ids[0]))
    whisper, clips = Whisper(whole.config.weights), list(frames)
    english: dict[str, str] = {}
    for first in tqdm(range(0, len(clips), BATCH), desc="Whisper", disable=None):
        batch = clips[first : first + BATCH]
        heard = whisper.hear([sound(audio)[:WINDOW_SAMPLES] for audio in batch])
        english |= {audio: found.text for audio, found in zip(batch, heard, strict=True)}
    sources = sorted({item.source for item in items})
    targets = [ENGLISH, *sorted({item.target for item in items} - {ENGLISH})]
    rows_of = []
    for source in sources:
        cells = []
        for target in targets:
            pair = [n for n, item in enumerate(items) if (item.source, item.target) == (source, target)]
            mine = [items[n] for n in pair]
            said = [texts[n] for n in pair]
            if source == target:
                cells.append(f"CER {score.shown(score.cer(mine, said), 2)}")
            else:
                cells.append(score.shown(score.bleu(mine, said)))
        into = [item for item in items if (item.source, item.target) == (source, ENGLISH)]
        theirs = "-" if source == ENGLISH else score.shown(score.bleu(into, [english[item.audio] for item in into]))
        count = len({item.audio for item in items if item.source == source})
        rows_of.append([source, str(count), theirs, *cells])
    head = ["source", "clips", f"Whisper `translate`, -> {ENGLISH}", *(f"-> {target}" for target in targets)]
    return "\n\n".join(
        [
            f"BLEU (sacreBLEU) of {whole.config.name}, greedy, told nothing but the target; the character error rate "
            "(without case and punctuation) where the target is the language that is spoken. Whisper is "
            f"`{whole.config.weights}`, greedy, on 30 s, and finds the language by itself. At most {each} clips of "
            f"{manifest.name} a language, {score.WORDS} words or more.",
            table(head, rows_of),
            f"Ran on {machine()}.",
        ]
    )
