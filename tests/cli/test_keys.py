"""`esrt keys`: what stands in the file, what is printed, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from esrt.cloud.security import load_keys, tenant_of
from esrt.errors import CloudError

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_a_key_from_its_first_day_to_its_last(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    first = run("keys", "add", "laptop", "--key-file", keys)
    second = run("keys", "add", "phone", "--key-file", keys)
    assert first.returncode == second.returncode == 0
    key = first.stdout.strip()
    assert len(key) >= 32 and key not in keys.read_text() and key != second.stdout.strip()
    assert tenant_of(f"Bearer {key}", load_keys(keys)) == "laptop"
    assert tenant_of(f"Bearer {second.stdout.strip()}", load_keys(keys)) == "phone"
    assert keys.stat().st_mode & 0o077 == 0, "others must not read the key file"
    assert run("keys", "list", "--key-file", keys).stdout == "laptop\nphone\n"

    revoked = run("keys", "revoke", "laptop", "--key-file", keys)
    assert (revoked.returncode, revoked.stdout) == (0, "") and "laptop is revoked" in revoked.stderr
    with pytest.raises(CloudError):
        tenant_of(f"Bearer {key}", load_keys(keys))
    assert run("keys", "list", "--key-file", keys).stdout == "phone\n"
    assert run("keys", "revoke", "phone", "--key-file", keys).returncode == 0
    assert run("keys", "list", "--key-file", keys).stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["keys.txt"]


def test_a_key_in_a_file_of_its_own(run: Run, tmp_path: Path) -> None:
    keys, out = tmp_path / "keys.txt", tmp_path / "laptop.key"
    result = run("keys", "add", "laptop", "--key-file", keys, "--out", out)
    assert (result.returncode, result.stdout) == (0, "")
    assert tenant_of(f"Bearer {out.read_text().strip()}", load_keys(keys)) == "laptop"
    assert out.stat().st_mode & 0o077 == 0, "others must not read the key"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk to try")
def test_a_key_that_cannot_be_kept_is_not_made(run: Run, tmp_path: Path) -> None:
    keys, there = tmp_path / "keys.txt", tmp_path / "there.key"
    there.write_text("another key")
    for out in (there, tmp_path / "no" / "folder.key"):
        result = run("keys", "add", "laptop", "--key-file", keys, "--out", out)
        assert result.returncode == 2 and result.stderr.endswith("[key_not_saved]\n") and str(out) in result.stderr
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "esrt", "keys", "add", "laptop", "--key-file", str(keys)]
        printed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert printed.returncode == 2 and printed.stderr.endswith("[key_not_saved]\n"), printed.stderr
    assert run("keys", "list", "--key-file", keys).stdout == "" and there.read_text() == "another key"


def test_what_is_refused(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"# people\nlaptop:{'0' * 64}")
    for arguments, code in [
        (("add", "laptop"), "key_exists"),
        (("add", "a:b"), "usage"),
        (("add", ""), "usage"),
        (("revoke", "phone"), "key_not_found"),
        (("revoke", "# people"), "key_not_found"),
    ]:
        result = run("keys", *arguments, "--key-file", keys)
        assert result.returncode == 2 and result.stdout == "" and result.stderr.endswith(f"[{code}]\n")
        assert len(result.stderr.splitlines()) == 1
    assert run("keys", "add", "laptop").stderr.endswith("[usage]\n")
    assert run("keys", "list", "--key-file", tmp_path / "none").stderr.endswith("[key_file_not_found]\n")
    assert run("keys", "add", "x", "--key-file", tmp_path / "no" / "keys").stderr.endswith("[key_file_not_writable]\n")
    assert keys.read_text() == f"# people\nlaptop:{'0' * 64}"
    assert run("keys", "add", "phone", "--key-file", keys).returncode == 0
    assert list(load_keys(keys)) == ["laptop", "phone"] and keys.read_text().startswith("# people\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.txt"]
