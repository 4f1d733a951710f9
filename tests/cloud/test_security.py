from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest

import esrt
from esrt.cloud.security import ANYONE, check_bind, load_keys, tenant_of
from esrt.errors import CloudError, UsageError

KEYS = {name: hashlib.sha256(key).hexdigest() for name, key in (("ann", b"s3cret"), ("bob", b"other"))}


def test_a_key_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# people\n\nann:{KEYS['ann']}\n  bob:{KEYS['bob'].upper()}  \n")
    assert load_keys(path) == KEYS


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "key_file_empty"),
        (b"# nobody\n", "key_file_empty"),
        (b"ann:s3cret\n", "key_file_damaged"),
        (b"s3cret\n", "key_file_damaged"),
        (b":" + b"0" * 64, "key_file_damaged"),
        (b"a:" + b"0" * 64 + b"\na:" + b"1" * 64, "key_file_damaged"),
        (b"\xff\xfe", "key_file_not_found"),
        (None, "key_file_not_found"),
    ],
)
def test_a_key_file_that_is_none(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        load_keys(path)
    assert refused.value.code == code
    assert "s3cret" not in str(refused.value)


def test_tenants() -> None:
    assert tenant_of("Bearer s3cret", KEYS) == "ann"
    assert tenant_of("bearer  other ", KEYS) == "bob"
    assert tenant_of(None, None) == tenant_of("Bearer what", None) == ANYONE


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer s3cre", "Basic s3cret", "s3cret", "Bearer ann", "Bearer \xff"]
)
def test_strangers(header: str | None) -> None:
    with pytest.raises(CloudError) as refused:
        tenant_of(header, KEYS)
    assert (refused.value.code, refused.value.status) == ("unauthorized", 401)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_no_keys_on_loopback(host: str) -> None:
    check_bind(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "10.0.0.1", "no.such.host.invalid"])
def test_no_keys_anywhere_else(host: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_bind(host, None)
    assert refused.value.code == "no_auth_not_loopback"
    check_bind(host, KEYS)


def test_nothing_that_arrives_can_become_code() -> None:
    """No pickles, no eval, no loader of either, wherever bytes from a network are read."""
    forbidden = {"pickle", "marshal", "shelve", "dill", "joblib", "yaml", "eval", "exec", "compile", "__import__"}
    for room in ("cloud", "wire", "edge"):
        for path in (Path(esrt.__file__).parent / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
                if isinstance(node, ast.ImportFrom):
                    names = {(node.module or "").split(".")[0]}
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    names = {node.func.id}
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
                    names = {"pickle"}
                assert not names & forbidden, f"{path}:{getattr(node, 'lineno', 0)}"
