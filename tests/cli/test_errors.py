"""Everything a user can get wrong: one line on stderr with a code, exit code 2, nothing on stdout, no traceback."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esrt.cli import serve
from esrt.errors import UsageError

Run = Callable[..., subprocess.CompletedProcess[str]]


def refused(result: subprocess.CompletedProcess[str], code: str) -> str:
    """Check the form of an error; returns its line."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("esrt: ") and lines[0].endswith(f" [{code}]"), lines
    return lines[0]


@pytest.fixture
def nobody() -> str:
    """The address of a server that is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "usage"),
        (["dance"], "usage"),
        (["translate"], "usage"),
        (["translate", "clip.wav"], "usage"),
        (["translate", "clip.wav", "--to", "deu", "--codec", "mp3"], "usage"),
        (["translate", "clip.wav", "--to", "deu", "--key-file", "k"], "usage"),
        (["translate", "clip.wav", "--to", "deu", "--edge", "edge.onnx"], "usage"),
        (["translate", "/dev/null", "--to", "deu", "--draft", "d", "--cloud", "c", "--edge", "edge.onnx"], "usage"),
        (["translate", "clip.wav", "--to", "deu", "--gamma", "3"], "usage"),
        (["transcribe", "clip.wav", "--patience", "5"], "usage"),
        (["translate", "clip.wav", "--to", ","], "no_language"),
        (["serve"], "no_keys"),
        (["serve", "--no-auth", "--rate", "0"], "usage"),
        (["serve", "--no-auth", "--host", "0.0.0.0"], "no_auth_not_loopback"),
        (["serve", "--no-auth", "--cache-bytes", "much"], "usage"),
        (["serve", "--no-auth", "--retention", "0"], "usage"),
        (["serve", "--no-auth", "--port", "0", "--cache", "ftp://host"], "bad_cache"),
        (["serve", "--no-auth", "--port", "0", "--cache", "pyproject.toml/below"], "bad_cache"),
        (["models", "info", "ESRT-9000"], "unknown_model"),
        (["ugsd", "tune", "m", "--to", "deu", "--draft", "d", "--cloud", "c", "--bytes", "9", "--gamma", "3"], "usage"),
    ],
)
def test_wrong_arguments(run: Run, arguments: list[str], code: str) -> None:
    refused(run(*arguments), code)


def test_an_unknown_language_code(run: Run, examples: Path) -> None:
    said = refused(run("translate", examples / "french.flac", "--to", "eng,germn"), "unknown_language")
    assert "germn" in said and "deu" in said
    refused(run("translate", examples / "french.flac", "--to", "eng", "--from", "klingon"), "unknown_language")


def test_a_missing_file(run: Run, tmp_path: Path) -> None:
    said = refused(run("translate", tmp_path / "nowhere.wav", "--to", "deu"), "audio_not_found")
    assert "nowhere.wav" in said


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "audio_empty"), (b"This is a letter, not a sound.\n" * 40, "audio_not_readable")],
    ids=["0 bytes", "text"],
)
def test_a_file_that_is_no_speech(run: Run, tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    refused(run("transcribe", path), code)
    refused(run("translate", path, "--to", "deu"), code)


def test_a_stopped_server(run: Run, examples: Path, nobody: str) -> None:
    said = refused(run("translate", examples / "french.flac", "--to", "eng", "--cloud", nobody), "cloud_unreachable")
    assert nobody.removeprefix("http://") in said


def test_a_key_file_without_a_key(run: Run, examples: Path, nobody: str, tmp_path: Path) -> None:
    arguments: list[Any] = ["transcribe", examples / "french.flac", "--cloud", nobody, "--key-file"]
    refused(run(*arguments, tmp_path / "none.key"), "key_not_readable")
    (tmp_path / "two.key").write_text("one key\nanother\n")
    refused(run(*arguments, tmp_path / "two.key"), "key_not_readable")


def test_a_wrong_key(run: Run, examples: Path, keyed_server: Any, tmp_path: Path) -> None:
    server, right = keyed_server
    wrong = tmp_path / "wrong.key"
    wrong.write_text("not-the-key\n")
    french = examples / "french.flac"
    refused(run("translate", french, "--to", "eng", "--cloud", server.url, "--key-file", wrong), "unauthorized")
    refused(run("translate", french, "--to", "eng", "--cloud", server.url), "unauthorized")
    assert run("translate", french, "--to", "eng", "--cloud", server.url, "--key-file", right).returncode == 0


def test_a_port_that_is_taken(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused(run("serve", "--no-auth", "--port", str(taken.getsockname()[1])), "port_taken")


def test_two_servers_that_begin_at_once() -> None:
    """Both may bind one port; the one that is loaded first has it."""
    with serve.bind("127.0.0.1", 0) as first, serve.bind("127.0.0.1", first.getsockname()[1]) as second:
        serve.listen(first)
        with pytest.raises(UsageError) as caught:
            serve.listen(second)
    assert caught.value.code == "port_taken"


def test_a_bad_file_among_good_ones_costs_only_itself(run: Run, examples: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    result = run("transcribe", examples / "french.flac", tmp_path / "empty.wav", examples / "russian.flac")
    assert result.returncode == 2
    assert [line for line in result.stdout.splitlines() if line.endswith(".flac")] == [
        str(examples / "french.flac"),
        str(examples / "russian.flac"),
    ]
    assert result.stderr.rstrip().endswith("[audio_empty]") and "Traceback" not in result.stderr
