"""The baseline: Whisper's own `translate` into English, greedy, language found by itself, as OpenAI's code decodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import WhisperConfig, WhisperModel

from esrt import hub
from esrt.audio.padding import pad
from esrt.audio.samples import Samples
from esrt.config import WINDOW_SAMPLES, EncoderConfig
from esrt.languages import LANGUAGES
from esrt.model.mel import LogMel

SYMBOLS = [
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』', "<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))",
    "(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪",
]  # fmt: skip
NOTES = [*"♩♪♫♬♭♮♯"]
SPACE = 220
LONGEST = 200  # tokens of a translation, as in our service


@dataclass(frozen=True)
class Heard:
    """`source` is one of our codes, None for a language that only Whisper knows."""

    source: str | None
    english: str


class Whisper:
    """A multilingual Whisper from the cache of base weights, float32."""

    def __init__(self, config: EncoderConfig) -> None:
        folder = hub.base(config.weights)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        state = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
        vocabulary = len(state["decoder.embed_tokens.weight"])
        shape = {
            "num_mel_bins": config.mel_bins, "d_model": config.width, "vocab_size": vocabulary,
            "encoder_layers": config.layers, "encoder_attention_heads": config.heads,
            "encoder_ffn_dim": 4 * config.width, "decoder_ffn_dim": 4 * config.width,
            "decoder_attention_heads": config.heads, "max_source_positions": config.positions,
            "decoder_layers": 1 + max(int(name.split(".")[2]) for name in state if name.startswith("decoder.layers.")),
        }  # fmt: skip
        self.model = WhisperModel(WhisperConfig(**shape)).eval()
        self.model.load_state_dict(state)
        self.mel = LogMel(config.mel_bins)
        self.start, self.translate, self.plain, self.end = (
            int(self.tokenizer.encode(f"<|{name}|>", add_special_tokens=False).ids[0])
            for name in ("startoftranscript", "translate", "notimestamps", "endoftext")
        )
        self.never = torch.tensor([*self._not_speech(), *range(self.start, vocabulary)])
        codes = {language.whisper: language.code for language in LANGUAGES.values() if language.whisper}
        # Every token between <|startoftranscript|> and <|translate|> names a language.
        self.languages = {
            token: codes.get((self.tokenizer.id_to_token(token) or "").strip("<|>"))
            for token in range(self.start + 1, self.translate)
        }

    def _not_speech(self) -> set[int]:
        """Tokens that nobody speaks (brackets, notes of music), which Whisper's own decoding never takes."""

        def ids(text: str) -> list[int]:
            found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
            return found

        spelled = [ids(text) for symbol in SYMBOLS + NOTES for text in (symbol, f" {symbol}")]
        notes = [ids(text) for symbol in NOTES for text in (symbol, f" {symbol}")]
        return {found[0] for found in (ids(" -"), ids(" '"), *notes, *(one for one in spelled if len(one) == 1))}

    @torch.inference_mode()
    def hear(self, clips: list[Samples]) -> list[Heard]:
        """Translates a batch of clips of at most 30 s each, padded to 30 s as Whisper was trained."""
        waves = np.stack([pad(clip[:WINDOW_SAMPLES], "full") for clip in clips])
        frames = self.model.encoder(self.mel(torch.from_numpy(waves))).last_hidden_state
        first = self._next(torch.full((len(clips), 1), self.start), frames, None)[0]
        tokens = torch.tensor(list(self.languages))
        named = tokens[first[:, tokens].argmax(-1)]
        ids = torch.tensor([[self.start, 0, self.translate, self.plain]]).repeat(len(clips), 1)
        ids[:, 1] = named
        said: list[list[int]] = [[] for _ in clips]
        running, cache = [True] * len(clips), None
        for place in range(LONGEST):
            logits, cache = self._next(ids, frames, cache)
            logits[:, self.never] = -torch.inf
            if place == 0:
                logits[:, [SPACE, self.end]] = -torch.inf
            ids = logits.argmax(-1, keepdim=True)
            for number, token in enumerate(ids[:, 0].tolist()):
                running[number] = running[number] and token != self.end
                if running[number]:
                    said[number].append(token)
            if not any(running):
                break
        return [
            Heard(self.languages[token], self.tokenizer.decode(text).strip())
            for token, text in zip(named.tolist(), said, strict=True)
        ]

    def _next(self, ids: Tensor, frames: Tensor, cache: object) -> tuple[Tensor, object]:
        """Logits [b, vocabulary] after `ids`, and the cache with them in it."""
        out = self.model.decoder(input_ids=ids, encoder_hidden_states=frames, past_key_values=cache, use_cache=True)
        return out.last_hidden_state[:, -1] @ self.model.decoder.embed_tokens.weight.T, out.past_key_values
