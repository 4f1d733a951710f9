"""What has been computed stays in the audit's folder: a run that was stopped goes on, and a new view costs itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from esrt.privacy.figures import Figure


def array(path: Path, make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The array in `path` (.npy), made and written there if it is missing."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part.npy")
        np.save(beside, make())
        beside.replace(path)
    found: npt.NDArray[Any] = np.load(path)
    return found


def text(path: Path, make: Callable[[], Any]) -> Any:
    """The same for whatever JSON can say."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(make(), ensure_ascii=False), encoding="utf-8")
        beside.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def figures(path: Path, make: Callable[[], Mapping[str, Figure]]) -> dict[str, Figure]:
    """The same for figures by name."""
    found = text(path, lambda: {name: figure.to_json() for name, figure in make().items()})
    return {
        name: Figure(**{**figure, **{key: float("nan") for key, value in figure.items() if value is None}})
        for name, figure in found.items()
    }
