"""A whole model folder, tiny, on disk: what `load_service` and `load_card` make of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from esrt.cloud.edge_files import EdgeFiles
from esrt.cloud.load import load_card, load_service
from esrt.cloud.service import Service
from esrt.errors import ModelError
from esrt.model import checkpoint
from esrt.wire.codecs import encode
from esrt.wire.schemas import EdgeFile, TranslationRequest, TranslationResponse


@pytest.fixture
def folder(tmp_path: Path, make_folder: Callable[[Path], None]) -> Path:
    make_folder(tmp_path)
    return tmp_path


def test_a_folder_becomes_a_service(folder: Path) -> None:
    rows = np.random.default_rng(2).standard_normal((6, 24)).astype(np.float32)
    frame = encode(rows, "int8", checkpoint.load_tables(folder), checkpoint.fingerprint(folder))

    async def work(service: Service) -> TranslationResponse:
        try:
            read = service.read(frame.to_bytes())
            return await service.translate(read, TranslationRequest("", ["deu"], "eng"))
        finally:
            await service.engine.close()

    answer = asyncio.run(work(load_service(folder)))
    assert answer.source == "eng" and answer.transcript and answer.features == frame.id


def test_its_card(folder: Path) -> None:
    card = load_card(folder, EdgeFiles(folder))
    assert (card.name, card.queries, card.width, card.context) == ("ESRT-tiny", 6, 24, "speech")
    assert card.fingerprint == checkpoint.fingerprint(folder).hex() and len(card.languages) == 45
    assert [file.file for file in card.edge] == ["MANIFEST.json", "config.json", "codec.safetensors", "edge.onnx"]
    assert card.edge[-1] == EdgeFile("edge.onnx", hashlib.sha256(b"edge" * 1000).hexdigest(), 4000)


def test_a_folder_without_its_edge_model(folder: Path) -> None:
    (folder / "edge.onnx").unlink()
    with pytest.raises(ModelError) as refused:
        EdgeFiles(folder)
    assert refused.value.code == "model_not_ready"
