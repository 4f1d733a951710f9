"""Residual vector quantisation: a row becomes a few codes of 10 bits, each the nearest word of one codebook.

A row's distance to its queries' mean is mapped to a few hundred coordinates, those that the cloud's projector sees most
of. Then stage by stage: the rest is looked at in the stage's own small subspace, the nearest of the codebook's words is
taken, and what it says is subtracted. The first 8 codes of 32 are therefore the 8 codes of the shorter codec.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from esrt.errors import ModelError
from esrt.wire.frame import CODE_BITS

WORDS = 1 << CODE_BITS

Rows = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Codebooks:
    """A model's codebooks, all float32.

    `base` [queries, width] is the mean of each query's rows; `analysis` [width, d] maps a row to coordinates and
    `synthesis` [d, width] maps them back; `subspaces` [stages, d, k] and `words` [stages, WORDS, k] are the stages'.
    Raises ModelError `codec_damaged` where shapes do not fit, or values are not finite.
    """

    base: Rows
    analysis: Rows
    synthesis: Rows
    subspaces: Rows
    words: Rows

    def __post_init__(self) -> None:
        arrays = (self.base, self.analysis, self.synthesis, self.subspaces, self.words)
        fit = [array.ndim for array in arrays] == [2, 2, 2, 3, 3] and all(array.dtype == np.float32 for array in arrays)
        if fit:
            (_, width), (stages, d, k) = self.base.shape, self.subspaces.shape
            wanted = [(width, d), (d, width), (stages, d, k), (stages, WORDS, k)]
            fit = [array.shape for array in arrays[1:]] == wanted and all(np.all(np.isfinite(a)) for a in arrays)
        if not fit:
            raise ModelError("codec_damaged", "The model's codebooks are damaged: download the model again.")

    @property
    def stages(self) -> int:
        """How many codes a row may have."""
        return len(self.words)

    def search(self, rows: Rows, stages: int) -> Codes:
        """float32 [queries, width] -> codes int64 [queries, stages], greedy: what the edge graph does, in NumPy."""
        rest = (rows - self.base) @ self.analysis
        codes = np.empty((len(rows), stages), np.int64)
        for stage in range(stages):
            subspace, words = self.subspaces[stage], self.words[stage]
            # The nearest word: |x - w|^2 is least where x.w - |w|^2 / 2 is largest.
            code = np.argmax((rest @ subspace) @ words.T - np.sum(words**2, axis=1) / 2, axis=1)
            rest = rest - words[code] @ subspace.T
            codes[:, stage] = code
        return codes

    def restore(self, codes: Codes) -> Rows:
        """Codes int64 [queries, stages] -> float32 [queries, width]."""
        found = np.zeros((len(codes), self.analysis.shape[1]), np.float32)
        for stage in range(codes.shape[1]):
            found += self.words[stage, codes[:, stage]] @ self.subspaces[stage].T
        rows: Rows = self.base + found @ self.synthesis
        return rows


def pack(codes: Codes) -> bytes:
    """Codes of CODE_BITS, row after row -> bytes: the first code in the lowest bits of the first byte."""
    bits = codes.reshape(-1, 1) >> np.arange(CODE_BITS) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def unpack(payload: bytes, stages: int) -> Codes:
    """The inverse of `pack`: int64 [queries, stages]."""
    bits = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little").reshape(-1, CODE_BITS).astype(np.int64)
    codes: Codes = (bits << np.arange(CODE_BITS)).sum(1).reshape(-1, stages)
    return codes
