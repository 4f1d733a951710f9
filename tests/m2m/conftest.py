"""A whisperM2M so small that a thousand decodings take seconds, with a tokenizer of letters, and what trains it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import WhisperConfig, WhisperForConditionalGeneration

from esrt.m2m.config import M2MConfig
from esrt.m2m.model import M2M, drafters, save
from esrt.m2m.recipes import Recipe, Stage
from esrt.m2m.train import Trainer, build
from esrt.train.features import Features

LANGUAGES = ("eng", "fra", "deu")
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|fr|>", "<|de|>", "<|notimestamps|>"]
LETTERS = 34
WORDS = ["a", "cat", "and", "a", "dog", "go", "out", "to", "see", "the", "sea", "and", "the", "sun"]
CLIPS = 24


def letters() -> Tokenizer:
    """A byte-level tokenizer of a few letters, with Whisper's special tokens behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["Ġ", *"abcdefghijklmnopqrstuvwxyz"]
    names += [letter for letter in alphabet if letter not in names][: LETTERS - len(names)]
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def tiny(seed: int = 0, layers: int = 4, blocks: int = 2, width: int = 16, heads: int = 2) -> M2M:
    """A random model. Its output head is sharp enough for texts that end, and for guesses that are sometimes right."""
    torch.manual_seed(seed)
    tokenizer = letters()
    vocabulary = tokenizer.get_vocab_size()
    end, start = (int(tokenizer.token_to_id(name) or 0) for name in SPECIAL[:2])
    shape = WhisperConfig(
        vocab_size=vocabulary, d_model=width, num_mel_bins=80, encoder_layers=2, decoder_layers=layers,
        encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=32,
        max_source_positions=1500, max_target_positions=64, bos_token_id=end, eos_token_id=end, pad_token_id=end,
        decoder_start_token_id=start, suppress_tokens=None, begin_suppress_tokens=None, dropout=0.0, init_std=0.5,
    )  # fmt: skip
    whisper = WhisperForConditionalGeneration(shape).eval()
    with torch.no_grad():
        # transformers makes a padding token's row zero, and ours is the end as well, which has to come now and then.
        whisper.model.decoder.embed_tokens.weight[end] = 1.5 * torch.randn(width)
    config = M2MConfig("tiny", "openai/whisper-tiny", layers, blocks, LANGUAGES, medusa=1)
    outputs = torch.arange(LETTERS + 1)
    model = M2M(config, whisper, tokenizer, outputs, outputs)
    model.kvspn, model.medusa = drafters(config, model.decoder)
    return model


@pytest.fixture
def make() -> Callable[..., M2M]:
    return tiny


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A manifest of clips in three languages, their frames, and a model to begin with."""
    folder = tmp_path / "data"
    features = Features(folder / "features", 16)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(CLIPS):
        text = " ".join(WORDS[number % 5 : number % 5 + 2 + number % 4])
        source = ("eng", "fra", "deu")[number % 3]
        row = {"id": f"{number}", "audio": f"{number}.wav", "src": source, "tgt": "", "asr": text, "s2tt": ""}
        lines.append(row)
        lines += [row | {"tgt": code, "s2tt": text[::-1]} for code in ("eng", "fra", "deu") if code != source]
        features.append(str(folder.resolve() / f"{number}.wav"), rng.standard_normal((4 + number % 6, 16)))
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "m.jsonl").write_text(text + "\n", encoding="utf-8")
    save(tiny(0), tmp_path / "start")
    return folder


def recipe(**fields: object) -> Recipe:
    stages = (
        Stage("joint", "all", 6, 4, 1e-3, 2, forks=2),
        Stage("drafters", "drafters", 6, 4, 1e-3, 2, forks=2),
    )
    whole = Recipe("tiny", tiny(0).config, stages, {"m": 1.0}, "frozen", text_layers=2, augment=True, bf16=False)
    return replace(whole, **fields)  # type: ignore[arg-type]


def trainer(data: Path, run: Path, **fields: object) -> Trainer:
    return build(recipe(**fields), data, run, data.parent / "start")
