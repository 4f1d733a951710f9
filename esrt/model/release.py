"""What is made of a release with code of its own (`esrt.hub.release`): its encoder's graph and its projector.

Everything here may fail in any way, as it runs other people's code; what it does otherwise than the paper's first
releases is a ModelError `release_differs`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel

from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES, LLMConfig, ModelConfig
from esrt.errors import ModelError
from esrt.model import export as graphs
from esrt.model.language_model import quiet
from esrt.model.mel import LogMel
from esrt.model.projector import build_projector

MEL_BINS = 128
FRAMES = 1500  # of 30 s
PROBE = "<|eng|><|deu|>"  # the prompt with which a release is followed
ALIKE = 0.999  # cosine of rows that are the same, where one side computes in bfloat16


def load(source: Path, dtype: torch.dtype, **how: bool) -> Any:
    """The release's model by its own code, as its makers load it."""
    try:
        with quiet():
            model = AutoModel.from_pretrained(
                source, trust_remote_code=True, local_files_only=True, use_vllm=False, dtype=dtype, **how
            )
    except Exception as error:  # it may be anything: this is other people's code
        raise differs(f"its code fails to load with {type(error).__name__}: {error}") from error
    return model.eval().requires_grad_(False)


def differs(what: str) -> ModelError:
    """The error for a release that is not what this version knows; `what` is told with it, cut to a line."""
    what = " ".join(what.split())[:300]
    return ModelError(
        "release_differs", f"This release is not made as ESRT's first are ({what}): this version cannot run it."
    )


class Edge(nn.Module):
    """A release's encoder behind our log-mel: waveform [b, 480,000] -> rows float32 [b, queries, width].

    `frames` is not looked at: such models always hear 30 s.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.mel, self.encoder = LogMel(MEL_BINS), encoder

    def forward(self, waveform: Tensor, frames: Tensor) -> Tensor:
        rows: Tensor = self.encoder.translate_encode(self.mel(waveform)).float()
        return rows


def rows_of(edge: nn.Module) -> Tensor:
    """The rows [n, queries, width] of some made-up sounds."""
    frames = torch.tensor([FRAMES])
    try:
        with torch.inference_mode():
            rows = torch.cat([edge(torch.from_numpy(sound)[None], frames) for sound in _sounds()])
    except Exception as error:  # other people's code
        raise differs(f"translate_encode fails with {type(error).__name__}: {error}") from error
    if rows.ndim != 3 or not torch.isfinite(rows).all():
        raise differs(f"translate_encode gives a tensor of shape {tuple(rows.shape)}")
    return rows.clone()


def _sounds() -> Iterator[Any]:
    """Thirty seconds each, float32: buzzes with formants and the rhythm of syllables, noise, and silence."""
    random, time = np.random.default_rng(0), np.arange(WINDOW_SAMPLES) / SAMPLE_RATE
    for pitch in (90, 130, 200, 260):
        glide = pitch * (1 + 0.15 * np.sin(2 * np.pi * 0.4 * time))
        phase = 2 * np.pi * np.cumsum(glide) / SAMPLE_RATE
        formants = [random.uniform(low, high) for low, high in ((250, 850), (850, 2300), (2300, 3200))]
        buzz = np.zeros_like(time)
        for harmonic in range(1, 30):
            heights = [np.exp(-(((harmonic * glide - at) / 150) ** 2)) for at in formants]
            buzz += np.sum(heights, axis=0) * np.sin(harmonic * phase)
        rhythm = np.clip(np.sin(2 * np.pi * 2.2 * time), 0, 1) * (time < 8)
        yield (0.2 * buzz * rhythm / np.abs(buzz).max()).astype(np.float32)
    yield random.normal(0, 0.02, WINDOW_SAMPLES).astype(np.float32)
    yield np.zeros(WINDOW_SAMPLES, np.float32)


def export(edge: nn.Module, folder: Path) -> bytes:
    """Writes the float32 graph, its weights in a file beside; returns the SHA-256 of both."""
    path = folder / "edge.onnx"
    example = (torch.zeros(1, WINDOW_SAMPLES), torch.tensor([FRAMES]))
    try:
        with graphs.quiet(), torch.no_grad():
            program = torch.onnx.export(
                edge, example, dynamo=True, verbose=False, input_names=["waveform", "frames"], output_names=["rows"]
            )
    except Exception as error:  # whatever in that code cannot be traced
        raise differs(f"translate_encode cannot be traced: {error}") from error
    assert program is not None
    program.save(str(path), external_data=True)
    digest = hashlib.sha256()
    for file in sorted(folder.glob("edge.onnx*")):
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.digest()


@dataclass(frozen=True)
class Caught:
    """What the release hands to its language model, `rows` float32 [queries + prompt, llm], and which layers with
    weights made them out of the tensor on the wire, in the order in which they ran.
    """

    rows: Tensor
    layers: list[Any]


class _Enough(BaseException):
    """Ends the release's code where its language model would begin; nothing that it catches."""


def follow(model: Any, rows: Tensor) -> Caught:
    """Runs `translate_batch_embeds` on one tensor and PROBE, up to the language model."""
    inside = [
        part
        for part in model.modules()
        if part is not model and getattr(getattr(part, "config", None), "model_type", "") == "gemma3_text"
    ]
    of_llm = {id(part) for one in inside for part in one.modules()}
    seen: list[Any] = []
    layers: list[Any] = []

    def caught(module: Any, args: Any, kwargs: Any) -> None:
        if (given := kwargs.get("inputs_embeds")) is not None:
            seen.append(given[0].float().clone())
            raise _Enough

    def ran(module: Any, args: Any, out: Any) -> None:
        layers.append(module)

    hooks = [one.register_forward_pre_hook(caught, with_kwargs=True) for one in inside]
    hooks += [
        part.register_forward_hook(ran)
        for part in model.modules()
        if isinstance(part, nn.Linear | nn.LayerNorm) and id(part) not in of_llm
    ]
    weight = next(model.parameters())
    try:
        with torch.inference_mode():
            given = rows.to(weight.device, weight.dtype)
            model.translate_batch_embeds(1, given, [PROBE], max_new_tokens=1, use_vllm=False)
    except _Enough:
        pass
    except Exception as error:  # other people's code
        raise differs(f"translate_batch_embeds fails with {type(error).__name__}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise differs("translate_batch_embeds gives no rows to a Gemma 3")
    return Caught(seen[0], layers)


def projector(config: ModelConfig, caught: Caught, rows: Tensor) -> dict[str, Tensor]:
    """The weights of our projector out of the layers that ran; its rows must be those that were handed on."""
    ours = build_projector(config)
    own = [layer for layer in ours if any(True for _ in layer.parameters())]
    if [type(layer) for layer in own] != [type(layer) for layer in caught.layers]:
        names = ", ".join(type(layer).__name__ for layer in caught.layers) or "nothing"
        raise differs(f"its projector is {names}")
    for layer, theirs in zip(own, caught.layers, strict=True):
        try:
            layer.load_state_dict({name: tensor.float() for name, tensor in theirs.state_dict().items()})
        except RuntimeError as error:
            raise differs(f"its projector has other shapes: {error}") from error
    with torch.inference_mode():
        made = ours.eval()(rows)[0]
    _alike(made, caught.rows[: config.adapter.queries], "the projector's rows")
    return {name: tensor.detach() for name, tensor in ours.state_dict().items()}


def check_prompt(llm: Any, tokenizer: Any, rows: Tensor) -> None:
    """After the audio's rows there must be those of the prompt's tags and nothing else: the plain LLM's own."""
    ids = tokenizer(PROBE, add_special_tokens=False).input_ids
    with torch.inference_mode():
        made = llm.get_input_embeddings()(torch.tensor(ids)).float()
    if len(ids) != 2:
        raise differs(f"its tokenizer cuts {PROBE} into {len(ids)} tokens")
    _alike(made, rows, "the prompt's rows")


def _alike(ours: Tensor, theirs: Tensor, what: str) -> None:
    if ours.shape != theirs.shape:
        raise differs(f"{what} have the shape {tuple(theirs.shape)}, not {tuple(ours.shape)}")
    cosine = nn.functional.cosine_similarity(ours, theirs, dim=-1).min()
    sizes = ours.norm(dim=-1) / theirs.norm(dim=-1)
    if cosine < ALIKE or not ((sizes > 0.98) & (sizes < 1.02)).all():
        raise differs(f"{what} differ from ours, with a cosine of {cosine:.4f}")


def scales(rows: Tensor) -> Tensor:
    """The int8 codec's scales [width], twice as wide as the made-up sounds need: speech was not heard for them."""
    return torch.clamp(2 * rows.abs().amax(dim=(0, 1)) / 127, min=1e-6)


def llm_config(folder: Path, weights: str) -> LLMConfig:
    """The plain language model in a folder, which is known as `weights`."""
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if raw["model_type"] != "gemma3_text":
            raise ValueError(f"a {raw['model_type']}")
        return LLMConfig(
            weights=weights, width=raw["hidden_size"], layers=raw["num_hidden_layers"],
            heads=raw["num_attention_heads"], kv_heads=raw["num_key_value_heads"], head_dim=raw["head_dim"],
            ffn=raw["intermediate_size"], vocabulary=raw["vocab_size"], sliding_window=raw["sliding_window"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise differs(f"beside it is no plain Gemma 3 but {error}") from error
