"""What `pip install esrt` brings to a device, in bytes, beside faster-whisper."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from esrt.bench.page import table
from esrt.errors import UsageError

MEGABYTE = 1e6
TARGET = 150  # MB on disk
LARGEST = 5


@dataclass(frozen=True)
class Weight:
    """Bytes of all wheels, of all that lies in site-packages, and of each package there by its name."""

    wheels: int
    disk: int
    packages: dict[str, int]


def pip(*arguments: str | Path) -> None:
    """Runs pip. Raises UsageError `pip_failed` with the last line that it says."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = next(iter(reversed(done.stderr.strip().splitlines())), "it says nothing")
        raise UsageError("pip_failed", f"pip {arguments[0]} failed: {why}")


def total(folder: Path) -> int:
    """Bytes of all files in a folder and below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def packages(site: Path) -> dict[str, int]:
    """Bytes on disk by package, largest first."""
    found = {}
    for one in metadata.distributions(path=[str(site)]):
        paths = [Path(str(file.locate())) for file in one.files or ()]
        found[one.metadata["Name"]] = sum(path.stat().st_size for path in paths if path.is_file())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def weigh(requirement: str | Path, scratch: Path) -> Weight:
    """Downloads a requirement with all it depends on, and installs it beside."""
    wheels, site = scratch / "wheels", scratch / "site"
    pip("download", "--only-binary", ":all:", "--dest", wheels, requirement)
    pip("install", "--no-index", "--find-links", wheels, "--target", site, requirement)
    return Weight(total(wheels), total(site), packages(site))


def report(found: Mapping[str, Weight]) -> str:
    """The tables: both sums, and the largest packages of each."""
    sums = [
        [name, str(len(one.packages)), f"{one.wheels / MEGABYTE:.0f} MB", f"{one.disk / MEGABYTE:.0f} MB"]
        for name, one in found.items()
    ]
    large = [
        [name, ", ".join(f"{package} {size / MEGABYTE:.0f}" for package, size in list(one.packages.items())[:LARGEST])]
        for name, one in found.items()
    ]
    return "\n\n".join(
        [
            table(["", "packages", "download", "on disk"], sums),
            f"The target for `esrt` is {TARGET} MB. The {LARGEST} largest packages of each, MB on disk:",
            "\n".join(f"- {name}: {packages}" for name, packages in large),
        ]
    )


def run() -> str:
    """The section; builds the project's wheel from the checkout in the current folder."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pip("wheel", "--no-deps", "--wheel-dir", scratch, Path())
        wheel = next(scratch.glob("esrt-*.whl"))
        size = wheel.stat().st_size / MEGABYTE
        found = {
            "esrt": weigh(wheel, scratch / "esrt"),
            "faster-whisper": weigh("faster-whisper", scratch / "faster-whisper"),
        }
    version = ".".join(map(str, sys.version_info[:2]))
    return "\n\n".join(
        [
            report(found),
            f"`esrt` without extras, from a wheel of {size:.1f} MB that carries the weights ESRT-270M was trained to; "
            "the device's half is one more file, which the device fetches from its cloud. faster-whisper carries no "
            f"weights: it fetches Whisper base (145 MB) on top. Python {version}, {sys.platform}.",
        ]
    )
