"""The rules that keep the rooms apart, read from the source: who may import whom, and who stays free of torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import esrt

PACKAGE = Path(esrt.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "weights" not in path.parts)

# Arrows point down: a room imports rooms of a higher number only. Rooms of one number do not know each other.
LEVELS = {
    0: {"cli"},
    1: {"bench"},
    2: {"translator"},
    3: {"edge", "cloud", "train", "evaluate", "privacy", "m2m", "decoding"},
    4: {"hub"},
    5: {"model", "audio", "wire"},
    6: {"prompts", "config"},
    7: {"languages"},
    8: {"errors"},
}
LEVEL = {room: level for level, rooms in LEVELS.items() for room in rooms}
# What lies in one level and still has to meet, each with its reason.
SIDEWAYS = {
    ("model", "wire"),  # a model's codec tables and fingerprint are defined by the wire
    ("m2m", "train"),  # one reader of manifests, one sampler, one cache of frames, one form of checkpoints
    ("m2m", "edge"),  # it runs on the same device, whose processor it has to know
    ("privacy", "edge"),  # what an attacker holds is what the device's own encoder makes
    ("privacy", "train"),  # an attacker's voices are in the same manifests, and speak through the same synthesiser
    ("privacy", "evaluate"),  # what is turned back to sound is heard by the baseline's Whisper
    ("evaluate", "train"),  # what is measured is listed in the same manifests as what is trained on
    ("m2m", "evaluate"),  # its scores are counted as all scores are
    ("decoding", "cloud"),  # a drafter's cache and texts are the cloud's own: both sides must tell them the same way
}
# Never torch, not even inside a function.
NO_TORCH = {"edge", "wire", "audio", "prompts", "config", "languages", "errors"}
# Torch only where a function asks for it: these are imported on devices too.
NO_TORCH_AT_IMPORT = {"cli", "translator", "hub", "__init__", "__main__"}
TORCH = {"torch", "transformers", "peft", "safetensors.torch", "accelerate"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path, *, lazy: bool = True) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import; what stands under `if TYPE_CHECKING` never runs and does not count."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if not lazy and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def our_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of each import of ours."""
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] == "esrt" and parts[1] in LEVEL:
            yield line, parts[1]


def is_torch(name: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in TORCH)


def test_every_file_has_a_room() -> None:
    assert FILES
    unknown = {room(path) for path in FILES} - set(LEVEL) - {"__init__", "__main__"}
    assert not unknown, f"rooms that no rule knows: {unknown}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    here = room(path)
    if here in {"__init__", "__main__"}:
        return
    wrong = [
        f"{path}:{line}: {here} imports {there}"
        for line, there in our_imports(path)
        if there != here and LEVEL[there] <= LEVEL[here] and (here, there) not in SIDEWAYS
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_stays_out(path: Path) -> None:
    here = room(path)
    found: list[tuple[int, str]] = []
    if here in NO_TORCH:
        found = [(line, name) for line, name in imports(path) if is_torch(name)]
    elif here in NO_TORCH_AT_IMPORT:
        found = [(line, name) for line, name in imports(path, lazy=False) if is_torch(name)]
    assert not found, f"{path} imports {found}"


def test_wire_is_numpy_and_the_standard_library() -> None:
    for path in FILES:
        if room(path) == "wire":
            tops = {name.split(".")[0] for _, name in imports(path)}
            assert tops <= {"numpy", "esrt"} | set(sys.stdlib_module_names), f"{path} imports {tops}"


def test_models_are_never_unpickled() -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
    for path in FILES:
        assert not {name.split(".")[0] for _, name in imports(path)} & forbidden, path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_two(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 500, f"{path} has {lines} lines: make it two files"


def _loaded_by(statement: str) -> set[str]:
    script = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name for name in run.stdout.split() if is_torch(name) or name == "onnxruntime"}


@pytest.mark.parametrize("module", ["esrt", "esrt.edge.client", "esrt.cli.main", "esrt.wire.codecs", "esrt.hub"])
def test_a_light_import(module: str) -> None:
    """These load neither torch nor ONNX Runtime, in a Python of their own."""
    assert _loaded_by(f"import {module}") == set()


def test_the_edge_half_never_loads_torch() -> None:
    every = "; ".join(
        "import " + ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if room(path) in {"edge", "audio", "wire"}
    )
    assert _loaded_by(every) <= {"onnxruntime"}
