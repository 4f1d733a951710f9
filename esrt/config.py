"""What a model is made of (ESRT paper, Tables I, III and V) and the presets that have a name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from esrt.errors import ModelError

SAMPLE_RATE = 16_000
WINDOW_SECONDS = 30
WINDOW_SAMPLES = SAMPLE_RATE * WINDOW_SECONDS
FRAME_SAMPLES = 320  # of one frame of the encoder, 20 ms


@dataclass(frozen=True)
class EncoderConfig:
    """A frozen Whisper encoder: mel [mel_bins, 2 * positions] -> [positions, width]."""

    weights: str
    mel_bins: int
    width: int
    layers: int
    heads: int
    positions: int = 1500


@dataclass(frozen=True)
class AdapterConfig:
    """The Q-Former that compresses the encoder's frames to [queries, width].

    `blip2` is the paper's: post-norm layers, cross-attention in every `cross_every`-th. `whisper` has the shape of a
    Whisper decoder (pre-norm, cross-attention in each layer) so that it can start from one, and its cross-attention
    prefers the frames that lie where the query lies.
    """

    style: Literal["blip2", "whisper"]
    queries: int
    width: int
    layers: int
    heads: int
    ffn: int
    cross_every: int


@dataclass(frozen=True)
class LLMConfig:
    """A Gemma 3 language model."""

    weights: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    sliding_window: int


@dataclass(frozen=True)
class ModelConfig:
    """One ESRT model. `context` says what the encoder sees: `speech` (the clip and half a second) or `full` (30 s).

    `longest` is how many seconds of speech it hears well at once, at most 30: what is longer is cut at pauses. A small
    model that has learned from short clips loses the thread in long ones.

    `branch` says what a translation follows after the transcript: `smt` the transcript and both tags, `srt` both tags
    before it too, as where one answer gives transcript and translation (Table II). A model of `srt` cannot find the
    spoken language: it must be told.
    """

    name: str
    encoder: EncoderConfig
    adapter: AdapterConfig
    llm: LLMConfig
    context: Literal["speech", "full"]
    branch: Literal["smt", "srt"] = "smt"
    longest: float = WINDOW_SECONDS

    @property
    def projector_mid(self) -> int | None:
        """Width of the projector's hidden layer; None where it is one Linear."""
        if self.llm.width <= 1536:
            return None
        return 1536 if self.llm.width <= 3072 else 2560

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> ModelConfig:
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            config = ModelConfig(
                name=raw["name"],
                encoder=EncoderConfig(**raw["encoder"]),
                adapter=AdapterConfig(**raw["adapter"]),
                llm=LLMConfig(**raw["llm"]),
                context=raw["context"],
                branch=raw.get("branch", "smt"),
                longest=raw.get("longest", WINDOW_SECONDS),
            )
            if not 1 <= config.longest <= WINDOW_SECONDS:
                raise ValueError(f"longest is 1 to {WINDOW_SECONDS} s, not {config.longest}")
            return config
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError("model_damaged", f"{path} is not an ESRT model configuration: {error}.") from error


_WHISPER_BASE = EncoderConfig("openai/whisper-base", mel_bins=80, width=512, layers=6, heads=8)
_WHISPER_LARGE = EncoderConfig("openai/whisper-large-v3", mel_bins=128, width=1280, layers=32, heads=20)


def _qformer(queries: int) -> AdapterConfig:
    return AdapterConfig("blip2", queries, width=768, layers=8, heads=12, ffn=3072, cross_every=2)


_GEMMA_270M = LLMConfig("google/gemma-3-270m", 640, 18, 4, 1, 256, 2048, 262_144, 512)
_MILMMT_1B = LLMConfig("xiaomi-research/MiLMMT-46-1B-v0.1", 1152, 26, 4, 1, 256, 6912, 262_144, 512)
_MILMMT_4B = LLMConfig("xiaomi-research/MiLMMT-46-4B-v0.1", 2560, 34, 8, 4, 256, 10_240, 262_208, 1024)
_MILMMT_12B = LLMConfig("xiaomi-research/MiLMMT-46-12B-v0.1", 3840, 48, 16, 8, 256, 15_360, 262_208, 1024)

PRESETS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        ModelConfig(
            "ESRT-270M",
            _WHISPER_BASE,
            AdapterConfig("whisper", 80, 512, 6, 8, 2048, 1),
            _GEMMA_270M,
            "speech",
            longest=8,  # 97 % of the clips that it has learned from are no longer
        ),
        ModelConfig("ESRT-1B", _WHISPER_LARGE, _qformer(80), _MILMMT_1B, "full"),
        ModelConfig("ESRT-4B", _WHISPER_LARGE, _qformer(80), _MILMMT_4B, "full"),
        ModelConfig("ESRT-12B", _WHISPER_LARGE, _qformer(80), _MILMMT_12B, "full"),
        ModelConfig("ESRT-12B-Lite", _WHISPER_LARGE, _qformer(40), _MILMMT_12B, "full"),
    )
}
