"""What is this device's own: addresses on loopback, and requests that a page of another site cannot have sent."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether a host's name or address leads to this device, whoever asks."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(host: str | None, origin: str) -> bool:
    """Whether a request's host and its `Origin` header, "" without one, are this device's own.

    A page in a browser sends a name of its own that leads here, or its origin, which it can have sent as `null`.
    """
    said = urlsplit(origin)
    foreign = origin == "null" or (said.scheme in ("http", "https") and not is_loopback(said.hostname or ""))
    return is_loopback(host or "") and not foreign
