"""A tiny random Gemma 3 and a byte-level tokenizer: small enough for a test, real in every other way."""

from __future__ import annotations

import contextlib
import copy
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from safetensors.torch import save_file
from starlette.applications import Starlette
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from esrt.cloud.app import DEFAULT_LIMITS, create_app
from esrt.cloud.connections import Connection
from esrt.cloud.edge_files import EdgeFiles
from esrt.cloud.engines import keyvalues, transformers
from esrt.cloud.engines.base import Rows
from esrt.cloud.engines.transformers import TransformersEngine
from esrt.cloud.feature_cache import FeatureCache
from esrt.cloud.feature_cache.memory import MemoryCache
from esrt.cloud.limits import Limits
from esrt.cloud.security import Keys
from esrt.cloud.service import Service
from esrt.config import AdapterConfig, EncoderConfig, LLMConfig, ModelConfig
from esrt.languages import LANGUAGES
from esrt.model.projector import build_projector
from esrt.wire.codecs import CODECS, Tables, encode
from esrt.wire.schemas import ModelCard
from tests.cloud.asking import KEYS, Serve, client

EOS = 1
QUERIES, WIDTH, LLM_WIDTH = 20, 24, 32
FINGERPRINT = bytes(range(8))
TABLES = Tables(np.linspace(0.02, 0.04, WIDTH, dtype=np.float32))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Every byte is a token; the 102 tags are single special tokens after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", *(language.tag for language in LANGUAGES.values())]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


@pytest.fixture(scope="session")
def llm(tokenizer: Tokenizer) -> Gemma3ForCausalLM:
    """Random weights, large enough that the tokens vary; a window of 16 rows, so that prompts are longer than it."""
    torch.manual_seed(7)
    config = Gemma3TextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=LLM_WIDTH,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=16,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=16,
        initializer_range=0.3,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=EOS,
        bos_token_id=2,
        # A random model with a tied output layer says one token over and over, and every decoder gets that right.
        tie_word_embeddings=False,
    )
    model: Gemma3ForCausalLM = Gemma3ForCausalLM(config).eval().requires_grad_(False)
    return model


@pytest.fixture(scope="session")
def talking(llm: Gemma3ForCausalLM, tokenizer: Tokenizer) -> Gemma3ForCausalLM:
    """The same model, but what it says is mostly printable, and ends in a tag now and then."""
    model = copy.deepcopy(llm)
    table = model.lm_head.weight
    for token, index in tokenizer.get_vocab().items():
        if not (token.isascii() and (len(token) == 1 or token.startswith("<|"))):
            table[index] *= 0.1
        elif token.startswith("<|"):
            table[index] *= 0.75
    return model


@pytest.fixture(scope="session")
def endless(llm: Gemma3ForCausalLM, tokenizer: Tokenizer) -> Gemma3ForCausalLM:
    """The same model, but it says printable ASCII alone: no tag and no end."""
    model = copy.deepcopy(llm)
    table = model.lm_head.weight
    for token, index in tokenizer.get_vocab().items():
        if not (token.isascii() and token.isalnum() and len(token) == 1):
            table[index] = 0
    return model


@pytest.fixture(scope="session")
def make_folder(talking: Gemma3ForCausalLM, tokenizer: Tokenizer) -> Callable[[Path], None]:
    """Writes a whole model folder: the talking model, and an edge half of 6 queries that nobody could run."""
    config = ModelConfig(
        "ESRT-tiny",
        EncoderConfig("none", mel_bins=80, width=16, layers=1, heads=1),
        AdapterConfig("whisper", queries=6, width=24, layers=1, heads=1, ffn=16, cross_every=1),
        LLMConfig("none", 32, 4, 4, 2, 16, 64, 361, 16),
        "speech",
    )

    def make(folder: Path) -> None:
        config.save(folder / "config.json")
        torch.manual_seed(3)
        save_file(build_projector(config).state_dict(), folder / "projector.safetensors")
        save_file({"layer": torch.randn(3, 4)}, folder / "adapter.safetensors")
        save_file({"int8_scale": torch.full((24,), 0.03)}, folder / "codec.safetensors")
        talking.save_pretrained(folder / "llm")
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder / "llm")
        (folder / "edge.onnx").write_bytes(b"edge" * 1000)

    return make


@pytest.fixture(scope="session")
def make_service(tokenizer: Tokenizer) -> Callable[..., Service]:
    """A service over one of these models; `max_new_tokens` is its own, all other settings are the engine's."""
    rng = np.random.default_rng(11)
    weights = rng.standard_normal((WIDTH, LLM_WIDTH)).astype(np.float32)

    def projector(rows: Rows) -> Rows:
        out = rows @ weights
        normed: Rows = ((out - out.mean(1, keepdims=True)) / out.std(1, keepdims=True)).astype(np.float32)
        return normed

    def make(llm: Gemma3ForCausalLM, max_new_tokens: int = 40, **settings: Any) -> Service:
        engine = TransformersEngine(llm, [EOS], **settings)
        return Service(engine, tokenizer, projector, TABLES, FINGERPRINT, QUERIES, WIDTH, max_new_tokens)

    return make


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of this size is faster than any reader, and soon speaks in circles; here it goes on until stopped."""

    def forward(*arguments: Any) -> Any:
        time.sleep(0.005)
        return keyvalues.forward(*arguments)

    monkeypatch.setattr(transformers, "forward", forward)
    monkeypatch.setattr("esrt.cloud.service.circles", lambda ids: False)


def frame_bytes(seed: int, codec: str = "int8") -> bytes:
    """A frame of random features."""
    rows = np.random.default_rng(seed).standard_normal((QUERIES, WIDTH)).astype(np.float32)
    return encode(rows, codec, TABLES, FINGERPRINT).to_bytes()


@pytest.fixture(scope="session")
def frame_of() -> Callable[..., bytes]:
    return frame_bytes


@dataclass
class Server:
    """A running server."""

    url: str
    port: int
    service: Service
    cache: FeatureCache
    edge: bytes
    app: Starlette


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """`with serve(service, keys) as server:` runs uvicorn on a free port of loopback."""

    @contextlib.contextmanager
    def running(
        service: Service,
        keys: Keys | None = None,
        cache: FeatureCache | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Iterator[Server]:
        folder: Path = tmp_path_factory.mktemp("edge")
        edge = np.random.default_rng(1).bytes(300_000)
        (folder / "edge.onnx").write_bytes(edge)
        (folder / "config.json").write_text("{}")
        (folder / "llm.safetensors").write_bytes(b"the cloud's own")
        files = EdgeFiles(folder)
        card = ModelCard(
            "ESRT-tiny",
            FINGERPRINT.hex(),
            QUERIES,
            WIDTH,
            list(CODECS),
            "speech",
            ["eng", "deu"],
            files.listed,
        )
        cache = cache or MemoryCache(1 << 20, 3600)
        listener = socket.create_server(("127.0.0.1", 0))
        app = create_app(service, cache, None if keys is None else lambda: keys, card, files, limits)
        config = uvicorn.Config(app, log_level="warning", server_header=False, http=Connection, ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started or not service.engine.ready:
            assert thread.is_alive()
            time.sleep(0.01)
        port = listener.getsockname()[1]
        try:
            yield Server(f"http://127.0.0.1:{port}", port, service, cache, edge, app)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()

    return running


@pytest.fixture(scope="module")
def server(serve: Serve, make_service: Callable[..., Service], talking: Gemma3ForCausalLM) -> Iterator[Any]:
    with serve(make_service(talking), KEYS) as running:
        yield running


@pytest.fixture
def ann(server: Any) -> Iterator[httpx.Client]:
    with client(server) as http:
        yield http
