"""Programs that speak. Each is a module with the functions of `Speaker`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol, TypeAlias

from esrt.audio.samples import Samples
from esrt.errors import UsageError
from esrt.languages import LANGUAGES

Voice: TypeAlias = dict[str, str | int]
"""Keyword arguments of a speaker's `say`."""


class Speaker(Protocol):
    """What `sources.synth` asks of one."""

    def voices(self, language: str) -> tuple[str, ...]:
        """The names of its voices for a language. Raises UsageError: no_voice, not_installed."""

    def random_voice(self, language: str, rng: random.Random) -> Voice:
        """One of them, and how it speaks, drawn at random. Raises as `voices` does."""

    @property
    def say(self) -> Callable[..., Samples]:
        """Speaks a text in such a voice: float32 [n] at 16 kHz; n = 0 where there is nothing to say."""


def no_voice(speaker: str, language: str) -> UsageError:
    """That `speaker` has none for the language."""
    return UsageError(
        "no_voice",
        f"{speaker} cannot speak {LANGUAGES[language].name} ({language}): take another speaker, or leave it a target.",
    )
