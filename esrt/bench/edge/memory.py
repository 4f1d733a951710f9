"""The most memory that a device's process has, from its first import to its last clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from esrt.bench.edge import child, devices, whisper
from esrt.bench.page import machine, table
from esrt.translator import prepare

MEGABYTE = 1e6
TARGET = 400  # MB
STAGES = ("imports", "model", "clips")


def report(found: Mapping[str, Mapping[str, int]]) -> str:
    """The table: by name, bytes at most after each of STAGES."""
    rows = [
        [name, *(f"{peaks[stage] / MEGABYTE:.0f}" for stage in STAGES), f"< {TARGET}" if "ESRT" in name else ""]
        for name, peaks in found.items()
    ]
    return table(["MB at most", "after imports", "model loaded", "clips encoded", "target"], rows)


def run(model: str, ctranslate2: Path | None, threads: int) -> str:
    """The section: our encoder in either timing, and Whisper's engine, each in a process of its own."""
    version = whisper.engine().__version__
    edge, others = str(prepare(model) / "edge.onnx"), devices.importable()
    found = {
        f"ESRT, fast, {devices.CLIPS} clips": dict(
            child.run(devices.ours, edge=edge, timing="fast", clips=devices.CLIPS, threads=threads)
        ),
        "ESRT, constant, 1 clip": dict(child.run(devices.ours, edge=edge, timing="constant", clips=1, threads=threads)),
    }
    with whisper.model_folder(ctranslate2) as folder:
        for name, packages in (("CTranslate2 alone", []), ("CTranslate2 and what faster-whisper imports", others)):
            found[name] = dict(child.run(devices.theirs, folder=str(folder), packages=packages, threads=threads))
    missing = [name for name in devices.FASTER_WHISPER if name not in others]
    return "\n\n".join(
        [
            report(found),
            "Resident memory at its highest (VmHWM) of a fresh process, the interpreter and all libraries included. "
            "Ours decodes sound files (PyAV), encodes clips of 1.5 to 30 s and packs them. "
            f"Whisper base in CTranslate2 {version}, int8, encodes one mel of 30 s that is given to it, and decodes "
            f"nothing; faster-whisper's imports here: {', '.join(others)}"
            f"{'; not installed here: ' + ', '.join(missing) if missing else ''}. {threads} thread(s). On {machine()}.",
        ]
    )
