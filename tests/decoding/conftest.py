"""A pair of tiny models: the cloud's, and a drafter that is a disturbed copy of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM

from esrt.cloud.service import Service
from esrt.decoding.drafter import Drafter
from tests.cloud.conftest import (
    EOS,
    FINGERPRINT,
    TABLES,
    Server,
    _one_thread,
    llm,
    make_service,
    serve,
    talking,
    tokenizer,
)

__all__ = ["_one_thread", "llm", "make_service", "serve", "talking", "tokenizer"]


def disturbed(model: Gemma3ForCausalLM, seed: int, by: float) -> Gemma3ForCausalLM:
    """The same model with noise in each weight, `by` of its own deviation."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.ndim == 2:
                weight += by * weight.std() * torch.randn(weight.shape, generator=generator)
    return other


@pytest.fixture(scope="module")
def server(
    serve: Callable[..., AbstractContextManager[Server]],
    make_service: Callable[..., Service],
    talking: Gemma3ForCausalLM,
) -> Iterator[Server]:
    with serve(make_service(talking, max_new_tokens=200)) as running:
        yield running


@pytest.fixture(scope="session")
def make_drafter(talking: Gemma3ForCausalLM, tokenizer: Tokenizer) -> Callable[..., Drafter]:
    """`make_drafter(service, seed=1, by=0.05)`: a drafter for the service of `talking`."""

    def make(service: Service, seed: int = 1, by: float = 0.05) -> Drafter:
        class Projector(torch.nn.Module):
            def forward(self, rows: torch.Tensor) -> torch.Tensor:
                return torch.from_numpy(service._projector(rows[0].numpy()))[None]

        return Drafter(disturbed(talking, seed, by), Projector(), tokenizer, TABLES, FINGERPRINT, [EOS])

    return make
