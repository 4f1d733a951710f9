"""Which language is spoken, told by a frame's rows alone: a linear layer on their mean, fitted after training.

The LLM names the language of what it has written, and it may have written Spanish that it heard in Italian. Where the
finder is sure of another language it is asked again, for that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.torch import save_file
from torch import Tensor

from esrt.errors import ModelError
from esrt.languages import LANGUAGES
from esrt.model.checkpoint import FINDER, read_state

SURE = 0.5
"""The probability from which on a finder says a language."""

Finder = Callable[[npt.NDArray[np.float32]], str | None]
"""Rows [queries, width] of a frame -> the code of their language, None where it is not sure."""


def save(folder: Path, codes: Sequence[str], weight: Tensor, bias: Tensor) -> None:
    """Writes the layer: `weight` [n, width] and `bias` [n] give the logits of the n languages `codes`."""
    names = list(LANGUAGES)
    tags = bias.new_tensor([names.index(code) for code in codes]).int()
    save_file({"tags": tags, "weight": weight.float().contiguous(), "bias": bias.float()}, folder / FINDER)


def load(folder: Path) -> Finder | None:
    """The finder of a model folder, None where it has none. Raises ModelError."""
    if not (folder / FINDER).is_file():
        return None
    state = read_state(folder / FINDER)
    try:
        codes = [list(LANGUAGES)[int(tag)] for tag in state["tags"]]
        weight, bias = state["weight"].numpy(), state["bias"].numpy()
        if weight.shape[:1] != bias.shape or len(codes) != len(bias):
            raise ValueError
    except (KeyError, IndexError, ValueError) as error:
        raise ModelError("model_damaged", f"{folder / FINDER} is damaged; fetch the model again.") from error

    def find(rows: npt.NDArray[np.float32]) -> str | None:
        logits = weight @ rows.mean(0) + bias
        best = int(np.argmax(logits))
        return codes[best] if np.exp(logits - logits[best]).sum() < 1 / SURE else None

    return find
