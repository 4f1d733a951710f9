"""SeamlessM4T-v2: one model from speech to text in any of its languages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE
from esrt.evaluate.baselines import by_batch, device, loaded, unsupported
from esrt.evaluate.baselines.whisper import LONGEST
from esrt.evaluate.run import Answer, Clip, System

BATCH = 4

# Its names for languages that FLEURS names otherwise.
_CODES = {
    "ara": "arb",
    "fas": "pes",
    "lav": "lvs",
    "mon": "khk",
    "msa": "zlm",
    "orm": "gaz",
    "pus": "pbt",
    "uzb": "uzn",
}


def system(name: str) -> System:
    """It cannot tell which language it hears: without the source's name there is no transcript, and no `source`."""
    processor, model = loaded(name, _load)
    where = device()
    model.to(where).eval()
    known: dict[str, int] = model.generation_config.text_decoder_lang_to_code_id

    def code(language: str, role: str) -> str:
        found = _CODES.get(language, language)
        if found not in known:
            raise unsupported(name, role, language)
        return found

    @torch.inference_mode()
    def texts(waves: Sequence[Samples], into: str) -> list[str]:
        given = processor.feature_extractor(list(waves), sampling_rate=SAMPLE_RATE, return_tensors="pt").to(where)
        out = model.generate(**given, tgt_lang=into, max_new_tokens=LONGEST, num_beams=1, do_sample=False)
        found: list[str] = processor.tokenizer.batch_decode(out, skip_special_tokens=True)
        return [text.strip() for text in found]

    def batch(clips: Sequence[Clip], waves: Sequence[Samples]) -> Iterator[Answer]:
        said: list[dict[str, str]] = [{} for _ in clips]  # by language; a transcript is one into the source
        wanted = {target for clip in clips for target in clip.targets} | {clip.told for clip in clips if clip.named}
        for language in sorted(filter(None, wanted)):
            numbers = [n for n, clip in enumerate(clips) if language in clip.targets or language == clip.told]
            for n, text in zip(numbers, texts([waves[n] for n in numbers], code(language, "target")), strict=True):
                said[n][language] = text
        for clip, found in zip(clips, said, strict=True):
            transcript = found.get(clip.source, "") if clip.named else ""
            yield Answer(clip.told, transcript, {target: found[target] for target in clip.targets})

    return lambda clips: by_batch(clips, BATCH, batch)


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoProcessor, SeamlessM4Tv2ForSpeechToText

    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = SeamlessM4Tv2ForSpeechToText.from_pretrained(folder, local_files_only=True)
    if not getattr(model.generation_config, "text_decoder_lang_to_code_id", None):
        raise ValueError("its generation_config.json names no languages")
    return processor, model
