"""How JSON bodies are read: requests strictly (UsageError `bad_request`), answers leniently (CloudError)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from esrt.errors import CloudError, UsageError

Json = Mapping[str, Any]
Value = TypeVar("Value")


def bad_request(what: str) -> UsageError:
    """The error for a request that is malformed."""
    return UsageError("bad_request", f"The request cannot be read: {what}.")


def bad_response(what: str) -> CloudError:
    """The error for an answer that lacks something."""
    return CloudError("bad_response", f"The cloud's answer cannot be read: {what}. Is its URL right?")


def read_object(body: Any, error: Callable[[str], Exception]) -> Json:
    """A JSON object, from its text or as it is."""
    try:
        value = json.loads(body) if isinstance(body, (bytes, str)) else body
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested too deep
        raise error("it is not JSON") from None
    if not isinstance(value, Mapping):
        raise error("it is not a JSON object")
    return value


def field(raw: Json, name: str, kind: type[Value]) -> Value:
    """A field of an answer, which must be there."""
    value = raw.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise bad_response(f"`{name}` must be a {kind.__name__}")
    return value


def number(raw: Json, name: str) -> float:
    """A number of an answer, whole or not."""
    try:
        return float(field(raw, name, int if isinstance(raw.get(name), int) else float))
    except OverflowError:  # a whole number of hundreds of digits
        raise bad_response(f"`{name}` is too large") from None


def texts(raw: Json, name: str) -> list[str]:
    """A list of texts of an answer."""
    values: list[Any] = field(raw, name, list)
    if not all(isinstance(value, str) for value in values):
        raise bad_response(f"`{name}` must hold texts")
    return values
