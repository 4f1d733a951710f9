"""`esrt translate --draft`, with real weights: the model drafts for itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Run, Server


def test_a_clip_that_is_drafted_and_checked(
    run: Run, model: Path, start_server: Callable[..., Server], examples: Path
) -> None:
    clip = examples / "french.flac"
    server = start_server("--no-auth", "--port", "0")
    options = ("--to", "eng", "--draft", model, "--format", "json")
    checked = run(
        "translate", clip, *options, "--cloud", server.url, "--gamma", "0", "--rank", "1", "--patience", "120"
    )
    assert checked.returncode == 0, checked.stderr
    found = json.loads(checked.stdout)
    drafting = found["drafting"]
    assert found["transcript"] and any(found["translations"].values())
    assert drafting["cut"] is None and drafting["local_share"] == 0
    # The model has nothing to correct in its own draft, but where two tokens are as good as equal.
    assert drafting["written"] > 5 and drafting["corrected"] <= drafting["written"] / 4
    assert drafting["bytes_sent"] > 40_000 and "round trips" in checked.stderr

    server.kill()
    alone = run("translate", clip, *options, "--cloud", server.url, "--gamma", "0")
    assert alone.returncode == 0, alone.stderr
    found = json.loads(alone.stdout)
    assert found["transcript"] and found["drafting"]["cut"] == "cloud_unreachable"
    assert found["drafting"]["local_share"] == 1
    assert "the cloud was out of reach [cloud_unreachable]" in alone.stderr


def test_what_does_not_go_together_is_said(run: Run, model: Path, examples: Path) -> None:
    clip = examples / "french.flac"
    without = run("translate", clip, "--to", "eng", "--draft", model)
    assert without.returncode == 2 and "[usage]" in without.stderr
    gamma = run("translate", clip, "--to", "eng", "--draft", model, "--cloud", "http://127.0.0.1:9", "--gamma", "-1")
    assert gamma.returncode == 2 and "[bad_gamma]" in gamma.stderr
