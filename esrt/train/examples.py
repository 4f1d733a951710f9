"""From clips to token ids: CTC targets; prompt and answer of each task (ESRT paper, Table II) with what is learned."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from esrt import prompts
from esrt.languages import LANGUAGES
from esrt.train.sampler import Clip


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that training needs."""

    def __call__(self, text: str, add_special_tokens: bool) -> Mapping[str, list[int]]: ...

    def convert_tokens_to_ids(self, token: str) -> int: ...


FORKS = 4  # translations of one clip that share its audio rows and transcript


@dataclass(frozen=True)
class Example:
    """Token ids after the audio rows; `learned[i]` says whether the loss counts ids[i].

    `branch[i]` is 0 in the trunk, which comes first, and k in the k-th of the branches that follow it: each branch sees
    the trunk and itself, as when a server transcribes once and then forks.
    """

    ids: tuple[int, ...]
    learned: tuple[bool, ...]
    branch: tuple[int, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        """Place of each token as its branch counts: every branch goes on where the trunk ends."""
        trunk = self.branch.count(0)
        return tuple(i if b == 0 else trunk + i - self.branch.index(b) for i, b in enumerate(self.branch))


def plain(text: str) -> str:
    """Lower case, letters and digits only: what the CTC warm-up is asked for. Marks of letters stay (NFC)."""
    letters = unicodedata.normalize("NFC", text.lower())
    kept = (c if c.isalnum() or c == "'" or unicodedata.category(c)[0] == "M" else " " for c in letters)
    return " ".join("".join(kept).split())


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of plain text, without the tokenizer's own start and end."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def example(clip: Clip, task: str, tokenizer: Tokenizer, end: int, unnamed: bool) -> Example:
    """One sample of `task` (asr, smt, srt, caption); a clip without translations, or captions, falls back to asr.

    With `unnamed` the prompt does not name the source: the model says it after the transcript, and the first FORKS
    translations branch off there. A target tag is never learned, because it is always given.
    """

    def tag(code: str) -> int:
        return tokenizer.convert_tokens_to_ids(LANGUAGES[code].tag)

    if task == "caption" and clip.captions:
        code, texts = clip.captions[0]
        asked = [*token_ids(tokenizer, prompts.CAPTION_TAG), tag(code)]
        return _example([(asked, False), ([*token_ids(tokenizer, texts[0]), end], True)], [])
    text, source = token_ids(tokenizer, clip.transcript), tag(clip.source)
    translated = [
        (tag(code), [*token_ids(tokenizer, translation), end]) for code, translation in clip.translations[:FORKS]
    ]
    if task in ("asr", "caption") or not translated:
        trunk = [(text, True), ([source, end], True)] if unnamed else [([source], False), ([*text, end], True)]
        return _example(trunk, [])
    if task == "srt" and not unnamed:
        target, translation = translated[0]
        return _example([([source, target], False), ([*text, source, target, *translation], True)], [])
    trunk = [([*text, source], task == "srt")]
    return _example(trunk, [[([target], False), (translation, True)] for target, translation in translated])


def one_caption(clip: Clip, rng: random.Random) -> Clip:
    """The clip with one of its captions alone."""
    if not clip.captions:
        return clip
    code, texts = rng.choice(clip.captions)
    return replace(clip, captions=((code, (rng.choice(texts),)),))


def always_into(clip: Clip, code: str) -> Clip:
    """The clip with its translation into `code`, where it has one, among the first FORKS."""
    codes = [target for target, _ in clip.translations]
    if code not in codes[FORKS:]:
        return clip
    others = list(clip.translations)
    others.insert(FORKS - 1, others.pop(codes.index(code)))
    return replace(clip, translations=tuple(others))


Parts = list[tuple[list[int], bool]]


def _example(trunk: Parts, branches: list[Parts]) -> Example:
    """Joins (ids, learned) parts."""
    tokens = [
        (token, learned, number)
        for number, parts in enumerate([trunk, *branches])
        for ids, learned in parts
        for token in ids
    ]
    ids, learned, branch = zip(*tokens, strict=True)
    return Example(ids, learned, branch)
