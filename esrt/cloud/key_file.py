"""The file of keys: read again by a running server when it changes, and changed by `esrt keys`."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from esrt.cloud.security import NAME, Keys, load_keys
from esrt.errors import UsageError

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


class KeyFile:
    """The keys of a file, as they are now: a change counts within CHECK_SECONDS.

    A file that cannot be read any more, or has a damaged line, changes nothing but for one line in the log; one without
    a key lets nobody in.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises UsageError as `load_keys` does."""
        self._path, self._clock = path, clock
        # Taken before the file is read: a change in between is seen at the next look.
        self._seen = self._stamp()
        self._keys = load_keys(path)
        self._next = clock() + CHECK_SECONDS

    def keys(self) -> Keys:
        """The keys that count now. Looks at the file's date at most once in CHECK_SECONDS."""
        if (now := self._clock()) >= self._next:
            self._next = now + CHECK_SECONDS
            if (stamp := self._stamp()) != self._seen:
                self._seen = stamp
                self._read()
        return self._keys

    def _read(self) -> None:
        try:
            self._keys = load_keys(self._path)
        except UsageError as error:
            if error.code == "key_file_empty":  # the last key was revoked
                self._keys = {}
            else:
                log.warning("%s Until then the keys of before count.", error)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def add_key(name: str, path: Path) -> str:
    """Make a key, add its hash to the key file under `name`, and return the key: it stands nowhere else.

    Raises UsageError `usage` for a name that cannot be one, `key_exists`, `key_file_busy`, `key_file_not_writable`, or
    what `load_keys` finds wrong in the file.
    """
    if not re.fullmatch(NAME, name):
        raise UsageError("usage", f"{name[:64]!r} cannot name a key: use letters, digits, dots, dashes, underscores.")
    with _rewritten(path) as new:
        if name in _names(path):
            raise UsageError("key_exists", f"{path} has a key for {name} already: choose another name or revoke it.")
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        key = secrets.token_urlsafe(32)
        digest = hashlib.sha256(key.encode()).hexdigest()
        new.write(before + ("\n" if before and not before.endswith("\n") else "") + f"{name}:{digest}\n")
    return key


def revoke_key(name: str, path: Path) -> None:
    """Take the key of this name out of the file. Raises UsageError `key_not_found`, and as `add_key`."""
    with _rewritten(path) as new:
        if name not in _names(path):
            raise UsageError("key_not_found", f"{path} has no key of the name {name[:64]!r}: `esrt keys list` has all.")
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        new.writelines(line for line in lines if line.partition(":")[0].strip() != name)


def names(path: Path) -> list[str]:
    """The names in a key file, which may have none. Raises UsageError as `load_keys` does."""
    try:
        return list(load_keys(path))
    except UsageError as error:
        if error.code == "key_file_empty":
            return []
        raise


def _names(path: Path) -> list[str]:
    return names(path) if path.exists() else []


@contextmanager
def _rewritten(path: Path) -> Iterator[TextIO]:
    """A file beside `path` that takes its place when the block ends without an error. A new one is its owner's alone.

    A server reads the old one or the new one; of two commands that change it at the same time, one is refused.
    """
    path = path.resolve()  # a link stays one
    beside = path.with_name(f"{path.name}.new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(
            "key_file_busy", f"Another command changes {path}: try again, or remove {beside} if none does."
        ) from None
    except OSError as error:
        raise UsageError("key_file_not_writable", f"{path} cannot be written: {error.strerror}.") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            _as_before(path, file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UsageError("key_file_not_writable", f"{path} cannot be written: {error.strerror}.") from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _as_before(path: Path, descriptor: int) -> None:
    """The new file is whose the old one is, and as readable: a server may run as another user than who changes it."""
    if os.name == "nt" or not path.exists():
        return
    old = path.stat()
    for owner in (old.st_uid, -1):  # only root gives files away, others to a group of theirs
        with suppress(OSError):
            os.fchown(descriptor, owner, old.st_gid)
            break
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
