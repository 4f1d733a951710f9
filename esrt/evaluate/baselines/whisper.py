"""Whisper: transcripts, or its own `translate` into English; greedy, as OpenAI's code decodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import WhisperConfig, WhisperModel

from esrt import hub
from esrt.audio.padding import pad
from esrt.audio.samples import Samples
from esrt.config import WINDOW_SAMPLES
from esrt.evaluate.baselines import device
from esrt.languages import LANGUAGES
from esrt.model.mel import LogMel

SYMBOLS = [
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』', "<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))",
    "(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪",
]  # fmt: skip
NOTES = [*"♩♪♫♬♭♮♯"]
SPACE = 220
LONGEST = 200  # tokens of a text, as in our service
HEAD = 64  # width of an attention head, in every Whisper


@dataclass(frozen=True)
class Heard:
    """`source` is one of our codes, None for a language that only Whisper knows."""

    source: str | None
    text: str


class Whisper:
    """A multilingual Whisper from the cache of base weights, float32."""

    def __init__(self, weights: str) -> None:
        """`weights` names them as `hub.base` does: `openai/whisper-large-v3`. Raises ModelError."""
        folder = hub.base(weights)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        state = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
        vocabulary, width = state["decoder.embed_tokens.weight"].shape
        bins = state["encoder.conv1.weight"].shape[1]

        def layers(half: str) -> int:
            return 1 + max(int(name.split(".")[2]) for name in state if name.startswith(f"{half}.layers."))

        shape = {
            "num_mel_bins": bins, "d_model": width, "vocab_size": vocabulary,
            "encoder_layers": layers("encoder"), "encoder_attention_heads": width // HEAD,
            "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width, "decoder_attention_heads": width // HEAD,
            "max_source_positions": len(state["encoder.embed_positions.weight"]), "decoder_layers": layers("decoder"),
        }  # fmt: skip
        self.device = device()
        self.model = WhisperModel(WhisperConfig(**shape)).eval()
        self.model.load_state_dict(state)
        self.model.to(self.device)
        self.mel = LogMel(bins).to(self.device)
        self.start, self.plain, self.end = (self._token(n) for n in ("startoftranscript", "notimestamps", "endoftext"))
        self.tasks = {"translate": self._token("translate"), "transcribe": self._token("transcribe")}
        self.never = torch.tensor([*self._not_speech(), *range(self.start, vocabulary)], device=self.device)
        codes = {language.whisper: language.code for language in LANGUAGES.values() if language.whisper}
        # Every token between <|startoftranscript|> and <|translate|> names a language.
        self.languages = {
            token: codes.get((self.tokenizer.id_to_token(token) or "").strip("<|>"))
            for token in range(self.start + 1, self.tasks["translate"])
        }
        self.named = {code: token for token, code in self.languages.items() if code is not None}

    def _token(self, name: str) -> int:
        return int(self.tokenizer.encode(f"<|{name}|>", add_special_tokens=False).ids[0])

    def _not_speech(self) -> set[int]:
        """Tokens that nobody speaks (brackets, notes of music), which Whisper's own decoding never takes."""

        def ids(text: str) -> list[int]:
            found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
            return found

        spelled = [ids(text) for symbol in SYMBOLS + NOTES for text in (symbol, f" {symbol}")]
        notes = [ids(text) for symbol in NOTES for text in (symbol, f" {symbol}")]
        return {found[0] for found in (ids(" -"), ids(" '"), *notes, *(one for one in spelled if len(one) == 1))}

    @torch.inference_mode()
    def hear(
        self,
        clips: Sequence[Samples],
        task: Literal["translate", "transcribe"] = "translate",
        sources: Sequence[str | None] | None = None,
    ) -> list[Heard]:
        """The texts of a batch of clips of at most 30 s each, padded to 30 s as Whisper was trained.

        `sources` are codes of `named`; where one is None, Whisper finds the language itself.
        """
        waves = np.stack([pad(clip[:WINDOW_SAMPLES], "full") for clip in clips])
        frames = self.model.encoder(self.mel(torch.from_numpy(waves).to(self.device))).last_hidden_state
        first = self._next(torch.full((len(clips), 1), self.start, device=self.device), frames, None)[0]
        tokens = torch.tensor(list(self.languages), device=self.device)
        named = tokens[first[:, tokens].argmax(-1)]
        for number, source in enumerate(sources or ()):
            if source is not None:
                named[number] = self.named[source]
        ids = torch.tensor([[self.start, 0, self.tasks[task], self.plain]], device=self.device).repeat(len(clips), 1)
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
