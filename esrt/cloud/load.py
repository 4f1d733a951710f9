"""A model folder that is ready to run -> its Service and its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from esrt.cloud.edge_files import EdgeFiles
from esrt.cloud.engines.base import Engine, Rows
from esrt.cloud.service import Service
from esrt.config import ModelConfig
from esrt.errors import UsageError
from esrt.languages import CORE
from esrt.model import checkpoint, finder
from esrt.model.language_model import eos_ids, load_language_model, load_tokenizer
from esrt.model.outputs import trim
from esrt.model.precision import decoding_type
from esrt.wire.schemas import ModelCard

Start = Callable[[Path], Engine]
"""Loads the LLM of a folder that `hub.resolve` returned, and runs it from then on. Raises ModelError, UsageError."""

_TEXTS = 512  # rows of a transcript, its tags and a translation: twice 200 at most


def starter(engine: str, flags: Sequence[str] = ()) -> Start:
    """What starts the engine of that name; `flags` are vLLM's own.

    Raises UsageError where vLLM is not installed or does not know them.
    """
    if engine == "vllm":
        from esrt.cloud.engines import vllm

        args = vllm.read_flags(flags)
        return lambda folder: vllm.start(folder, args, _config(folder).adapter.queries + _TEXTS)
    if flags:
        raise UsageError("usage", f"{flags[0]} is for vLLM, with --engine vllm: see `esrt serve --help`.")
    return start_transformers


def start_transformers(folder: Path) -> Engine:
    """The engine that runs anywhere torch runs."""
    from esrt.cloud.engines.transformers import TransformersEngine

    llm = load_language_model(folder / "llm", decoding_type()).requires_grad_(False).eval()
    if (ids := checkpoint.load_outputs(folder)) is not None:
        trim(llm, ids)
    return TransformersEngine(llm, eos_ids(llm))


def load_service(folder: Path, start: Start = start_transformers) -> Service:
    """Load the cloud half of a folder that `hub.resolve` returned. Raises ModelError, and as `start`."""
    config = _config(folder)
    projector = checkpoint.load_projector(folder)

    @torch.inference_mode()
    def project(rows: Rows) -> Rows:
        projected: Rows = projector(torch.from_numpy(rows)[None])[0].numpy()
        return projected

    return Service(
        start(folder),
        load_tokenizer(folder / "llm").backend_tokenizer,
        project,
        checkpoint.load_tables(folder),
        checkpoint.fingerprint(folder),
        config.adapter.queries,
        config.adapter.width,
        branch=config.branch,
        finder=finder.load(folder),
    )


def load_card(folder: Path, edge: EdgeFiles) -> ModelCard:
    """What `GET /v1/models` says of a ready folder. Raises ModelError."""
    config = _config(folder)
    return ModelCard(
        name=config.name,
        fingerprint=checkpoint.fingerprint(folder).hex(),
        queries=config.adapter.queries,
        width=config.adapter.width,
        codecs=checkpoint.load_tables(folder).codecs,
        context=config.context,
        languages=list(CORE),
        edge=edge.listed,
    )


def _config(folder: Path) -> ModelConfig:
    return ModelConfig.load(folder / "config.json")
