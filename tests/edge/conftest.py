"""A small real edge model, and a small real cloud that behaves as badly as a test wants."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import uvicorn
from onnx import TensorProto, helper, numpy_helper
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from esrt.edge import talk
from esrt.edge.async_client import AsyncClient
from esrt.edge.client import Client
from esrt.wire import frame
from tests.edge.answers import problem

QUERIES, WIDTH, HOP = 4, 8, 320
FINGERPRINT = bytes(range(8))
SCALE = np.linspace(0.01, 0.02, WIDTH, dtype=np.float32)
WEIGHT = np.random.default_rng(0).normal(0, 0.1, (HOP, QUERIES * WIDTH)).astype(np.float32)


def describe(**changes: Any) -> dict[str, Any]:
    """The metadata of an edge model; a change of None leaves a field out."""
    whole = {
        "format": 2,
        "name": "ESRT-tiny",
        "fingerprint": FINGERPRINT.hex(),
        "queries": QUERIES,
        "width": WIDTH,
        "context": "speech",
        "int8_scale": base64.b64encode(SCALE.tobytes()).decode(),
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


def by_hand(samples: npt.NDArray[np.float32], length: int) -> npt.NDArray[np.float32]:
    """What the graph gives for `samples` and zeros up to `length`: every sample counts, and so does the length."""
    frames = np.pad(samples, (0, length - len(samples))).reshape(-1, HOP)
    rows: npt.NDArray[np.float32] = (frames @ WEIGHT).mean(axis=0).reshape(QUERIES, WIDTH)
    return rows


def write_edge(path: Path, metadata: str, output: str = "rows") -> Path:
    """A real ONNX graph that does what `by_hand` does, over as many frames as it is told."""
    nodes = [
        helper.make_node("Reshape", ["waveform", "framing"], ["framed"]),
        helper.make_node("Slice", ["framed", "first", "frames", "first"], ["heard"]),
        helper.make_node("MatMul", ["heard", "weight"], ["product"]),
        helper.make_node("ReduceMean", ["product"], ["mean"], axes=[0], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], [output]),
    ]
    constants = {
        "weight": WEIGHT,
        "framing": np.array([-1, HOP], np.int64),
        "first": np.array([0], np.int64),
        "shape": np.array([1, QUERIES, WIDTH], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "edge",
        [
            helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [1, "samples"]),
            helper.make_tensor_value_info("frames", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, QUERIES, WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"esrt": metadata})
    onnx.save(model, str(path))
    return path


@pytest.fixture
def make_edge(tmp_path: Path) -> Callable[..., Path]:
    """`make_edge(width=9)` writes an edge model whose metadata has that change."""

    def make(output: str = "rows", **changes: Any) -> Path:
        return write_edge(tmp_path / "edge.onnx", json.dumps(describe(**changes)), output)

    return make


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """What a test needs to know of the small edge model."""
    return SimpleNamespace(queries=QUERIES, width=WIDTH, fingerprint=FINGERPRINT, scale=SCALE, by_hand=by_hand)


@dataclass
class Seen:
    """One request as the cloud got it."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class TinyCloud:
    """Listens on `port` of 127.0.0.1 and writes down what it is asked.

    What is in `first` answers before anything else does: a response, or a function that makes or delays one.
    """

    port: int
    files: dict[str, bytes] = field(default_factory=lambda: {"edge.onnx": b"an edge model" * 1_000})
    key: str | None = None
    stored: set[str] = field(default_factory=set)
    first: deque[Response | Callable[[], Response]] = field(default_factory=deque)
    seen: list[Seen] = field(default_factory=list)
    server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self) -> list[str]:
        """`POST /v1/translations`, ... in the order they came."""
        return [f"{request.method} {request.path}" for request in self.seen]

    def start(self) -> None:
        """Listen, with nothing stored: also after `stop`."""
        self.stored.clear()
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "PUT", "DELETE"])])
        config = uvicorn.Config(app, host="127.0.0.1", port=self.port, log_config=None, lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        """Drop every connection."""
        if self.server is not None:
            self.server.should_exit = self.server.force_exit = True
            self.thread.join()
            self.server = None

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        path = request.url.path
        self.seen.append(
            Seen(request.method, path, request.query_params.multi_items(), dict(request.headers.items()), body)
        )
        if self.first:
            answer = self.first.popleft()
            return answer if isinstance(answer, Response) else answer()
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return problem(401, "unauthorized")
        if path == "/v1/translations":
            return self._translate(request, body)
        if request.method == "DELETE":
            self.stored.discard(path.rpartition("/")[2])
            return Response(status_code=204)
        if path.startswith("/v1/features/"):
            self.stored.add(frame.read(body, cap=10_000).id)
            return JSONResponse({"features": frame.read(body, cap=10_000).id}, 201)
        if path == "/v1/models":
            return JSONResponse({"models": [self.card()]})
        if path.startswith("/v1/edge/"):
            return self._edge(request, self.files[path.rpartition("/")[2]])
        return JSONResponse({"status": "ready"}) if path == "/readyz" else problem(404, "not_found")

    def _translate(self, request: Request, body: bytes) -> Response:
        if request.headers["content-type"] == "application/json":
            asked = json.loads(body)
            features, to = asked["features"], asked["to"]
            if features not in self.stored:
                return problem(404, "features_not_found")
        else:
            features, to = frame.read(body, cap=10_000).id, request.query_params.getlist("to")
            self.stored.add(features)
        return JSONResponse(
            {
                "source": "spa",
                "transcript": f"uno {len(self.seen)}",
                "translations": {code: f"{code} {len(self.seen)}" for code in to},
                "features": features,
                "usage": {"bytes": len(body), "tokens": 3, "seconds": 0.5},
                "something": "newer",
            }
        )

    def _edge(self, request: Request, content: bytes) -> Response:
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        if "range" not in request.headers or request.headers["if-range"] != etag:
            return Response(content, headers={"ETag": etag})
        start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        return Response(content[start:], 206, {"ETag": etag})

    def card(self) -> dict[str, Any]:
        """Its one model, as it says it."""
        return {
            "name": "ESRT-tiny",
            "fingerprint": FINGERPRINT.hex(),
            "queries": QUERIES,
            "width": WIDTH,
            "codecs": ["bf16", "int8"],
            "context": "speech",
            "languages": ["spa", "deu"],
            "edge": [
                {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
                for name, content in self.files.items()
            ],
        }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyCloud]:
    """A small cloud that runs, and clients that do not pause for long."""
    monkeypatch.setattr(talk, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(talk, "POLL_SECONDS", 0.02)
    tiny = TinyCloud(free_port())
    tiny.start()
    yield tiny
    tiny.stop()


class InLoop:
    """The asynchronous client, called as if it were the blocking one: its coroutines run in a loop of their own."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._client = AsyncClient(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not asyncio.iscoroutinefunction(attribute):
            return attribute
        return lambda *arguments, **named: self._run(attribute(*arguments, **named))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def __enter__(self) -> InLoop:
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._client.close())


@pytest.fixture(params=[Client, InLoop], ids=["blocking", "async"])
def connect(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Makes a client; every test here holds for both kinds."""
    kind: Callable[..., Any] = request.param
    return kind


@pytest.fixture
def new_frame() -> Callable[[int], bytes]:
    """`new_frame(3)` is a frame like no other number's."""

    def make(number: int) -> bytes:
        payload = np.random.default_rng(number).integers(-127, 128, QUERIES * WIDTH).astype(np.int8).tobytes()
        return frame.Frame(frame.INT8, QUERIES, WIDTH, FINGERPRINT, payload).to_bytes()

    return make
