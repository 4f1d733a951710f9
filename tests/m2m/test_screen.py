"""The screened choice is the exact one, also where rounding to int8 would choose another token."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esrt.m2m.linear import linear
from esrt.m2m.screen import Screen

TOKENS, WIDTH = 400, 32


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 5),
    shared=st.sampled_from([0.0, 1.0, 30.0]),
    outlier=st.sampled_from([1.0, 40.0, 1000.0]),
    alike=st.sampled_from([1.0, 0.1, 0.001]),
)
def test_the_likeliest_is_found(seed: int, rows: int, shared: float, outlier: float, alike: float) -> None:
    """With columns a thousand times the others, a large row that all tokens share, and tokens that are nearly alike."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = alike * torch.randn(TOKENS, WIDTH, generator=generator) + shared * torch.randn(
        WIDTH, generator=generator
    )
    gain = torch.ones(WIDTH)
    gain[seed % WIDTH] = outlier
    hidden = torch.randn(rows, WIDTH, generator=generator) * gain
    ids = torch.randperm(TOKENS, generator=generator)[: TOKENS // 2].sort().values
    chosen = Screen(embeddings, ids, gain)(hidden)
    assert set(chosen.tolist()) <= set(ids.tolist())
    exact = hidden.double() @ embeddings[ids].double().T
    found = (hidden.double() * embeddings[chosen].double()).sum(-1)
    slack = 1e-6 * exact.abs().amax(1)  # float32 cannot tell these apart
    assert (found >= exact.amax(1) - slack).all()


def test_int8_alone_would_choose_another() -> None:
    """Otherwise the bounds were never needed in what is tested above."""
    torch.manual_seed(0)
    embeddings, hidden = torch.randn(TOKENS, WIDTH), torch.randn(300, 1, WIDTH)
    exact = (hidden @ embeddings.T).argmax(-1)
    rounded = torch.stack([linear(embeddings, None, "int8")(row).argmax(-1) for row in hidden])
    assert 3 < (rounded != exact).sum() < 150
    assert torch.equal(Screen(embeddings, torch.arange(TOKENS), torch.ones(WIDTH))(hidden), exact)
