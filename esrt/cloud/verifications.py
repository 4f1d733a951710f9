"""UGSD's cloud half: how much of a drafted block stands, by the ranks of its tokens in one forward pass."""

from __future__ import annotations

import asyncio
from functools import cached_property

import numpy as np

from esrt.cloud.service import Service
from esrt.errors import CloudError, UsageError
from esrt.wire.frame import Frame
from esrt.wire.verification import Verdict, VerificationRequest, tokenizer_fingerprint


class Verifications:
    """Checks drafted blocks with a service's engine."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @cached_property
    def tokenizer(self) -> str:
        """The fingerprint that a drafter's tokenizer must have."""
        return tokenizer_fingerprint(self._service.tokenizer.get_vocab())

    async def verify(self, tenant: str, frame: Frame, request: VerificationRequest) -> Verdict:
        """The verdict on one block of stored features.

        Raises CloudError `pair_mismatch`, and as the engine; UsageError `bad_request` for an id that is no token.
        """
        if await asyncio.to_thread(lambda: self.tokenizer) != request.tokenizer:
            raise CloudError(
                "pair_mismatch",
                "The drafter's tokenizer is not that of the model here: use a drafter made from this model.",
                409,
            )
        ids = [*request.prefix, *request.block]
        engine = self._service.engine
        beyond = UsageError("bad_request", "The request cannot be read: an id is beyond the tokenizer's last.")
        if max(ids) >= self._service.tokenizer.get_vocab_size():
            raise beyond
        try:
            read = engine.embed(ids)
        except IndexError:
            raise beyond from None
        rows = np.concatenate([await self._service.project(frame), read])
        found = await engine.verify((tenant, request.features), rows, request.block)
        ends = engine.eos_ids
        for place, rank in enumerate(found.ranks):
            if rank > request.rank:
                return Verdict(place, found.best[place], found.best[place] in ends)
        return Verdict(len(request.block), None, request.block[-1] in ends)
