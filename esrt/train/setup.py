"""Puts a recipe's parts together: manifests, cached frames, the two base models and the vocabularies of the texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as RawTokenizer
from torch import Tensor

from esrt import hub
from esrt.config import PRESETS, ModelConfig
from esrt.model.language_model import load_language_model, load_tokenizer, tag_ids
from esrt.model.qformer import start_from_decoder
from esrt.model.whisper_encoder import WhisperEncoder
from esrt.train.examples import Tokenizer, plain, token_ids
from esrt.train.features import Features
from esrt.train.loop import Trainer
from esrt.train.manifest import Row, read_manifest
from esrt.train.network import Network, Vocabularies
from esrt.train.recipes import Recipe
from esrt.train.sampler import Sampler, clips


class WhisperTokenizer:
    """Whisper's byte-level BPE, called like a transformers tokenizer."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = RawTokenizer.from_file(str(path))

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def convert_tokens_to_ids(self, token: str) -> int:
        return int(self._tokenizer.encode(token, add_special_tokens=False).ids[0])


def read_whisper(config: ModelConfig) -> tuple[dict[str, Tensor], WhisperTokenizer]:
    """The base Whisper's weights as float32 (transformers' names), and its tokenizer."""
    folder = hub.base(config.encoder.weights)
    state = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    return state, WhisperTokenizer(folder / "tokenizer.json")


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def vocabularies(
    path: Path, rows: Sequence[Row], tokenizer: Tokenizer, whisper: Tokenizer, special: list[int]
) -> tuple[list[int], list[int]]:
    """Sorted ids of the Whisper and LLM tokens in the texts (and `special`), kept in `path` for a resumed run."""
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["whisper"], found["llm"]
    spoken, written = {row.asr for row in rows}, {row.s2tt for row in rows}
    by_whisper = sorted({token for text in spoken for token in token_ids(whisper, plain(text))})
    by_llm = sorted({token for text in spoken | written for token in token_ids(tokenizer, text)} | set(special))
    path.write_text(json.dumps({"whisper": by_whisper, "llm": by_llm}), encoding="utf-8")
    return by_whisper, by_llm


def build(recipe: Recipe, data: Path, run: Path) -> Trainer:
    """A trainer for the manifests `data`/<name>.jsonl of the recipe; encodes what is not in `data`/features yet."""
    config = PRESETS[recipe.model]
    rows = {name: read_manifest(data / f"{name}.jsonl") for name in recipe.weights}
    every = [row for found in rows.values() for row in found]
    whisper, whisper_tokenizer = read_whisper(config)
    encoder = WhisperEncoder(config.encoder)
    encoder.load_state_dict(part(whisper, "encoder."))
    features = Features(data / "features", config.encoder.width)
    features.fill((row.audio for row in every), config, encoder)
    lengths = {audio: frames for audio, (_, frames) in features.index.items()}

    llm_folder = hub.base(config.llm.weights)
    tokenizer = load_tokenizer(llm_folder)
    tags, end = tag_ids(tokenizer), int(tokenizer.eos_token_id)
    by_whisper, by_llm = vocabularies(run / "vocabularies.json", every, tokenizer, whisper_tokenizer, [*tags, end])
    decoder = part(whisper, "decoder.")
    network = Network(
        config, load_language_model(llm_folder),
        Vocabularies(torch.tensor(by_whisper), torch.tensor(by_llm), torch.tensor(tags)),
        decoder["embed_tokens.weight"], recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout,
    )  # fmt: skip
    start_from_decoder(network.adapter, decoder, whisper_tokenizer.convert_tokens_to_ids("<|startoftranscript|>"))
    sets = {
        name: [clip for clip in clips(found, lengths) if len(plain(clip.transcript)) > 1]
        for name, found in rows.items()
    }
    sampler = Sampler(sets, recipe.weights, recipe.seed)
    return Trainer(recipe, network, features, sampler, tokenizer, whisper_tokenizer, end)
