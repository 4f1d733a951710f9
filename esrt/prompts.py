"""Tasks as text: what the LLM is asked after the audio, what it should answer, and how its answer is read.

Rows stand in the order audio, prompt, answer, end of sequence; `prompt` and `answer` give the texts of the middle two:

    task                  prompt                       answer
    ASR, source named     <|eng|>                      Text
    ASR, source unnamed                                Text<|eng|>
    SMT                   Text<|eng|><|deu|>           Translation
    SRT                   <|eng|><|deu|>               Text<|eng|><|deu|>Translation
    CAPTION               <|caption|><|eng|>           Caption

An unnamed ASR and its answer, followed by the target's tag, are an SMT prompt: one transcription serves every target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from esrt.errors import UsageError
from esrt.languages import LANGUAGES, get

# Any special token, known or not, separates texts. The start of a language's tag is what a cut leaves behind.
_TAG = re.compile(r"<\|([^<>|\s]{1,32})\|>")
_CUT_TAG = re.compile(r"<(\|[a-z]{0,3}\|?)?\Z")

# Speech has no lines, so neither has what is written of it.
_SPACES = re.compile(r"[ \t\r\n]+")


CAPTION_TAG = "<|caption|>"
"""No token of its own: ordinary tokens spell it, so that every model has it, and no user's text can say it."""


class Task(str, Enum):
    """Speech recognition; translation of a given transcript with the speech; recognition and translation in one; a
    sentence on how something is said.
    """

    ASR = "asr"
    SMT = "smt"
    SRT = "srt"
    CAPTION = "caption"


@dataclass(frozen=True)
class Parsed:
    """What an answer says. `transcript` is "" and `translation` None where the answer has none."""

    source: str | None
    transcript: str
    target: str | None
    translation: str | None


def strip_tags(text: str) -> str:
    """`text` without anything that reads as a tag, so that a user's text cannot say more than text."""
    # A space, not nothing: what stands around a removed tag must not close up to a new one.
    return _TAG.sub(" ", text).strip() if _TAG.search(text) else text


def prompt(task: Task, source: str | None = None, target: str | None = None, transcript: str | None = None) -> str:
    """The text after the audio rows. Languages are codes that `languages.get` knows.

    ASR needs nothing; SMT needs source, target and transcript; SRT source and target; CAPTION target. Raises UsageError
    `missing_language`, `missing_transcript` or `unknown_language`.
    """
    if task is Task.ASR:
        return get(source).tag if source is not None else ""
    if task is Task.CAPTION:
        return CAPTION_TAG + _tag(target, task, "target")
    pair = _tag(source, task, "source") + _tag(target, task, "target")
    if task is Task.SRT:
        return pair
    if transcript is None:
        raise UsageError("missing_transcript", "Translation of a transcript (SMT) needs the transcript: give it.")
    return strip_tags(transcript) + pair


def answer(
    task: Task,
    source: str | None = None,
    target: str | None = None,
    transcript: str = "",
    translation: str = "",
    named: bool = True,
) -> str:
    """The text a model should give, without the end of sequence. `named` says whether an ASR prompt names the source.
    A caption is given as `translation`.

    Raises UsageError `missing_language` or `unknown_language`.
    """
    if task in (Task.SMT, Task.CAPTION):
        return strip_tags(translation)
    text = strip_tags(transcript)
    if task is Task.ASR:
        return text if named else text + _tag(source, task, "source")
    return text + _tag(source, task, "source") + _tag(target, task, "target") + strip_tags(translation)


def parse(task: Task, text: str, source: str | None = None, target: str | None = None) -> Parsed:
    """Read a model's answer, whatever it is. `source` and `target` are the ISO 639-3 codes that the prompt named.

    A source that was named stands, for it is a fact about the audio; else it is the tag after the transcript. The
    target is a fact about the answer: its own tag stands before the one that was asked for, so that a text in another
    language is not passed off as the right one. Never raises, and leaves no tag in a text.
    """
    parts = _TAG.split(text)  # text, tag, text, tag, ..., text
    texts = [_SPACES.sub(" ", _CUT_TAG.sub("", part)).strip() for part in parts[0::2]]
    tags = [tag if tag in LANGUAGES else None for tag in parts[1::2]]
    spots = [i for i, part in enumerate(texts) if part]
    first = spots[0] if spots else 0
    second = spots[1] if len(spots) > 1 else None
    before = [tag for tag in tags[:first] if tag]
    between = [tag for tag in tags[first:second] if tag]

    if task is Task.ASR:
        heard = next((tag for tag in (*tags[first:], *before) if tag), None)
        return Parsed(source or heard, texts[first], None, None)
    if task is Task.CAPTION:
        return Parsed(source, "", target, texts[first] or None)
    if task is Task.SMT and (second is None or len(between) < 2):  # else it said the transcript too
        return Parsed(source, "", target, texts[first] or None)
    transcript, translation = texts[first], texts[second] if second is not None else None
    if translation is None and len(before) > 1 and not between:  # a lone text after a pair: nothing was transcribed
        transcript, translation, between = "", transcript, before
    source = source or next(iter(between), None)
    target = next((tag for tag in reversed(between) if tag != source), target)
    return Parsed(source, "" if task is Task.SMT else transcript, target, translation)


def _tag(code: str | None, task: Task, role: str) -> str:
    if code is None:
        raise UsageError("missing_language", f"Task {task.value} needs a {role} language: name one.")
    return get(code).tag
