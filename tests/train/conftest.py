"""A network so small that training it takes a second, and clips with made-up frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from esrt.config import PRESETS, AdapterConfig
from esrt.languages import LANGUAGES
from esrt.train.features import Features
from esrt.train.loop import Trainer
from esrt.train.network import Network, Vocabularies
from esrt.train.recipes import Recipe, Stage
from esrt.train.sampler import Clip, Sampler

FRAME_WIDTH, LLM_WIDTH, VOCABULARY, FIRST_TAG, END = 12, 16, 200, 90, 1

RECIPE = Recipe(
    name="tiny",
    model="ESRT-270M",
    weights={"m": 1.0},
    stages=(
        Stage("0a", "ctc-whisper", 4, 4, 1e-3, warmup=2),
        Stage("0b", "ctc-llm", 4, 4, 1e-3, 1e-3, warmup=2),
        Stage("III", "llm", 6, 4, 1e-3, 1e-3, 1e-3, 0.3, {"asr": 0.2, "srt": 0.8}, warmup=2),
    ),
    lora_rank=2,
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


def tiny_network(llm: Gemma3ForCausalLM, dropout: float = 0.05) -> Network:
    base = PRESETS["ESRT-270M"]
    config = replace(
        base,
        encoder=replace(base.encoder, width=FRAME_WIDTH),
        adapter=AdapterConfig("whisper", 12, 8, 2, 4, 16, 1),
        llm=replace(base.llm, width=LLM_WIDTH),
    )
    torch.manual_seed(2)
    tags = torch.arange(FIRST_TAG, FIRST_TAG + len(LANGUAGES))
    vocabularies = Vocabularies(torch.arange(10, 36), torch.arange(VOCABULARY), tags)
    return Network(config, llm, vocabularies, torch.randn(40, 8), 2, 4, dropout)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[[], Trainer]:
    """Each call is a new process' view: the same data and the same fresh weights."""
    rng = np.random.default_rng(0)
    features = Features(tmp_path / "features", FRAME_WIDTH)
    for n in range(30):
        features.append(f"{n}.wav", rng.standard_normal((20 + n, FRAME_WIDTH)))
    members = [Clip(f"{n}.wav", "eng", "abc" + chr(97 + n % 26), (("deu", "xyz"),), 20 + n) for n in range(30)]

    def make() -> Trainer:
        sampler = Sampler({"m": members}, RECIPE.weights, RECIPE.seed)
        network = tiny_network(tiny_llm())
        return Trainer(
            RECIPE, network, Features(tmp_path / "features", FRAME_WIDTH), sampler, Letters(), Letters(), END
        )

    return make
