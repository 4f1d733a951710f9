"""COMET in a Python of its own: `unbabel-comet` wants older transformers and numpy than the rest of ESRT."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from esrt.errors import UsageError

MODEL = "Unbabel/wmt22-comet-da"
_WORKER = Path(__file__).with_name("comet_worker.py")
_HOW = "in a checkout `python -m venv comet && comet/bin/pip install '.[comet]'`, then --comet-python comet/bin/python"


def scores(texts: Sequence[tuple[str, str, str]], model: str = MODEL, python: str | None = None) -> list[float]:
    """COMET of each (source, translation, reference), times 100, in order.

    `model` is a name of the Hub or a checkpoint's path; `python` one that has `unbabel-comet`, this one if not given.
    Raises UsageError `comet_missing` or `comet_failed`.
    """
    if python is None and find_spec("comet") is None:
        raise UsageError("comet_missing", f"COMET is not installed in this Python, and needs one of its own: {_HOW}.")
    asked = {"model": model, "texts": [dict(zip(("src", "mt", "ref"), one, strict=True)) for one in texts]}
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "texts.json", Path(folder) / "scores.json"
        given.write_text(json.dumps(asked), encoding="utf-8")
        # Its own folder first on the path would be ours, where modules have names that others have too.
        command = [python or sys.executable, "-P", str(_WORKER), str(given), str(made)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise UsageError("comet_missing", f"{python} does not run ({error.strerror}): {_HOW}.") from error
        if run.returncode or not made.is_file():
            reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
            raise UsageError("comet_failed", f"COMET cannot score with {model} ({reason}): see docs/evaluation.md.")
        found: list[float] = json.loads(made.read_text(encoding="utf-8"))
    return [100 * one for one in found]
