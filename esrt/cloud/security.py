"""Who may ask: bearer keys from a file, and no keys at all only where nobody else can reach the server."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from esrt.errors import CloudError, UsageError

ANYONE = "local"
"""The only tenant of a server without keys."""

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What may name a key, as a regular expression."""

_LINE = re.compile(rf"({NAME}):([0-9a-fA-F]{{64}})")

Keys = Mapping[str, str]
"""Tenant -> SHA-256 of its key, in lower-case hex."""


def load_keys(path: Path) -> Keys:
    """Read a key file: `name:sha256hex` a line, empty lines and lines that begin with # left out.

    Raises UsageError `key_file_not_found`, `key_file_damaged` or `key_file_empty`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("key_file_not_found", f"The key file {path} cannot be read: name one that can.") from error
    keys: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None or found[1] in keys:
            # The line itself is not shown: it may hold a key by mistake.
            raise UsageError(
                "key_file_damaged", f"Line {number} of {path} must be name:sha256hex, with a name not used before."
            )
        keys[found[1]] = found[2].lower()
    if not keys:
        raise UsageError("key_file_empty", f"{path} has no keys: `esrt keys add NAME --key-file {path}` makes one.")
    return keys


def tenant_of(authorization: str | None, keys: Keys | None) -> str:
    """The tenant of an Authorization header (its bytes read as Latin-1); ANYONE where there are no keys.

    Raises CloudError `unauthorized`. Takes as long for a wrong key as for a right one.
    """
    if keys is None:
        return ANYONE
    scheme, _, key = (authorization or "").partition(" ")
    digest = hashlib.sha256(key.strip().encode("latin-1", "replace")).hexdigest()
    tenant = None
    for name, known in keys.items():
        if hmac.compare_digest(digest, known):
            tenant = name
    if tenant is None or scheme.lower() != "bearer":
        raise CloudError("unauthorized", "This server needs a key that it knows: send Authorization: Bearer KEY.", 401)
    return tenant


def check_bind(host: str, keys: Keys | None) -> None:
    """Refuse to serve without keys on an address that others can reach: UsageError `no_auth_not_loopback`."""
    if keys is None and not _is_loopback(host):
        raise UsageError(
            "no_auth_not_loopback",
            f"Without keys only loopback may be served, not {host}: bind 127.0.0.1 or give a key file.",
        )


def _is_loopback(host: str) -> bool:
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(address.split("%")[0]).is_loopback for address in found)
