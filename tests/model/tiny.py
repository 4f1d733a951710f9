"""Small models of the real kinds, with random weights: enough to try every step that the large ones take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, normalizers, pre_tokenizers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, WhisperConfig, WhisperModel

from esrt.config import AdapterConfig, EncoderConfig, LLMConfig, ModelConfig
from esrt.languages import LANGUAGES
from esrt.model import checkpoint
from esrt.model.esrt import ESRTModel
from esrt.model.language_model import TAGS
from esrt.wire.rvq import WORDS

WIDTH = 32
UNUSED = 110
IDS = torch.tensor([[2, 130, 140, 150, 160, 135, 145]])


def text_config(vocabulary: int, layers: int = 2) -> Gemma3TextConfig:
    return Gemma3TextConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, query_pre_attn_scalar=32, sliding_window=16, max_position_embeddings=512,
        bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip


def save_tokenizer(folder: Path, unused: int = UNUSED) -> int:
    """A BPE tokenizer built as Gemma's, over letters and the languages' names; returns the size of its vocabulary."""
    letters = sorted({letter for language in LANGUAGES.values() for letter in language.name + "▁<|>"})
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<unused{n}>" for n in range(unused)), *letters]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([token for token in vocabulary if token[0] == "<" and token[-1] == ">" and len(token) > 3])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad")}
    config = {
        "tokenizer_class": "GemmaTokenizer",
        **names,
        "added_tokens_decoder": {"5": {"content": "<unused1>", "special": True}},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocabulary)


def save_gemma(folder: Path, layers: int = 2) -> Gemma3ForCausalLM:
    """A text-only Gemma 3 and its tokenizer, without the tags."""
    torch.manual_seed(1)
    llm = Gemma3ForCausalLM(text_config(save_tokenizer(folder), layers)).eval()
    llm.save_pretrained(folder)
    return llm


def save_whisper(folder: Path) -> WhisperModel:
    torch.manual_seed(2)
    whisper = WhisperModel(
        WhisperConfig(
            vocab_size=50, num_mel_bins=80, d_model=WIDTH, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=4 * WIDTH,
            decoder_ffn_dim=4 * WIDTH, max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
        )
    ).eval()  # fmt: skip
    whisper.half().save_pretrained(folder)
    return whisper.float()


def config(whisper: Path, gemma: Path) -> ModelConfig:
    """An ESRT model over the two folders."""
    return ModelConfig(
        name="ESRT-tiny",
        encoder=EncoderConfig(str(whisper), mel_bins=80, width=WIDTH, layers=1, heads=4),
        adapter=AdapterConfig("whisper", 8, WIDTH, layers=1, heads=4, ffn=4 * WIDTH, cross_every=1),
        llm=LLMConfig(str(gemma), WIDTH, 2, 2, 1, 32, 64, 500, 16),
        context="speech",
    )


def codebooks() -> dict[str, torch.Tensor]:
    """Random tables of all codecs, as `codec.safetensors` holds them."""
    torch.manual_seed(4)
    made = {"int4_scale": torch.rand(WIDTH) + 0.1, "int4_centre": torch.randn(WIDTH)}
    sides = {"base": (8, WIDTH), "analysis": (WIDTH, 16), "synthesis": (16, WIDTH), "subspaces": (32, 16, 4)}
    books = {name: torch.randn(shape) / 4 for name, shape in {**sides, "words": (32, WORDS, 4)}.items()}
    return made | {f"{checkpoint.RVQ}{name}": tensor.half().float() for name, tensor in books.items()}


def delta(model_config: ModelConfig) -> checkpoint.Delta:
    torch.manual_seed(3)
    model = ESRTModel(model_config)
    return checkpoint.Delta(
        config=model_config,
        adapter=model.edge.adapter.state_dict(),
        projector=model.projector.state_dict(),
        int8_scale=torch.rand(WIDTH) + 0.1,
        tags=torch.randn(len(TAGS), WIDTH),
        card="# A card\n",
    )


@torch.no_grad()
def logits(llm: torch.nn.Module) -> torch.Tensor:
    """What a language model makes of IDS."""
    found: torch.Tensor = llm(input_ids=IDS).logits
    return found


def save_delta(folder: Path, layers: int = 2) -> Path:
    """A delta folder over small base weights in local folders beside it."""
    save_gemma(folder / "gemma", layers)
    save_whisper(folder / "whisper")
    whole = config(folder / "whisper", folder / "gemma")
    whole = replace(whole, llm=replace(whole.llm, layers=layers))
    checkpoint.save(folder / "model", delta(whole), small=True)
    return folder / "model"
