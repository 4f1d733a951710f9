"""Speech in, texts out, with a whisperM2M alone: no network, no cloud's half."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from esrt.audio.padding import pad
from esrt.audio.samples import Samples
from esrt.config import FRAME_SAMPLES, EncoderConfig
from esrt.errors import UsageError
from esrt.languages import LANGUAGES
from esrt.m2m.config import token
from esrt.m2m.engine import Engine
from esrt.m2m.generate import LIMIT, Drafting, generate
from esrt.m2m.model import M2M, START, find, load, token_id
from esrt.model import manifest
from esrt.model.mel import LogMel
from esrt.model.whisper_encoder import WhisperEncoder


def encoder_shape(model: M2M) -> EncoderConfig:
    """The shape of the model's encoder."""
    its, heads = model.whisper.config, model.whisper.config.encoder_attention_heads
    weights = model.config.weights
    return EncoderConfig(weights, its.num_mel_bins, its.d_model, its.encoder_layers, heads, its.max_source_positions)


def speech_encoder(model: M2M) -> WhisperEncoder:
    """The model's encoder as one that hears clips of any length up to 30 s."""
    encoder = WhisperEncoder(encoder_shape(model))
    encoder.load_state_dict(model.whisper.model.encoder.state_dict())
    return encoder.eval()


class Ears:
    """A model's encoder, from samples to frames."""

    def __init__(self, model: M2M) -> None:
        self._encoder, self._mel = speech_encoder(model), LogMel(model.whisper.config.num_mel_bins)

    @torch.inference_mode()
    def frames(self, samples: Samples) -> Tensor:
        """float32 [n], 16 kHz, at most 30 s -> [1, t, width]: the clip and half a second, as in training."""
        wave = torch.from_numpy(pad(samples, "speech"))[None]
        return self._encoder(self._mel(wave))[:, : wave.shape[1] // FRAME_SAMPLES]


class Offline:
    """A model that is ready to translate, by the name of its folder. Raises ModelError `offline_model_missing`."""

    def __init__(self, name: str) -> None:
        folder = find(name)
        self.model = load(folder)
        self.fingerprint = bytes.fromhex(manifest.identity(folder))
        self.engine = Engine(self.model, self.model.config.precision, self.model.config.trimmed)
        self.ears = Ears(self.model)
        # In int8 a pass of a small base costs little more than a guess: greedy is the quicker there.
        pays = self.model.kvspn is not None and self.model.config.precision == "float32"
        self._drafting = Drafting() if pays else None
        self._languages = [(code, token_id(self.model.tokenizer, token(code))) for code in self.model.config.languages]

    def check(self, to: Sequence[str]) -> None:
        """Raises UsageError `offline_language` where the model was not trained to write one of the languages."""
        for code in to:
            if code not in self.model.config.languages:
                names = ",".join(self.model.config.languages)
                name = LANGUAGES[code].name
                raise UsageError(
                    "offline_language", f"{self.model.config.name} does not write {name}; it writes {names}."
                )

    def translate(self, samples: Samples, to: Sequence[str], source: str | None = None) -> tuple[str, dict[str, str]]:
        """The language of one stretch of speech, and its text in that and in each language of `to`."""
        frames = self.ears.frames(samples)
        if source is None:
            source = self.spoken(frames)
        wanted = list(dict.fromkeys([source, *to]))
        texts = {code: self.write(frames, code) for code in wanted}
        return source, texts

    def spoken(self, frames: Tensor) -> str:
        """Which of the model's languages is spoken: what follows `<|startoftranscript|>`."""
        state = self.engine.start(frames, [frames.shape[1]], 1, drafts=False)
        start = torch.tensor([[token_id(self.model.tokenizer, START)]])
        row = self.engine.step(start, state)[0, -1]
        tokens = torch.tensor([index for _, index in self._languages])
        return self._languages[int((self.engine.embeddings[tokens] @ row).argmax())][0]

    def write(self, frames: Tensor, target: str) -> str:
        """What is said, in one language."""
        prompts = torch.tensor([self.model.prompt(target)])
        room, drafts = prompts.shape[1] + LIMIT, self._drafting is not None
        state = self.engine.start(frames, [frames.shape[1]], room, drafts=drafts)
        return self.model.text(generate(self.engine, state, prompts, LIMIT, self._drafting).ids[0])
