"""whisperM2M: transformers' Whisper with a pruned decoder, its drafters, its tokenizer; and the folder they are in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from esrt import hub
from esrt.errors import ESRTError, ModelError
from esrt.m2m.config import FILE, M2MConfig, token
from esrt.m2m.kvspn import KVSPN, Medusa
from esrt.model import manifest

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
PROMPT = 3  # tokens before a text
START, PLAIN, END = "<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>"


@dataclass
class M2M:
    """A whole model. `outputs` are the token ids it may write, sorted; `draft` those that a drafter may guess."""

    config: M2MConfig
    whisper: WhisperForConditionalGeneration
    tokenizer: Tokenizer
    outputs: Tensor
    draft: Tensor
    kvspn: KVSPN | None = None
    medusa: Medusa | None = None

    @property
    def decoder(self) -> WhisperDecoder:
        """The part of Whisper that writes."""
        return self.whisper.model.decoder

    @property
    def end(self) -> int:
        """The token at the end of a text."""
        return token_id(self.tokenizer, END)

    def prompt(self, target: str) -> list[int]:
        """`<|startoftranscript|><|de|><|notimestamps|>`: the language to write in is the only instruction."""
        return [token_id(self.tokenizer, name) for name in (START, token(target), PLAIN)]

    def text(self, ids: list[int]) -> str:
        """What token ids say, without the end."""
        said: str = self.tokenizer.decode([i for i in ids if i != self.end])
        return said.strip()


def token_id(tokenizer: Tokenizer, name: str) -> int:
    """The id of a special token. Raises ModelError `model_damaged`."""
    found: int | None = tokenizer.token_to_id(name)
    if found is None:
        raise ModelError("model_damaged", f"The tokenizer has no {name}: this is not a multilingual Whisper's.")
    return found


def kept_layers(layers: int, keep: int) -> list[int]:
    """Which of a decoder's layers stay: the first, the last, and evenly those between."""
    if keep == 1:
        return [0]
    return [round(place * (layers - 1) / (keep - 1)) for place in range(keep)]


def whisper_config(state: Mapping[str, Tensor], layers: int, start: int, end: int) -> WhisperConfig:
    """The shape of Whisper's weights (transformers' names, without `model.`), with `layers` in the decoder.

    `start` and `end` are the token ids that a text begins and ends with.
    """

    def count(half: str) -> int:
        prefix = f"{half}.layers."
        return 1 + max(int(name.split(".")[2]) for name in state if name.startswith(prefix))

    vocabulary, width = state["decoder.embed_tokens.weight"].shape
    return WhisperConfig(
        vocab_size=vocabulary, d_model=width, num_mel_bins=state["encoder.conv1.weight"].shape[1],
        encoder_layers=count("encoder"), encoder_attention_heads=width // 64,
        encoder_ffn_dim=len(state["encoder.layers.0.fc1.weight"]),
        decoder_layers=layers, decoder_attention_heads=width // 64,
        decoder_ffn_dim=len(state["decoder.layers.0.fc1.weight"]),
        max_source_positions=len(state["encoder.embed_positions.weight"]),
        max_target_positions=len(state["decoder.embed_positions.weight"]),
        # transformers' own defaults are a later Whisper's, whose vocabulary has one language more.
        bos_token_id=end, pad_token_id=end, eos_token_id=end, decoder_start_token_id=start,
        suppress_tokens=None, begin_suppress_tokens=None, dropout=0.0,
    )  # fmt: skip


def read_base(weights: str) -> tuple[dict[str, Tensor], Tokenizer]:
    """A base Whisper's weights in float32 and its tokenizer, by name: from the hub, or from packages."""
    folder = hub.base(weights)
    state = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    return state, Tokenizer.from_file(str(folder / TOKENIZER))


def from_base(config: M2MConfig) -> tuple[WhisperForConditionalGeneration, Tokenizer]:
    """Whisper as it was published, its decoder pruned to `config.layers`. Raises ModelError `model_mismatch`."""
    state, tokenizer = read_base(config.weights)
    found = whisper_config(state, config.layers, token_id(tokenizer, START), token_id(tokenizer, END))
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("decoder.layers."))
    if config.layers > layers:
        raise ModelError("model_mismatch", f"{config.weights} has {layers} layers, so {config.layers} cannot be kept.")
    whisper = WhisperForConditionalGeneration(found)
    taken = _take_layers(state, kept_layers(layers, config.layers))
    whisper.model.load_state_dict(taken)
    whisper.tie_weights()
    return whisper.eval(), tokenizer


def _take_layers(state: Mapping[str, Tensor], layers: list[int]) -> dict[str, Tensor]:
    """The weights with these decoder layers only, numbered anew."""
    prefix = "decoder.layers."
    out = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    for new, old in enumerate(layers):
        start = f"{prefix}{old}."
        out |= {f"{prefix}{new}.{n.removeprefix(start)}": t for n, t in state.items() if n.startswith(start)}
    return out


def fit(whisper: WhisperForConditionalGeneration, state: Mapping[str, Tensor]) -> None:
    """Makes room for pruned heads: attention over what `state` (with `decoder.` names) has, in place."""
    for number, layer in enumerate(whisper.model.decoder.layers):
        for name in ("self_attn", "encoder_attn"):
            attention, rows = getattr(layer, name), len(state[f"decoder.layers.{number}.{name}.q_proj.weight"])
            if rows != attention.q_proj.out_features:
                width = attention.q_proj.in_features
                attention.num_heads = rows // attention.head_dim
                attention.q_proj = nn.Linear(width, rows)
                attention.k_proj = nn.Linear(width, rows, bias=False)
                attention.v_proj = nn.Linear(width, rows)
                attention.out_proj = nn.Linear(rows, width)


def drafters(config: M2MConfig, decoder: WhisperDecoder) -> tuple[KVSPN, Medusa | None]:
    """New drafters for a decoder: KVSPN begins with the weights of the layers it lives on."""
    width, heads = decoder.config.d_model, decoder.config.decoder_attention_heads
    attention = decoder.layers[0].self_attn
    kvspn = KVSPN(width, heads, config.layers, config.blocks, attention.q_proj.out_features)
    kvspn.start_from(decoder)
    return kvspn, Medusa(width, config.medusa) if config.medusa else None


def save(model: M2M, folder: Path) -> None:
    """Writes a model folder, weights as float16, beside and then in its place."""
    with manifest.whole_folder(folder) as work:
        model.config.save(work / FILE)
        model.whisper.config.save_pretrained(work)
        model.tokenizer.save(str(work / TOKENIZER))
        parts: dict[str, nn.Module | None] = {
            "whisper": model.whisper.model, "kvspn": model.kvspn, "medusa": model.medusa,
        }  # fmt: skip
        tensors = {"outputs": model.outputs.int(), "draft": model.draft.int()}
        for name, part in parts.items():
            for key, value in part.state_dict().items() if part is not None else ():
                tensors[f"{name}.{key}"] = value.detach().half().contiguous()
        save_file(tensors, work / WEIGHTS)


def find(name: str) -> Path:
    """The folder of an installed whisperM2M: a path, or a name in the cache's `m2m` folder.

    Raises ModelError `offline_model_missing`.
    """
    for folder in (Path(name).expanduser(), hub.cache_dir() / "m2m" / name):
        if (folder / FILE).is_file():
            return folder
    raise ModelError(
        "offline_model_missing",
        f"There is no whisperM2M {name!r}: name the folder that `esrt m2m train` wrote, or copy it to "
        f"{hub.cache_dir() / 'm2m'}.",
    )


def load(folder: Path) -> M2M:
    """Reads a model folder, checked by its SHA-256. Raises ModelError `model_damaged`."""
    manifest.check(folder)
    config = M2MConfig.load(folder / FILE)
    try:
        state = load_file(folder / WEIGHTS)
        outputs, draft = state.pop("outputs").long(), state.pop("draft").long()

        def part(name: str) -> dict[str, Tensor]:
            prefix = f"{name}."
            return {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}

        whisper = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(folder))
        fit(whisper, part("whisper"))
        whisper.model.load_state_dict(part("whisper"))
        whisper.tie_weights()
        kvspn, medusa = drafters(config, whisper.model.decoder)
        found = M2M(config, whisper.eval(), Tokenizer.from_file(str(folder / TOKENIZER)), outputs, draft)
        if mine := part("kvspn"):
            kvspn.load_state_dict(mine)
            found.kvspn = kvspn.eval()
        if medusa is not None and (mine := part("medusa")):
            medusa.load_state_dict(mine)
            found.medusa = medusa.eval()
    except ESRTError:
        raise
    except Exception as error:  # what safetensors, tokenizers and torch raise has no common base
        reason = " ".join(str(error).split())[:200]
        raise ModelError("model_damaged", f"{folder} is not a whole whisperM2M: {reason}.") from error
    return found
