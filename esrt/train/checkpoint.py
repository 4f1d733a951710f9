"""Training state on disk, renamed into place: a kill loses at most the steps since the last one.

One safetensors file has weights and moments, however many processes train, and whether they share them out by FSDP.
DeepSpeed writes a folder of its own, and the file says which.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from esrt.errors import UsageError
from esrt.model.manifest import MANIFEST, put

FILE = "state.safetensors"
RUN = "run.json"  # beside the state: what it is of


@dataclass(frozen=True)
class Place:
    """Where a run is: `step` batches of `stage` are done. `tasks` is tasks.Balance.state."""

    stage: str
    step: int
    bf16: bool = False
    tasks: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that may change; the LLM's own weights never do."""
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if not name.startswith("llm.") or "lora_" in name
    }


def begin(folder: Path) -> None:
    """Makes a run's folder, where there is none. Raises UsageError `run_not_writable`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError("run_not_writable", f"{folder} cannot be a run's folder: {error.strerror}.") from error


def place(folder: Path) -> Place | None:
    """Where the run in `folder` stands; None where it has no state yet. Raises UsageError `run_damaged`."""
    if not (folder / FILE).exists():
        return None
    try:
        with safe_open(folder / FILE, "pt") as file:
            at = json.loads(file.metadata()["place"])
        tasks = {task: (factor, loss) for task, (factor, loss) in at["tasks"].items()}
        return Place(at["stage"], at["step"], at["bf16"], tasks)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise damaged(folder / FILE) from error


def is_of(model: Path, folder: Path) -> bool:
    """Whether a model was made of the state in `folder`, and not of one before it: it may have codebooks by now."""
    made = model / MANIFEST
    return made.is_file() and made.stat().st_mtime_ns >= (folder / FILE).stat().st_mtime_ns


def damaged(state: Path) -> UsageError:
    """The error for a checkpoint that cannot be read."""
    text = f"{state} is damaged, or no state of a run: name another --run, or remove it and begin anew."
    return UsageError("run_damaged", text)


def same_run(
    folder: Path, at: Place | None, of: Mapping[str, object], main: bool, stages: Collection[str] = ()
) -> None:  # fmt: skip
    """Compares what the state in `folder` is `of` with this run; a new run's main process writes that down.

    A state of an older version has nothing beside it, and is taken, by its stage where `stages` are named. Raises
    UsageError `resume_mismatch`.
    """
    said, beside = json.dumps(of) + "\n", folder / RUN
    if at is None:
        if main:
            beside.write_text(said, encoding="utf-8")
        return
    other = beside.is_file() and beside.read_text(encoding="utf-8") != said
    if other or (stages and at.stage not in stages):
        text = f"The run in {folder} is of another recipe, or began from another model or size: name another --run."
        raise UsageError("resume_mismatch", text)


def save(folder: Path, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, at: Place) -> None:
    """Writes folder/state.safetensors beside, then renames it. All processes call this; the main one writes."""
    tensors, shards = {}, ""
    if deep(accelerator):
        shards = f"shards-{at.stage}-{at.step}"
        accelerator.save_state(str(folder / shards), exclude_frozen_parameters=True)
    else:
        if isinstance(model, FSDPModule):
            model.reshard()  # a validation leaves whole parameters, which the optimizer does not know
        for name, parameter in trained(accelerator.unwrap_model(model)).items():
            tensors[f"weight/{name}"] = _whole(parameter.detach())
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = _whole(value.detach())
    if not accelerator.is_main_process:
        return
    beside = folder / f"{FILE}.part"
    shared_by = str(accelerator.num_processes)
    save_file(tensors, beside, {"place": json.dumps(asdict(at)), "shards": shards, "processes": shared_by})
    put(beside, folder / FILE)
    for old in folder.glob("shards-*"):
        if old.name != shards:
            shutil.rmtree(old)


def restore(folder: Path, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts weights and moments back. Raises UsageError `resume_mismatch`."""
    parameters = trained(accelerator.unwrap_model(model))
    with safe_open(folder / FILE, "pt") as file:
        metadata = file.metadata()
        shards, processes = metadata["shards"], int(metadata.get("processes", 0))
        if bool(shards) != deep(accelerator):
            text = f"The run in {folder} {'began' if shards else 'did not begin'} under DeepSpeed: launch it so."
            raise UsageError("resume_mismatch", text)
        if shards:
            if processes not in (0, accelerator.num_processes):
                text = f"{processes} processes share out the run in {folder}: launch as many."
                raise UsageError("resume_mismatch", text)
            accelerator.load_state(str(folder / shards), load_module_strict=False)
            return
        for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            kind, _, name = key.partition("/")
            parameter, value = parameters[name], file.get_tensor(key)
            if kind == "step":  # which AdamW keeps where it was made
                optimizer.state[parameter][kind] = value
            elif kind == "weight":
                with torch.no_grad():
                    parameter.copy_(_shared_as(parameter, value))
            else:
                optimizer.state[parameter][kind] = _shared_as(parameter, value)


def _whole(value: Tensor) -> Tensor:
    """All of a tensor that FSDP shares out over processes, each of which calls this; any other as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _shared_as(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """A whole value where the parameter is: this process' part, if it has a part only."""
    there = value.to(parameter.device).reshape(parameter.shape)  # scalars of older versions have a dimension now
    if not isinstance(parameter, DTensor):
        return there
    return distribute_tensor(there, parameter.device_mesh, parameter.placements)


def deep(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed is what trains."""
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)
