"""`esrt doctor`: what is installed, what is missing, and what to type."""

from __future__ import annotations

import argparse
import os
import platform
import re
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from esrt import __version__
from esrt.cli import common, models

if TYPE_CHECKING:
    from esrt.cli.common import Verbs

PURPOSES = {
    "": "the device's half",
    "cloud": "the cloud's half, and both halves in one process",
    "sidecar": "OpenAI's audio API on this device",
    "tiny": "the base weights of ESRT-270M as packages",
    "redis": "features in a Redis that several servers share",
    "otel": "traces of requests for OpenTelemetry",
    "train": "training",
    "eval": "scoring",
}


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(verbs, "doctor", "Say what is installed, what is missing and what to type.", "esrt doctor")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 if the device's half can run, 2 if even that is incomplete."""
    from esrt import hub

    _line("esrt", __version__)
    _line("python", platform.python_version(), f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    missing = {extra: [name for name in _packages()[extra] if not _installed(name)] for extra in PURPOSES}
    for extra, purpose in PURPOSES.items():
        what = f"esrt[{extra}]" if extra else "base"
        if not missing[extra]:
            _line(what, "ok", purpose)
        elif len(missing[extra]) == len(_packages()[extra]):
            _line(what, "not installed", purpose)
        else:
            _line(what, "incomplete", f"{purpose}; missing: {', '.join(missing[extra])}")
    if _installed("torch"):
        _line("torch", metadata.version("torch"), _device())
    _line("models in", str(hub.cache_dir()))
    state = models.state(common.DEFAULT_MODEL)
    _line(common.DEFAULT_MODEL, state)
    needed = ("cloud",) if state == "ready" else ("cloud", "tiny")  # a model that is ready has its base weights
    todo = ",".join(extra for extra in needed if missing[extra])
    if missing[""]:
        print("type: pip install esrt")
        return 2
    if todo:
        print(f"type: pip install 'esrt[{todo}]'   (not needed for `esrt translate --cloud URL`)")
    elif state == "to pull":
        print(f"type: esrt models pull {common.DEFAULT_MODEL}   (or let the first translation do it)")
    else:
        print("type: esrt translate clip.flac --to eng")
    return 0


def extra_of(module: str) -> str | None:
    """The extra that brings `module` (`torch` or `torch.nn`): "cloud" and so on; None where it is none of ours."""
    name = module.partition(".")[0].replace("_", "-").lower()
    return next((extra for extra, names in _packages().items() if extra and name in names), None)


@cache
def _packages() -> dict[str, list[str]]:
    """What this installation says it needs: extra -> distributions; "" is the base install."""
    packages: dict[str, list[str]] = {extra: [] for extra in PURPOSES}
    try:
        required = metadata.requires("esrt") or []
    except metadata.PackageNotFoundError:  # run from the source tree, never installed
        return packages
    for line in required:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0].replace("_", "-").lower()
        marker = re.search(r"extra == ['\"](\w+)['\"]", line)
        extra = marker[1] if marker else ""
        if extra in packages and name != "esrt":
            packages[extra].append(name)
    return packages


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"GPU: {torch.cuda.get_device_name()}"
    return "no GPU: the cloud's half runs on the CPU"


def _line(what: str, state: str, note: str = "") -> None:
    print(f"{what:<14}{state:<20}{note}".rstrip())
