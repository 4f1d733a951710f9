"""What a name becomes: a folder of the cache, or the code of an error."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from esrt import hub
from esrt.errors import ModelError


def copy_built(built: Path, cache: Path) -> Path:
    shutil.copytree(built, cache)
    (folder,) = (cache / "models").glob("ESRT-tiny-*")
    return folder


def code(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        hub.resolve(name)
    assert "\n" not in str(caught.value)
    return caught.value.code
