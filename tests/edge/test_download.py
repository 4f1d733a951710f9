"""The edge model that a cloud hands out: downloaded once, checked, and never half there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from esrt.edge.client import Client
from esrt.errors import CloudError, ModelError


def refused(client: Client, folder: Path) -> str:
    with pytest.raises(CloudError) as caught:
        client.download_edge(folder)
    assert "\n" not in str(caught.value)
    return caught.value.code


@pytest.fixture
def edge(cloud: Any) -> Any:
    """The cloud, with the true digest of its edge model on its card."""
    cloud.sha256 = hashlib.sha256(cloud.edge).hexdigest()
    return cloud


def test_the_edge_model_is_downloaded_once(edge: Any, tmp_path: Path) -> None:
    client, folder = Client(edge.url), tmp_path / "a" / "b"
    told: list[tuple[int, int]] = []
    path = client.download_edge(folder, lambda done, whole: told.append((done, whole)))
    assert path.read_bytes() == edge.edge and path.parent == folder
    assert told[-1] == (len(edge.edge), len(edge.edge))
    assert client.download_edge(folder) == path
    assert edge.asked() == ["GET /v1/models", "GET /v1/edge/edge.onnx", "GET /v1/models"]
    assert list(folder.iterdir()) == [path]


def test_a_damaged_copy_is_replaced(edge: Any, tmp_path: Path) -> None:
    client = Client(edge.url)
    path = client.download_edge(tmp_path)
    path.write_bytes(edge.edge[:-1])
    assert client.download_edge(tmp_path) == path and path.read_bytes() == edge.edge


def test_clouds_share_a_folder(edge: Any, tmp_path: Path) -> None:
    client = Client(edge.url)
    first = client.download_edge(tmp_path)
    edge.edge = b"another"
    edge.sha256 = hashlib.sha256(b"another").hexdigest()
    assert client.download_edge(tmp_path).read_bytes() == b"another"
    assert first.is_file()


def test_a_download_that_breaks_off_begins_again(edge: Any, tmp_path: Path) -> None:
    card = JSONResponse({"models": [edge._card()]})
    edge.first.extend([card, Response(b"x" * 500, headers={"content-length": "5000"})])
    assert Client(edge.url).download_edge(tmp_path).read_bytes() == edge.edge


@pytest.mark.parametrize("content", [b"an edge modeX" * 1_000, b"short", b"an edge model" * 2_000])
def test_a_false_edge_model_is_never_kept(edge: Any, tmp_path: Path, content: bytes) -> None:
    edge.first.extend([JSONResponse({"models": [edge._card()]}), Response(content)])
    assert refused(Client(edge.url), tmp_path) in ("edge_model_damaged", "bad_response")
    assert list(tmp_path.iterdir()) == []


def test_an_edge_model_that_the_cloud_refuses(edge: Any, tmp_path: Path) -> None:
    gone = JSONResponse({"status": 404, "detail": "It is gone.", "code": "edge_not_found"}, 404)
    edge.first.extend([JSONResponse({"models": [edge._card()]}), gone])
    assert refused(Client(edge.url), tmp_path) == "edge_not_found"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"sha256": "../../../../tmp/x"}, {"sha256": ""}, {"file": "../edge.onnx"}])
def test_a_card_cannot_choose_where_a_device_writes(edge: Any, tmp_path: Path, change: dict[str, str]) -> None:
    card = edge._card()
    card["edge"] |= change
    edge.first.append(JSONResponse({"models": [card]}))
    assert refused(Client(edge.url), tmp_path) == "bad_response"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(edge: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError) as caught:
        Client(edge.url).download_edge(tmp_path / "file")
    assert caught.value.code == "edge_not_saved"
