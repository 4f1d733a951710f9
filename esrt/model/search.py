"""The search of `esrt.wire.rvq` as a module, so that it runs inside the edge graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esrt.model.esrt import EdgeHalf
from esrt.wire.rvq import Codebooks


class Search(nn.Module):
    """Rows [b, queries, width] -> codes int64 [b, queries, stages], those that `Codebooks.search` finds."""

    def __init__(self, codebooks: Codebooks) -> None:
        super().__init__()
        self.base = nn.Buffer(torch.from_numpy(codebooks.base))
        self.analysis = nn.Buffer(torch.from_numpy(codebooks.analysis))
        # A tensor of its own for each stage: the graph would cut one tensor of all at every clip.
        self.subspaces = nn.ParameterList(torch.from_numpy(each.copy()) for each in codebooks.subspaces)
        self.words = nn.ParameterList(torch.from_numpy(each.copy()) for each in codebooks.words)
        self.norms = nn.ParameterList(torch.from_numpy((each**2).sum(1) / 2) for each in codebooks.words)
        self.requires_grad_(False)

    def forward(self, rows: Tensor) -> Tensor:
        rest = (rows - self.base) @ self.analysis
        codes = []
        for subspace, words, norms in zip(self.subspaces, self.words, self.norms, strict=True):
            code = ((rest @ subspace) @ words.T - norms).argmax(-1)
            rest = rest - words[code] @ subspace.T
            codes.append(code)
        return torch.stack(codes, dim=-1)


class SearchingEdge(nn.Module):
    """An edge half that gives the codes beside the rows."""

    def __init__(self, edge: EdgeHalf, codebooks: Codebooks) -> None:
        super().__init__()
        self.edge, self.search = edge, Search(codebooks)

    def forward(self, waveform: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As EdgeHalf."""
        rows = self.edge(waveform, frames)
        return rows, self.search(rows)
