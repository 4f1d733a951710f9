"""How attackers are trained and asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Array = npt.NDArray[np.floating]
Network = TypeVar("Network", bound=nn.Module)

BATCH = 64
_RATE = 2e-3


def fit(
    network: Network, rows: Array, places: npt.NDArray[np.int64], loss: Callable[[Tensor, Tensor], Tensor], epochs: int
) -> Network:
    """Trains on the clips at `places` of `rows` [clips, t, width]; one rate that rises and falls once.

    `loss` takes what the network makes of a batch, and the batch's places.
    """
    generator = torch.Generator().manual_seed(0)
    steps = epochs * max(1, len(places) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    network.train()
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < min(BATCH, len(places)):
            order = torch.from_numpy(places)[torch.randperm(len(places), generator=generator)]
        batch, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        torch.autograd.backward(loss(network(torch.from_numpy(rows[batch.numpy()]).float()), batch))
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def ask(network: nn.Module, rows: Array) -> npt.NDArray[np.float32]:
    """What a trained network makes of all of `rows`."""
    found = [network(torch.from_numpy(rows[at : at + BATCH]).float()) for at in range(0, len(rows), BATCH)]
    every: npt.NDArray[np.float32] = torch.cat(found).numpy()
    return every
