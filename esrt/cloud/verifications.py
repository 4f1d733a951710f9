"""UGSD's cloud half: how much of a drafted block stands, by the ranks of its tokens in one forward pass."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Protocol, cast

import numpy as np

from esrt.cloud.engines.base import Engine, Rows
from esrt.cloud.engines.verify import Ranks
from esrt.cloud.service import Service
from esrt.errors import CloudError, UsageError
from esrt.wire.frame import Frame
from esrt.wire.verification import Verdict, VerificationRequest, tokenizer_fingerprint


class Verifies(Engine, Protocol):
    """An engine that can say how likely given tokens are."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end a text."""
        ...

    async def verify(self, key: Hashable, rows: Rows, block: Sequence[int]) -> Ranks:
        """See TransformersEngine.verify."""
        ...


class Verifications:
    """Checks drafted blocks with a service's engine."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @cached_property
    def tokenizer(self) -> str | None:
        """The fingerprint that a drafter's tokenizer must have; None where the engine checks nothing."""
        able = hasattr(self._service.engine, "verify")
        return tokenizer_fingerprint(self._service.tokenizer.get_vocab()) if able else None

    async def verify(self, tenant: str, frame: Frame, request: VerificationRequest) -> Verdict:
        """The verdict on one block of stored features.

        Raises CloudError `verification_not_supported` or `pair_mismatch`, and as the engine; UsageError `bad_request`
        for an id that is no token.
        """
        if (own := await asyncio.to_thread(lambda: self.tokenizer)) is None:
            raise CloudError(
                "verification_not_supported", "This cloud's engine checks no drafts: ask for translations.", 501
            )
        if own != request.tokenizer:
            raise CloudError(
                "pair_mismatch",
                "The drafter's tokenizer is not that of the model here: use a drafter made from this model.",
                409,
            )
        ids = [*request.prefix, *request.block]
        if max(ids) >= self._service.tokenizer.get_vocab_size():
            raise UsageError("bad_request", "The request cannot be read: an id is beyond the tokenizer's last.")
        engine = cast(Verifies, self._service.engine)
        audio = await asyncio.to_thread(self._service.audio, frame)
        rows = np.concatenate([audio, engine.embed(ids)])
        found = await engine.verify((tenant, request.features), rows, request.block)
        ends = engine.eos_ids
        for place, rank in enumerate(found.ranks):
            if rank > request.rank:
                return Verdict(place, found.best[place], found.best[place] in ends)
        return Verdict(len(request.block), None, request.block[-1] in ends)
