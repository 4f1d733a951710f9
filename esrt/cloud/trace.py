"""What a log may say of an unexpected error."""

from __future__ import annotations

import traceback


def where(error: BaseException) -> str:
    """Its type and where it happened. Never its message: that may quote what somebody said."""
    return "".join([type(error).__name__, "\n", *traceback.format_tb(error.__traceback__)]).rstrip()
