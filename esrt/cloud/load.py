"""A model folder that is ready to run -> its Service and its card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from esrt.cloud.engines.base import Rows
from esrt.cloud.engines.transformers import TransformersEngine
from esrt.cloud.service import Service
from esrt.config import ModelConfig
from esrt.errors import ModelError
from esrt.languages import CORE
from esrt.model import checkpoint
from esrt.model.language_model import load_language_model, load_tokenizer
from esrt.model.manifest import sha256
from esrt.wire.codecs import CODECS
from esrt.wire.schemas import EdgeFile, ModelCard

EDGE_FILE = "edge.onnx"


def load_service(folder: Path) -> Service:
    """Load the cloud half of a folder that `hub.resolve` returned; its engine's thread runs from then on.

    Raises ModelError.
    """
    config = ModelConfig.load(folder / "config.json")
    llm = load_language_model(folder / "llm").requires_grad_(False).eval()
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


def load_card(folder: Path) -> ModelCard:
    """What `GET /v1/models` says of a ready folder. Its edge model is `folder / EDGE_FILE`. Raises ModelError."""
    config = ModelConfig.load(folder / "config.json")
    edge = folder / EDGE_FILE
    if not edge.is_file():
        raise ModelError("model_not_ready", f"{folder} has no {EDGE_FILE}: use what esrt.hub.resolve returns for it.")
    return ModelCard(
        name=config.name,
        fingerprint=checkpoint.fingerprint(folder).hex(),
        queries=config.adapter.queries,
        width=config.adapter.width,
        codecs=list(CODECS),
        context=config.context,
        languages=list(CORE),
        edge=EdgeFile(EDGE_FILE, sha256(edge), edge.stat().st_size),
    )


def _eos_ids(llm: Any) -> set[int]:
    found: set[int] = set()
    for ids in (llm.config.eos_token_id, llm.generation_config.eos_token_id):
        if ids is not None:
            found.update(ids if isinstance(ids, Iterable) else [ids])
    return found
