"""What every engine can do. The service owns prompts and parsing; an engine turns rows into tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How one answer is decoded: at most `max_new_tokens`, ended early by EOS or by one of `stop_ids`.

    Where `only` names some ids, no others are written (EOS neither; a beam does not look at it).

    Work that was done for one `salt` is never used for another: who has a salt of its own cannot learn from the time of
    an answer what others have asked.
    """

    max_new_tokens: int = 200
    stop_ids: frozenset[int] = frozenset()
    beam: int = 1
    salt: str = ""
    only: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.beam < 1:
            raise ValueError("max_new_tokens and beam must be at least 1")


@dataclass(frozen=True)
class Ranks:
    """Of each token of a block: its rank (1: the likeliest; of equals the lower id), and the likeliest token there."""

    ranks: list[int]
    best: list[int]


class Engine(Protocol):
    """A language model that reads rows instead of token ids."""

    @property
    def width(self) -> int:
        """Width of a row."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end a text."""
        ...

    @property
    def ready(self) -> bool:
        """True from the moment requests are answered at full speed until `close`."""
        ...

    @property
    def failed(self) -> bool:
        """True when the engine has ended by itself: it never answers again, and its process should make room."""
        ...

    @property
    def load(self) -> int:
        """Requests that wait or are being decoded."""
        ...

    def embed(self, ids: Sequence[int]) -> Rows:
        """The rows [n, width] that the model makes of token ids, exactly as its first layer sees them.

        Raises IndexError for an id that its table has no row of, which a tokenizer may have all the same.
        """
        ...

    def generate(self, rows: Rows, sampling: Sampling) -> AsyncGenerator[int, None]:
        """Continue `rows` [n, width]; the token ids come as they are decoded.

        A stop id is yielded as the last token, EOS is not. Closing the generator ends the decoding.
        Raises CloudError `overloaded` when too many requests wait, `not_ready` when the engine is closed or has failed,
        `beam_not_supported` where the engine has no beam search.
        """
        ...

    async def verify(self, key: Hashable, rows: Rows, block: Sequence[int]) -> Ranks:
        """Of each id of `block`, which `rows` [n, width] end in: how likely the model finds it there.

        `key` names whose clip it is; nothing that was computed for one key is used for another. Raises as `generate`.
        """
        ...

    async def close(self) -> None:
        """Stop decoding; whatever still waits fails with `not_ready`."""
        ...
