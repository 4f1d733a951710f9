"""A whole clip by UGSD: the transcript first, then a translation for each target, as the cloud's own service does it.

The frame stays on the device until something of it is to be checked; then it is sent once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from esrt.cloud.text import circles
from esrt.decoding.drafter import Drafter
from esrt.decoding.ugsd import Settings, Tally, write
from esrt.errors import CloudError, UsageError
from esrt.prompts import Task
from esrt.wire import frame as frames
from esrt.wire.schemas import Drafting, TranslationResponse, Usage
from esrt.wire.verification import Verdict, VerificationRequest

MAX_NEW_TOKENS = 200
"""Of a transcript and of each translation, as in the cloud."""


class Cloud(Protocol):
    """What checks blocks: a client of a real cloud, or the service in this process."""

    bytes_sent: int
    bytes_received: int

    def verify(self, frame: bytes, request: VerificationRequest) -> Verdict:
        """The verdict on a block that was drafted from `frame`. Raises CloudError."""
        ...


@dataclass
class _Clip:
    """A clip that a cloud can check, which is asked for nothing but checks."""

    cloud: Cloud
    data: bytes
    features: str
    tokenizer: str

    def verify(self, prefix: Sequence[int], block: Sequence[int], rank: int) -> Verdict:
        request = VerificationRequest(self.features, self.tokenizer, list(prefix), list(block), rank)
        verdict = self.cloud.verify(self.data, request)
        if verdict.accepted > len(block):
            raise CloudError("bad_response", "The cloud accepted more than it was asked for: is its version right?")
        return verdict


class Speculative:
    """Answers for a frame as a cloud does, but by itself: the cloud checks only what the drafter is unsure of."""

    def __init__(self, drafter: Drafter, cloud: Cloud | None, settings: Settings) -> None:
        """Without a `cloud` nothing is checked."""
        self._drafter, self._cloud, self._settings = drafter, cloud, settings
        self.tally, self.began = Tally(), 0.0
        """Of the last clip, and when it began (time.perf_counter)."""
        self._before = (0, 0)  # bytes sent and received until then

    def translate(
        self, frame: bytes, to: Sequence[str], source: str | None = None, task: str = "translate"
    ) -> TranslationResponse:
        """The transcript and a translation for each of `to`, or captions alone (`task` caption).

        A cloud that is gone is said in `drafting.cut`. Raises FrameError, ModelError `pair_mismatch`, CloudError where
        the cloud refuses, UsageError `source_needed`.
        """
        if self._drafter.branch == "srt" and source is None and task != "caption":
            raise UsageError("source_needed", "This model must be told which language is spoken: name it.")
        self.began = time.perf_counter()
        self._before = (self._cloud.bytes_sent, self._cloud.bytes_received) if self._cloud else (0, 0)
        read = frames.read(frame, cap=len(frame))
        self._drafter.listen(read)
        self.tally = Tally() if self._cloud else Tally(cut="no_cloud")
        clip = _Clip(self._cloud, frame, read.id, self._drafter.tokenizer) if self._cloud else _Alone()
        text = self._drafter.text
        if task == "caption":
            return self._answer(read.id, len(frame), None, "", self._captions(clip, to))
        told = source
        source, heard, transcript = self._hear(clip, told)
        if told is None and transcript and self._drafter.found not in (None, source):
            source, heard, transcript = self._hear(clip, self._drafter.found)
        known = heard if source is None else [*heard, text.tags[source]]
        translations = {}
        for code in to:
            # Silence stays silence, and a translation into the language that was spoken is the transcript.
            translations[code] = transcript if code == source else ""
            if transcript and code != source:
                ids = self._write(clip, self._drafter.asked(known, code))
                translations[code] = text.read(Task.SMT, [i for i in ids if i not in text.codes], source, code)
        return self._answer(read.id, len(frame), source, transcript, translations)

    def _hear(self, clip: _Clip | _Alone, told: str | None) -> tuple[str | None, list[int], str]:
        """A transcript, in the language `told` where there is one: its language, ids and text."""
        text, source = self._drafter.text, told
        heard = self._write(clip, [] if told is None else [text.tags[told]])
        if heard and heard[-1] in text.codes:
            source = told or text.codes[heard[-1]]
            heard = heard[:-1]
        transcript = text.read(Task.ASR, heard, source)
        if not transcript:
            return told, heard, ""
        return source or self._drafter.name(heard), heard, transcript

    def _captions(self, clip: _Clip | _Alone, to: Sequence[str]) -> dict[str, str]:
        text, found = self._drafter.text, {}
        for code in to:
            ids = self._write(clip, [*text.caption, text.tags[code]])
            found[code] = text.read(Task.CAPTION, [i for i in ids if i not in text.codes], None, code)
        return found

    def _answer(
        self, features: str, size: int, source: str | None, transcript: str, translations: dict[str, str]
    ) -> TranslationResponse:
        tally, before = self.tally, self._before
        after = (self._cloud.bytes_sent, self._cloud.bytes_received) if self._cloud else (0, 0)
        drafting = Drafting(
            written=tally.written, local=tally.local, drafted=tally.drafted, escalated=tally.escalated,
            corrected=tally.corrected, round_trips=tally.round_trips, bytes_sent=after[0] - before[0],
            bytes_received=after[1] - before[1], cut=tally.cut if self._cloud else None,
        )  # fmt: skip
        usage = Usage(size, tally.written, round(time.perf_counter() - self.began, 4))
        return TranslationResponse(source, transcript, translations, features, usage, drafting)

    def _write(self, clip: _Clip | _Alone, prompt: Sequence[int]) -> list[int]:
        """A text's ids, up to and with a tag; without the end of sequence."""
        ids = write(prompt, self._drafter, clip, self._settings, self._ends(), self.tally)
        if ids and ids[-1] in self._drafter.eos_ids:
            return ids[:-1]
        return ids[: len(ids) - circles(ids)]

    def _ends(self) -> Callable[[Sequence[int]], bool]:
        last = self._drafter.eos_ids | set(self._drafter.text.codes)

        def ends(ids: Sequence[int]) -> bool:
            return bool(ids) and (ids[-1] in last or len(ids) >= MAX_NEW_TOKENS or circles(ids) > 0)

        return ends

    def close(self) -> None:
        """Let go of the cloud."""
        close = getattr(self._cloud, "close", None)
        if close is not None:
            close()


class _Alone:
    def verify(self, prefix: Sequence[int], block: Sequence[int], rank: int) -> Verdict:
        raise AssertionError("a cut text asks for nothing")
