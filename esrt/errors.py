"""The errors that cross rooms. Each carries a stable `code` and one sentence that says what to do."""

from __future__ import annotations

import traceback


class ESRTError(Exception):
    """Base of every error a user may see: `code` is stable, `str(error)` is one clear sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UsageError(ESRTError):
    """A wrong argument: an unknown language, a missing option, an empty manifest."""


class AudioError(ESRTError):
    """A file that is not readable speech."""


class FrameError(ESRTError):
    """Bytes that are not a valid frame for this model."""


class ModelError(ESRTError):
    """A model that is missing, damaged or does not fit."""


class CloudError(ESRTError):
    """The cloud refused, failed or cannot be reached. `status` is its HTTP status, or 0 when no answer came."""

    def __init__(self, code: str, message: str, status: int = 0) -> None:
        super().__init__(code, message)
        self.status = status


def where(error: BaseException) -> str:
    """What a log may say of an unexpected error: its type and where it happened.

    Never its message: that may quote what somebody said.
    """
    return "".join([type(error).__name__, "\n", *traceback.format_tb(error.__traceback__)]).rstrip()
