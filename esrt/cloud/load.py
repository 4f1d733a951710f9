"""A model folder that is ready to run -> its Service and its card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from esrt.cloud.edge_files import EdgeFiles
from esrt.cloud.engines.base import Rows
from esrt.cloud.engines.transformers import TransformersEngine
from esrt.cloud.service import Service
from esrt.config import ModelConfig
from esrt.languages import CORE
from esrt.model import checkpoint
from esrt.model.language_model import load_language_model, load_tokenizer
from esrt.model.outputs import trim
from esrt.model.precision import decoding_type
from esrt.wire.codecs import CODECS
from esrt.wire.schemas import ModelCard


def load_service(folder: Path) -> Service:
    """Load the cloud half of a folder that `hub.resolve` returned; its engine's thread runs from then on.

    Raises ModelError.
    """
    config = ModelConfig.load(folder / "config.json")
    llm = load_language_model(folder / "llm", decoding_type()).requires_grad_(False).eval()
    if (ids := checkpoint.load_outputs(folder)) is not None:
        trim(llm, ids)
    projector = checkpoint.load_projector(folder)

    @torch.inference_mode()
    def project(rows: Rows) -> Rows:
        projected: Rows = projector(torch.from_numpy(rows)[None])[0].numpy()
        return projected

    return Service(
        TransformersEngine(llm, _eos_ids(llm)),
        load_tokenizer(folder / "llm").backend_tokenizer,
        project,
        checkpoint.load_tables(folder),
        checkpoint.fingerprint(folder),
        config.adapter.queries,
        config.adapter.width,
    )


def load_card(folder: Path, edge: EdgeFiles) -> ModelCard:
    """What `GET /v1/models` says of a ready folder. Raises ModelError."""
    config = ModelConfig.load(folder / "config.json")
    return ModelCard(
        name=config.name,
        fingerprint=checkpoint.fingerprint(folder).hex(),
        queries=config.adapter.queries,
        width=config.adapter.width,
        codecs=list(CODECS),
        context=config.context,
        languages=list(CORE),
        edge=edge.listed,
    )


def _eos_ids(llm: Any) -> set[int]:
    found: set[int] = set()
    for ids in (llm.config.eos_token_id, llm.generation_config.eos_token_id):
        if ids is not None:
            found.update(ids if isinstance(ids, Iterable) else [ids])
    return found
