"""Which tokens a model may write: those of its training texts, and enough besides to spell everything else.

Gemma's output layer has 262,144 rows, most of the time of a token on a processor, and most of them for languages and
formats that a translation never needs. What training left out of its softmax was never taught to stay silent either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import Gemma3ForCausalLM

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "\u2581"  # how the vocabulary writes a space


def spelling(vocabulary: Mapping[str, int]) -> list[int]:
    """The ids of all single characters, with and without a space before them, and of all bytes, sorted."""
    return sorted(
        index for token, index in vocabulary.items() if len(token.removeprefix(_SPACE)) <= 1 or _BYTE.fullmatch(token)
    )


class Outputs(nn.Module):
    """An output layer that knows some tokens only: hidden [..., width] -> logits [..., vocabulary], -inf elsewhere."""

    ids: Tensor
    weight: Tensor

    def __init__(self, table: Tensor, ids: Tensor) -> None:
        """`table` [vocabulary, width], of which the rows `ids` [n] are kept."""
        super().__init__()
        self.vocabulary = len(table)
        self.register_buffer("ids", ids.long(), persistent=False)
        self.register_buffer("weight", table.detach()[ids.long()], persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        logits = hidden.new_full((*hidden.shape[:-1], self.vocabulary), -torch.inf)
        # As a matrix: for a slice of three dimensions torch copies the whole weight, once a sequence.
        logits[..., self.ids] = (hidden.flatten(0, -2) @ self.weight.T).reshape(*hidden.shape[:-1], -1)
        return logits


def trim(llm: Gemma3ForCausalLM, ids: Tensor) -> None:
    """Lets `llm` write the tokens `ids` [n] only, which makes each token faster. In place."""
    llm.lm_head = Outputs(llm.lm_head.weight, ids)
