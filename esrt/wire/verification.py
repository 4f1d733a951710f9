"""UGSD's bodies: a drafted block that the cloud shall check, and its verdict. Read as those in `schemas`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from esrt.wire.reading import Json, bad_request, bad_response, field, read_object
from esrt.wire.schemas import check_features

MAX_BLOCK = 64
MAX_PREFIX = 1024
MAX_RANK = 1000
_TOKENIZER = re.compile(r"[0-9a-f]{16}\Z")


def tokenizer_fingerprint(vocabulary: Mapping[str, int]) -> str:
    """16 hex digits that name what token ids mean: BLAKE2b-64 over all tokens in the order of their ids."""
    digest = hashlib.blake2b(digest_size=8)
    for token, index in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{index} {token!r}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class VerificationRequest:
    """`block` was drafted after the rows of stored `features` and the tokens `prefix` (prompt included).

    A token stands while its rank is at most `rank`. `tokenizer` is the fingerprint of the drafter's.
    """

    features: str
    tokenizer: str
    prefix: list[int]
    block: list[int]
    rank: int = 1

    def to_json(self) -> dict[str, Any]:
        """`{features, tokenizer, prefix, block, rank}`."""
        return asdict(self)

    @staticmethod
    def from_json(body: bytes | str | Json) -> VerificationRequest:
        """Read a request."""
        raw = read_object(body, bad_request)
        if unknown := sorted(set(raw) - {"features", "tokenizer", "prefix", "block", "rank"}):
            raise bad_request(f"{unknown[0][:40]!r} is not a field of this request")
        features, tokenizer, rank = check_features(raw.get("features")), raw.get("tokenizer"), raw.get("rank", 1)
        if not isinstance(tokenizer, str) or not _TOKENIZER.match(tokenizer):
            raise bad_request("`tokenizer` must be the 16 hex digits that name the drafter's tokenizer")
        if type(rank) is not int or not 1 <= rank <= MAX_RANK:
            raise bad_request(f"`rank` must be a whole number from 1 to {MAX_RANK}")
        prefix, block = _ids(raw, "prefix", 0, MAX_PREFIX), _ids(raw, "block", 1, MAX_BLOCK)
        return VerificationRequest(features, tokenizer, prefix, block, rank)


def _ids(raw: Json, name: str, least: int, most: int) -> list[int]:
    ids = raw.get(name)
    if not isinstance(ids, list) or not least <= len(ids) <= most:
        raise bad_request(f"`{name}` must be a list of {least} to {most} token ids")
    if not all(type(token) is int and 0 <= token < 1 << 31 for token in ids):
        raise bad_request(f"`{name}` must hold token ids, whole numbers of 0 or more")
    return ids


@dataclass(frozen=True)
class Verdict:
    """The first `accepted` tokens of the block stand. Where that is not all, `correction` takes the next one's place.

    `eos` says whether the text ends with what stands now, the correction included.
    """

    accepted: int
    correction: int | None
    eos: bool

    def to_json(self) -> dict[str, Any]:
        """`{accepted, correction, eos}`."""
        return asdict(self)

    @staticmethod
    def from_json(body: bytes | str | Json) -> Verdict:
        """Read an answer; unknown keys are ignored."""
        raw = read_object(body, bad_response)
        correction = None if raw.get("correction") is None else field(raw, "correction", int)
        accepted = field(raw, "accepted", int)
        if accepted < 0 or (correction is not None and correction < 0):
            raise bad_response("`accepted` and `correction` must be 0 or more")
        return Verdict(accepted, correction, field(raw, "eos", bool))
