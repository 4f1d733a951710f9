"""Whisper, alone or followed by a text translation model of transformers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from esrt.audio.samples import Samples
from esrt.evaluate.baselines import by_batch, by_target, device, loaded, unsupported
from esrt.evaluate.baselines.whisper import LONGEST, Heard, Whisper
from esrt.evaluate.run import Answer, Clip, System
from esrt.languages import LANGUAGES

ENGLISH = "eng"
BATCH = 8

# FLORES-200 writes these by their individual language.
_FLORES = {
    "ara": "arb", "cmn": "zho", "fas": "pes", "ful": "fuv", "lav": "lvs", "mon": "khk", "msa": "zsm", "orm": "gaz",
    "pus": "pbt", "uzb": "uzn",
}  # fmt: skip


def system(weights: str, translator: str | None) -> System:
    """Transcripts by Whisper, translated by `translator`; without one, into English by Whisper's own `translate`."""
    whisper = Whisper(weights)
    texts = None if translator is None else TextTranslator(translator)

    def answers(clips: Sequence[Clip]) -> Iterator[Answer]:
        for clip in clips:  # before any of them is heard
            if clip.named and clip.source not in whisper.named:
                raise unsupported(weights, "spoken", clip.source)
            for target in clip.targets:
                if texts is None and target != ENGLISH:
                    raise unsupported(f"{weights} alone", "target", target)
        yield from by_batch(clips, BATCH, batch)

    def batch(clips: Sequence[Clip], waves: Sequence[Samples]) -> Iterator[Answer]:
        told = [clip.told for clip in clips]
        heard = whisper.hear(waves, "transcribe", told)
        if texts is not None:
            translations = _translate(texts, clips, heard)
        else:
            wanted = [number for number, clip in enumerate(clips) if clip.targets]
            translations = [{} for _ in clips]
            if wanted:
                english = whisper.hear([waves[n] for n in wanted], "translate", [told[n] for n in wanted])
                for number, one in zip(wanted, english, strict=True):
                    translations[number][ENGLISH] = one.text
        for one, texts_of_one in zip(heard, translations, strict=True):
            yield Answer(one.source, one.text, texts_of_one)

    return answers


def _translate(texts: TextTranslator, clips: Sequence[Clip], heard: Sequence[Heard]) -> list[dict[str, str]]:
    """The translations of each clip: its transcript, read as the language that Whisper heard, or was told.

    Where it heard one that is none of ours, or none that the text model reads, that is told the true one.
    """

    def spoken(number: int) -> str:
        one = heard[number].source
        return one if one is not None and texts.reads(one) else clips[number].source

    found: list[dict[str, str]] = [{} for _ in clips]
    asked = [(target, number) for number, clip in enumerate(clips) for target in clip.targets]
    for target, numbers in by_target(asked).items():
        for source, same in by_target((spoken(n), n) for n in numbers).items():
            said = texts.translate([heard[n].text for n in same], source, target)
            for number, text in zip(same, said, strict=True):
                found[number][target] = text
    return found


class TextTranslator:
    """A sequence-to-sequence model of transformers that translates text, greedily."""

    def __init__(self, name: str) -> None:
        self.name, self.device = name, device()
        self.tokenizer, self.model = loaded(name, _load)
        self.model.to(self.device).eval()
        self.vocabulary: dict[str, int] = self.tokenizer.get_vocab()

    def reads(self, code: str) -> bool:
        """Whether it can be told that a text is in this language, or need not be."""
        return not hasattr(self.tokenizer, "src_lang") or token(self.vocabulary, code) is not None

    @torch.inference_mode()
    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Texts of one language into another. Raises UsageError `language_not_supported`."""
        into, forced = token(self.vocabulary, target), {}
        if hasattr(self.tokenizer, "src_lang"):  # names the source in the text and the target as the first token
            spoken = token(self.vocabulary, source)
            if spoken is None or into is None:
                role, code = ("source", source) if spoken is None else ("target", target)
                raise unsupported(self.name, role, code)
            self.tokenizer.src_lang = spoken.strip("_") if spoken.startswith("__") else spoken
            forced = {"forced_bos_token_id": self.vocabulary[into]}
        elif into is not None:  # names the target before the text
            texts = [f"{into} {text}" for text in texts]
        elif any(re.fullmatch(r"<2[a-z]{2,3}>|>>[a-z]{3}(_\w+)?<<", token) for token in self.vocabulary):
            raise unsupported(self.name, "target", target)
        given = self.tokenizer(list(texts), return_tensors="pt", padding=True).to(self.device)
        given.pop("token_type_ids", None)
        out = self.model.generate(**given, **forced, max_new_tokens=LONGEST, num_beams=1, do_sample=False)
        return [text.strip() for text in self.tokenizer.batch_decode(out, skip_special_tokens=True)]


def token(vocabulary: Collection[str], code: str) -> str | None:
    """How a model writes a language: `deu_Latn`, `__de__`, `de_DE`, `<2de>` or `>>deu<<`; None if it does not."""
    language = LANGUAGES[code]
    short = "|".join(re.escape(name) for name in {language.bcp47, language.whisper or language.bcp47})
    form = re.compile(
        rf"{_FLORES.get(code, code)}_[A-Z][a-z]{{3}}|__({short})__|({short})_[A-Z]{{2}}|<2({short})>|>>{code}<<"
    )
    return min((token for token in vocabulary if form.fullmatch(token)), default=None)


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True)
