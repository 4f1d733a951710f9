"""What `import esrt` gives, and what it keeps from happening."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import esrt
from esrt import hub


def test_the_public_surface() -> None:
    assert len(esrt.__all__) <= 10
    assert dir(esrt) == sorted(esrt.__all__)
    for name in esrt.__all__:
        assert getattr(esrt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = esrt.nothing


def test_nothing_is_written_down_about_the_device(model: Path, examples: Path, tmp_path: Path) -> None:
    """ONNX Runtime would keep a device id in the home directory, and events to be sent home with it."""
    script = (
        "import sys; from esrt import Encoder, load_audio;"
        "print(Encoder(sys.argv[1]).encode(load_audio(sys.argv[2])).shape)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    subprocess.run(
        [sys.executable, "-c", script, str(model / "edge.onnx"), str(examples / "french.flac")],
        env={**environment, "HOME": str(tmp_path), "ESRT_CACHE": str(hub.cache_dir())},
        check=True,
        timeout=300,
    )
    assert list(tmp_path.rglob("*")) == []
