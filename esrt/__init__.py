"""Speech translation split in two: a device turns speech into one small tensor, a cloud LLM turns that into text.

The names below are the public surface. Each is loaded when it is first used, so that a device never loads torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esrt.audio.io import load as load_audio
    from esrt.edge.async_client import AsyncClient
    from esrt.edge.client import Client
    from esrt.edge.encoder import Encoder
    from esrt.edge.pipeline import Result
    from esrt.errors import ESRTError
    from esrt.hub import resolve
    from esrt.languages import LANGUAGES
    from esrt.translator import Translator

__version__ = "0.1.0"
__all__ = [
    "LANGUAGES",
    "AsyncClient",
    "Client",
    "ESRTError",
    "Encoder",
    "Result",
    "Translator",
    "__version__",
    "load_audio",
    "resolve",
]

# ONNX Runtime's official builds write down a device id and send events home, unless this is set before they load.
# Nothing but a frame leaves a device here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_WHERE = {
    "LANGUAGES": "esrt.languages:LANGUAGES",
    "AsyncClient": "esrt.edge.async_client:AsyncClient",
    "Client": "esrt.edge.client:Client",
    "ESRTError": "esrt.errors:ESRTError",
    "Encoder": "esrt.edge.encoder:Encoder",
    "Result": "esrt.edge.pipeline:Result",
    "Translator": "esrt.translator:Translator",
    "load_audio": "esrt.audio.io:load",
    "resolve": "esrt.hub:resolve",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'esrt' has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
