"""Training state on disk: one safetensors file for weights and moments, renamed into place.

A kill loses at most the steps since the last one.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that may change."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def save(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, stage: str, step: int) -> None:
    """Writes beside, then renames. `step` batches of `stage` are done."""
    tensors = {}
    for name, parameter in trained(network).items():
        tensors[f"weight/{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value.detach()
    beside = path.with_suffix(".part")
    save_file(tensors, beside, {"place": json.dumps({"stage": stage, "step": step})})
    beside.replace(path)


def restore(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[str, int]:
    """Puts weights and moments back; returns the stage and how many of its batches are done."""
    parameters = trained(network)
    with safe_open(path, "pt") as file:
        place = json.loads(file.metadata()["place"])
        for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            kind, _, name = key.partition("/")
            parameter, value = parameters[name], file.get_tensor(key)
            if kind == "weight":
                parameter.data.copy_(value)
            else:
                optimizer.state[parameter][kind] = value
    return place["stage"], place["step"]
