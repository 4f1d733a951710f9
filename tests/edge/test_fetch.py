"""The edge model that a cloud hands out: fetched once, checked, repaired, and never half there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from starlette.responses import JSONResponse, Response

from esrt.edge.client import Client
from esrt.edge.http import is_plain
from esrt.errors import CloudError, ESRTError, ModelError
from esrt.model import manifest

EDGE = b"an edge model" * 1_000


def refused(work: Callable[[], object]) -> ESRTError:
    with pytest.raises(ESRTError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def edge(cloud: Any) -> Any:
    """A cloud with all the files of an edge model."""
    files = {"config.json": b"{}", "codec.safetensors": b"tables", "edge.onnx": EDGE}
    listed: dict[str, dict[str, int | str]] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    }
    cloud.files = {"MANIFEST.json": manifest.text(listed).encode(), **files}
    return cloud


def fetched(cloud: Any) -> list[str]:
    return [path.removeprefix("GET /v1/edge/") for path in cloud.asked() if "/v1/edge/" in path]


def lying(cloud: Any, *contents: bytes | Response) -> None:
    """The cloud's next answers: its true card, the files before edge.onnx, then these."""
    before = [Response(data) for name, data in cloud.files.items() if name != "edge.onnx"]
    after = [content if isinstance(content, Response) else Response(content) for content in contents]
    cloud.first.extend([JSONResponse({"models": [cloud.card()]}), *before, *after])


def test_it_is_fetched_once(edge: Any, tmp_path: Path) -> None:
    client, folder = Client(edge.url), tmp_path / "a" / "b"
    told: list[tuple[int, int]] = []
    path = client.download_edge(folder, lambda done, whole: told.append((done, whole)))
    assert path.read_bytes() == EDGE and path.parent.parent == folder
    manifest.check(path.parent)
    whole = sum(map(len, edge.files.values()))
    assert told[-1] == (whole, whole)
    assert client.download_edge(folder) == path
    assert fetched(edge) == list(edge.files)
    assert sorted(found.name for found in path.parent.iterdir()) == sorted(edge.files), "nothing is left beside"


def test_it_lies_in_the_cache(edge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path))
    assert Client(edge.url).download_edge().parent.parent == tmp_path / "edge"


@pytest.mark.parametrize("damage", [EDGE[:-1], b"x" + EDGE[1:], None])
def test_only_what_is_damaged_comes_again(edge: Any, tmp_path: Path, damage: bytes | None) -> None:
    client = Client(edge.url)
    path = client.download_edge(tmp_path)
    path.unlink() if damage is None else path.write_bytes(damage)
    edge.seen.clear()
    assert client.download_edge(tmp_path) == path and path.read_bytes() == EDGE
    assert fetched(edge) == ["edge.onnx"]


def test_clouds_share_a_folder(edge: Any, tmp_path: Path) -> None:
    client = Client(edge.url)
    first = client.download_edge(tmp_path)
    edge.files["edge.onnx"] = b"another"
    assert client.download_edge(tmp_path).read_bytes() == b"another"
    assert first.read_bytes() == EDGE


def test_a_connection_that_breaks_off_goes_on_where_it_was(edge: Any, tmp_path: Path) -> None:
    half = Response(EDGE[:5_000], headers={"content-length": str(len(EDGE))})
    lying(edge, half)
    assert Client(edge.url).download_edge(tmp_path).read_bytes() == EDGE
    last = edge.seen[-1].headers
    # What came before the break may be less than what was sent.
    assert 0 < int(last["range"].removeprefix("bytes=").removesuffix("-")) <= 5_000


def test_a_process_that_was_killed_leaves_what_the_next_goes_on_with(edge: Any, tmp_path: Path) -> None:
    lying(edge, Response(EDGE[:5_000], headers={"content-length": str(len(EDGE))}))
    edge.first.append(Response("no", 400))
    assert refused(lambda: Client(edge.url).download_edge(tmp_path)).code == "cloud_error"
    edge.seen.clear()
    assert Client(edge.url).download_edge(tmp_path).read_bytes() == EDGE
    assert fetched(edge) == ["edge.onnx"] and "range" in edge.seen[-1].headers


def test_a_false_beginning_is_thrown_away(edge: Any, tmp_path: Path) -> None:
    lying(edge, Response(b"x" * 5_000, headers={"content-length": str(len(EDGE))}))
    assert Client(edge.url).download_edge(tmp_path).read_bytes() == EDGE
    assert fetched(edge).count("edge.onnx") == 3, "broken off, the rest, and all of it again"


@pytest.mark.parametrize("content", [b"x" + EDGE[1:], b"short", EDGE * 2])
def test_a_false_edge_model_is_never_kept(edge: Any, tmp_path: Path, content: bytes) -> None:
    lying(edge, content)
    assert refused(lambda: Client(edge.url).download_edge(tmp_path)).code in ("edge_model_damaged", "bad_response")
    assert list(tmp_path.rglob("edge.onnx")) == []
    edge.first.clear()
    assert Client(edge.url).download_edge(tmp_path).read_bytes() == EDGE


def test_an_edge_model_that_the_cloud_refuses(edge: Any, tmp_path: Path) -> None:
    lying(edge, JSONResponse({"status": 404, "detail": "It is gone.", "code": "edge_not_found"}, 404))
    assert refused(lambda: Client(edge.url).download_edge(tmp_path)).code == "edge_not_found"


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ([{"file": "../edge.onnx", "sha256": "ab" * 32, "bytes": 1}], "edge_file_unknown", "upgrade esrt here"),
        ([{"file": "edge.v2", "sha256": "ab" * 32, "bytes": 1}], "edge_file_unknown", "upgrade esrt here"),
        ({"file": "edge.onnx", "sha256": "ab" * 32, "bytes": 1}, "cloud_outdated", "upgrade esrt there"),
        ([], "cloud_outdated", "upgrade esrt there"),
    ],
)
def test_versions_that_do_not_fit_say_which_to_upgrade(
    edge: Any, tmp_path: Path, change: Any, code: str, says: str
) -> None:
    edge.first.append(JSONResponse({"models": [{**edge.card(), "edge": change}]}))
    error = refused(lambda: Client(edge.url).download_edge(tmp_path))
    assert error.code == code and says in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_cloud_whose_halves_do_not_fit_is_told(
    edge: Any, tmp_path: Path, make_edge: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "cache"))
    edge.files = {"edge.onnx": make_edge(fingerprint="ff" * 8).read_bytes()}
    error = refused(Client(edge.url).encoder)
    assert error.code == "edge_model_mismatch" and "`esrt models pull`" in str(error) and "ff" * 8 in str(error)


def test_a_fetched_model_encodes(
    edge: Any, tmp_path: Path, make_edge: Callable[..., Path], tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "cache"))
    edge.files = {"edge.onnx": make_edge().read_bytes()}
    with Client(edge.url) as client:
        assert client.encoder().fingerprint == tiny.fingerprint
        assert client.encoder() is client.encoder()


def test_a_device_may_bring_its_own(
    edge: Any, tmp_path: Path, make_edge: Callable[..., Path], tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that the cloud hands out runs then, be it what it is said to be or not."""
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "cache"))
    own = make_edge()
    with Client(edge.url, edge=own) as client:
        assert client.encoder().fingerprint == tiny.fingerprint
    assert fetched(edge) == [] and not (tmp_path / "cache").exists()
    error = refused(Client(edge.url, edge=make_edge(fingerprint="ff" * 8)).encoder)
    assert error.code == "edge_model_mismatch" and "ff" * 8 in str(error) and tiny.fingerprint.hex() in str(error)


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://esrt.example.org", True),
        ("http://10.0.0.7:8080", True),
        ("https://esrt.example.org", False),
        ("http://127.0.0.1:8080", False),
        ("http://[::1]:8080", False),
        ("http://localhost", False),
    ],
)
def test_what_can_be_read_on_the_way(url: str, plain: bool) -> None:
    assert is_plain(url) == plain


def test_two_processes_do_not_write_at_once(edge: Any, tmp_path: Path) -> None:
    """The second waits for the first's lock, and finds the model there."""
    path = Client(edge.url).download_edge(tmp_path)
    lock = FileLock(tmp_path / f".{path.parent.name}.lock")
    path.write_bytes(b"damaged")
    edge.seen.clear()
    lock.acquire()

    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        path.write_bytes(EDGE)
        lock.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", wait)
        assert Client(edge.url).download_edge(tmp_path) == path
    assert len(waits) == 1 and fetched(edge) == []


def test_a_folder_that_cannot_be_written(edge: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = refused(lambda: Client(edge.url).download_edge(tmp_path / "file"))
    assert isinstance(error, ModelError) and error.code == "edge_not_saved"


def test_a_full_disk(edge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from esrt.edge import fetch

    def full(self: object, chunk: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.Download, "take", full)
    error = refused(lambda: Client(edge.url).download_edge(tmp_path))
    assert error.code == "edge_not_saved" and "No space left" in str(error)
    monkeypatch.undo()
    assert Client(edge.url).download_edge(tmp_path).read_bytes() == EDGE, "and the lock was let go"


def test_nobody_there(edge: Any, tmp_path: Path) -> None:
    edge.stop()
    error = refused(lambda: Client(edge.url, patience=0.1).download_edge(tmp_path))
    assert isinstance(error, CloudError) and error.code == "cloud_unreachable"
