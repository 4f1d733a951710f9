"""Beam search for one answer alone, by transformers' own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList


class _Abandoned(StoppingCriteria):  # type: ignore[misc]
    """Ends a search whose listener has gone."""

    def __init__(self, gone: Callable[[], bool]) -> None:
        self._gone = gone

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self._gone(), device=input_ids.device)


def search(
    llm: Any, rows: Tensor, width: int, most: int, ends: Iterable[int], padding: int, gone: Callable[[], bool]
) -> list[int]:
    """The likeliest of `width` beams after rows [1, n, hidden]: token ids up to one of `ends`, `most` at most.

    `llm` is a transformers causal language model; the search stops once `gone` says so.
    """
    settings = GenerationConfig(
        num_beams=width, do_sample=False, max_new_tokens=most, eos_token_id=sorted(ends), pad_token_id=padding
    )
    mask = torch.ones(rows.shape[:2], dtype=torch.long, device=rows.device)
    ended = StoppingCriteriaList([_Abandoned(gone)])
    output = llm.generate(inputs_embeds=rows, attention_mask=mask, generation_config=settings, stopping_criteria=ended)
    ids: list[int] = output[0].tolist()
    return ids
