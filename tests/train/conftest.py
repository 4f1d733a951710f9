"""A network so small that training it takes a second, and clips with made-up frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from esrt.config import PRESETS, AdapterConfig, ModelConfig
from esrt.languages import LANGUAGES
from esrt.train import loop, parallel, progress
from esrt.train.batches import Batches, Vocabularies
from esrt.train.features import Features
from esrt.train.loop import Trainer
from esrt.train.network import Network
from esrt.train.recipes import Recipe, Stage
from esrt.train.sampler import Clip, Sampler

FRAME_WIDTH, LLM_WIDTH, VOCABULARY, FIRST_TAG, END = 12, 16, 200, 90, 1

ADAPTER = AdapterConfig("whisper", 12, 8, 2, 4, 16, 1)

RECIPE = Recipe(
    name="tiny",
    model="ESRT-270M",
    weights={"m": 1.0},
    stages=(
        Stage("0a", "ctc-whisper", 4, 4, 1e-3, warmup=2),
        Stage("0b", "ctc-llm", 4, 4, 1e-3, 1e-3, warmup=2),
        Stage("III", "llm", 12, 4, 1e-3, 1e-3, 1e-3, 0.3, {"asr": 0.2, "srt": 0.8}, warmup=2),
    ),
    lora_rank=2,
    lora_dropout=0.0,
    validate_every=2,
    augment=True,
    bf16=False,
)


class Letters:
    """A tokenizer of 26 letters (ids 10 to 35) and the tags."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [10 + ord(letter) - ord("a") for letter in text.lower() if "a" <= letter <= "z"]}

    def convert_tokens_to_ids(self, token: str) -> int:
        return FIRST_TAG + [language.tag for language in LANGUAGES.values()].index(token)


def tiny_llm() -> Gemma3ForCausalLM:
    torch.manual_seed(1)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=LLM_WIDTH, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, sliding_window=512, pad_token_id=0,
    )  # fmt: skip
    return Gemma3ForCausalLM(config)


def vocabularies() -> Vocabularies:
    tags = torch.arange(FIRST_TAG, FIRST_TAG + len(LANGUAGES))
    every = torch.arange(VOCABULARY)
    return Vocabularies(torch.arange(10, 36), every[~torch.isin(every, tags)], tags, every)


def tiny_config(adapter: AdapterConfig) -> ModelConfig:
    base = PRESETS["ESRT-270M"]
    encoder, llm = replace(base.encoder, width=FRAME_WIDTH), replace(base.llm, width=LLM_WIDTH)
    return replace(base, encoder=encoder, adapter=adapter, llm=llm)


def tiny_network(
    llm: Gemma3ForCausalLM, dropout: float = 0.05, adapter: AdapterConfig = ADAPTER, checkpointing: bool = False
) -> Network:
    torch.manual_seed(2)
    whisper = torch.randn(26, 8)
    return Network(tiny_config(adapter), llm, vocabularies(), whisper, 2, 4, dropout, checkpointing)


def make_features(folder: Path) -> None:
    rng = np.random.default_rng(0)
    features = Features(folder / "features", FRAME_WIDTH)
    for n in range(30):
        features.append(f"{n}.wav", rng.standard_normal((20 + n, FRAME_WIDTH)))


def tiny_trainer(
    folder: Path, run: Path, recipe: Recipe = RECIPE, adapter: AdapterConfig = ADAPTER,
    accelerator: Accelerator | None = None,
) -> Trainer:  # fmt: skip
    """A new process' view: the same data (of `make_features`) and the same fresh weights."""
    members = [Clip(f"{n}.wav", "eng", "abc" + chr(97 + n % 26), (("deu", "xyz"),), 20 + n) for n in range(30)]
    features = Features(folder / "features", FRAME_WIDTH)

    def batches(clips: list[Clip]) -> Batches:
        sampler = Sampler({"m": clips}, recipe.weights, recipe.seed)
        return Batches(recipe, sampler, features, Letters(), Letters(), vocabularies(), END)

    network = tiny_network(tiny_llm(), recipe.lora_dropout, adapter, recipe.checkpointing)
    return Trainer(
        recipe, network, batches(members[4:]), accelerator or parallel.start(recipe, run), run, batches(members[:4])
    )


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Makes trainers of the same data and weights; arguments are fields of the recipe."""
    make_features(tmp_path)

    def make(run: Path = tmp_path, adapter: AdapterConfig = ADAPTER, **fields: Any) -> Trainer:
        return tiny_trainer(tmp_path, run, replace(RECIPE, **fields), adapter)

    return make


@pytest.fixture
def whole(make_trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An uninterrupted run of one process."""
    monkeypatch.setattr(loop, "SAVE_EVERY", 3)
    monkeypatch.setattr(progress, "LOG_EVERY", 1)
    run = tmp_path / "whole"
    run.mkdir()
    make_trainer(run).run()
    return run
