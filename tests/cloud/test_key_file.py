"""A running server's keys follow their file, and what two commands do to it at once."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from pathlib import Path

import pytest

from esrt.cloud.key_file import KeyFile, add_key, revoke_key
from esrt.errors import UsageError


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_change_counts_after_a_second(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys"
    add_key("ann", path)
    keys = KeyFile(path, clock)
    key = add_key("bob", path)
    assert list(keys.keys()) == ["ann"], "the file's date is looked at once a second at most"
    clock.now += 1
    assert list(keys.keys()) == ["ann", "bob"]
    assert keys.keys()["bob"] == hashlib.sha256(key.encode()).hexdigest()
    revoke_key("ann", path)
    clock.now += 1
    assert list(keys.keys()) == ["bob"]
    revoke_key("bob", path)
    clock.now += 1
    assert keys.keys() == {}, "who revokes the last key lets nobody in"


@pytest.mark.parametrize("content", [None, b"\xff", b"ann\n"], ids=["gone", "no text", "damaged"])
def test_a_file_that_cannot_be_read_changes_nothing(
    tmp_path: Path, clock: Clock, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    key = add_key("ann", path)
    keys = KeyFile(path, clock)
    before = dict(keys.keys())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with caplog.at_level(logging.DEBUG):
        for _ in range(5):
            clock.now += 1
            assert keys.keys() == before
    assert len(caplog.records) == 1 and str(path) in caplog.text
    assert key not in caplog.text and before["ann"] not in caplog.text
    path.unlink(missing_ok=True)
    add_key("bob", path)
    clock.now += 1
    assert list(keys.keys()) == ["bob"]


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    add_key("ann", path)
    keys = KeyFile(path, clock)
    monkeypatch.setattr("esrt.cloud.key_file.load_keys", lambda _: pytest.fail("it was read"))
    for _ in range(3):
        clock.now += 1
        assert list(keys.keys()) == ["ann"]


def test_two_commands_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key("ann", path)
    before = path.read_bytes()
    (tmp_path / "keys.new").touch()
    with pytest.raises(UsageError) as refused:
        revoke_key("ann", path)
    assert refused.value.code == "key_file_busy" and path.read_bytes() == before
    (tmp_path / "keys.new").unlink()
    with pytest.raises(UsageError):
        revoke_key("bob", path)
    assert [file.name for file in tmp_path.iterdir()] == ["keys"] and path.read_bytes() == before


def test_a_link_stays_one(tmp_path: Path) -> None:
    """Servers may know the file by its own name."""
    (tmp_path / "keys").symlink_to(tmp_path / "real")
    add_key("ann", tmp_path / "real")
    revoke_key("ann", tmp_path / "keys")
    assert (tmp_path / "keys").is_symlink() and "ann" not in (tmp_path / "real").read_text()


@pytest.mark.skipif(os.name == "nt", reason="no modes there")
def test_who_could_read_it_still_can(tmp_path: Path) -> None:
    """A server that runs as another user than who changes its keys."""
    path = tmp_path / "keys"
    add_key("ann", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    if os.getuid() == 0:
        os.chown(path, 10001, 10002)
    before = path.stat()
    add_key("bob", path)
    revoke_key("ann", path)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_file_that_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that a container has mounted by itself."""
    path = tmp_path / "keys"
    add_key("ann", path)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EBUSY, "Device is busy")))
    with pytest.raises(UsageError) as refused:
        add_key("bob", path)
    assert refused.value.code == "key_file_not_writable"
    assert [file.name for file in tmp_path.iterdir()] == ["keys"]
