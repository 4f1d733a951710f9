"""Puts a recipe's parts together: manifests, cached frames, the two base models and the vocabularies of the texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from tokenizers import Tokenizer as RawTokenizer
from torch import Tensor

from esrt import hub
from esrt.config import PRESETS, ModelConfig
from esrt.errors import ModelError, UsageError
from esrt.model import checkpoint as folders
from esrt.model.language_model import load_language_model, load_tokenizer, tag_ids
from esrt.model.manifest import put, sha256
from esrt.model.outputs import spelling
from esrt.model.qformer import start_from_decoder
from esrt.model.whisper_encoder import WhisperEncoder
from esrt.train import checkpoint, parallel
from esrt.train.adversary import Adversary, Voices
from esrt.train.batches import Batches, Vocabularies
from esrt.train.encoding import Frames, encoding_type
from esrt.train.examples import Tokenizer, plain, token_ids
from esrt.train.features import Features, Live
from esrt.train.loop import Trainer
from esrt.train.manifest import Row, read_manifest
from esrt.train.network import Network
from esrt.train.recipes import Recipe
from esrt.train.sampler import Clip, Sampler, capped, clips
from esrt.train.tasks import held_back

LIVE = "live"  # a file in a run's folder: the encoder's frames are not cached


class WhisperTokenizer:
    """Whisper's byte-level BPE, called like a transformers tokenizer."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = RawTokenizer.from_file(str(path))

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def convert_tokens_to_ids(self, token: str) -> int:
        return int(self._tokenizer.encode(token, add_special_tokens=False).ids[0])


def read_whisper(config: ModelConfig) -> dict[str, Tensor]:
    """The base Whisper's weights as they are stored (transformers' names)."""
    return load_file(hub.base(config.encoder.weights) / "model.safetensors")


def read_whisper_tokenizer(config: ModelConfig) -> WhisperTokenizer:
    """The base Whisper's tokenizer."""
    return WhisperTokenizer(hub.base(config.encoder.weights) / "tokenizer.json")


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it, as float32."""
    return {name.removeprefix(prefix): tensor.float() for name, tensor in state.items() if name.startswith(prefix)}


def vocabularies(
    path: Path, rows: Sequence[Row], tokenizer: Tokenizer, whisper: Tokenizer, special: list[int],
    heard: Sequence[Row] = (),
) -> tuple[list[int], list[int]]:  # fmt: skip
    """Sorted ids of the Whisper and LLM tokens in the texts (and `special`), kept in `path` for a resumed run.

    A checkpoint has a row for each of Whisper's, so those stay as they were; the LLM's are added to. Raises UsageError
    `new_words` where `heard`, the rows that stages ask for Whisper's tokens, have others.
    """
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    texts = {(row.asr, row.s2tt) for row in rows}
    spoken, written = {asr for asr, _ in texts}, {s2tt for _, s2tt in texts}
    written |= {caption for row in rows for caption in row.caption}
    by_llm = {token for text in spoken | written for token in token_ids(tokenizer, text)} | set(special)
    if found is None:
        by_whisper = sorted({token for text in spoken for token in token_ids(whisper, plain(text))})
    else:
        by_whisper = found["whisper"]
        by_llm |= set(found["llm"])
        said = {plain(row.asr) for row in heard}
        if not {token for text in said for token in token_ids(whisper, text)} <= set(by_whisper):
            raise UsageError(
                "new_words",
                f"The manifests have words that they had not when the run in {path.parent} began: use another --run, "
                "or name a later --stage.",
            )
    made = {"whisper": by_whisper, "llm": sorted(by_llm)}
    if made != found:
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(made), encoding="utf-8")
        put(beside, path)
    return made["whisper"], made["llm"]


def open_cache(folder: Path, config: ModelConfig, whisper: Mapping[str, Tensor]) -> Features:
    """What `folder` has of this encoder's frames. Raises what `Features` and its `check` raise."""
    features = Features(folder, config.encoder.width, config.context)
    features.check(part(whisper, "encoder."))
    return features


def cached_frames(
    folder: Path, audios: Sequence[str], config: ModelConfig, whisper: Mapping[str, Tensor], device: torch.device
) -> Features:
    """The cache of frames in `folder`, with all of `audios` in it. Raises what `Features` raises."""
    features = open_cache(folder, config, whisper)
    if any(audio not in features.index for audio in audios):
        features.fill(audios, config, speech_encoder(config, whisper).to(device))
    return features


def speech_encoder(config: ModelConfig, whisper: Mapping[str, Tensor]) -> WhisperEncoder:
    """The frozen encoder, in float32 on the processor."""
    encoder = WhisperEncoder(config.encoder)
    encoder.load_state_dict(part(whisper, "encoder."))
    return encoder.requires_grad_(False).eval()


def encoder_frames(
    data: Path, audios: Sequence[str], config: ModelConfig, whisper: Mapping[str, Tensor], accelerator: Accelerator,
    run: Path, begins: bool,
) -> Frames:  # fmt: skip
    """The cache `data`/features, or, where its disk has no room for it, frames that every process computes anew.

    A run stays with what it began with: LIVE in its folder says which.
    """
    folder, live = data / "features", run / LIVE
    if begins and accelerator.is_main_process:
        live.unlink(missing_ok=True)
        if not Features(folder, config.encoder.width, config.context).has_room(audios):
            live.touch()
            print(f"{data} has no room for the encoder's frames: each step computes its own.", file=sys.stderr)
    accelerator.wait_for_everyone()
    if live.exists():
        encoder = speech_encoder(config, whisper).to(accelerator.device, encoding_type(accelerator.device))
        return Live(open_cache(folder, config, whisper), audios, config, encoder)
    # The main process writes what all of them read.
    with accelerator.main_process_first():
        return cached_frames(folder, audios, config, whisper, accelerator.device)


def split(sets: Mapping[str, Sequence[Clip]]) -> tuple[dict[str, list[Clip]], dict[str, list[Clip]]]:
    """What is trained on, and what is held back for validation: of each manifest one clip at least.

    What a clip says that is held back is not trained on in another voice either.
    """
    back = {name: [clip for clip in found if held_back(clip)] or list(found[:1]) for name, found in sets.items()}
    said = {(clip.source, plain(clip.transcript)) for found in back.values() for clip in found}
    left = {}
    for name, found in sets.items():
        taken = {clip.audio for clip in back[name]}
        # A manifest of one sentence, or of one clip, would have nothing left.
        others = [clip for clip in found if clip.audio not in taken] or list(found)
        left[name] = [clip for clip in others if (clip.source, plain(clip.transcript)) not in said] or others
    return left, back


@torch.no_grad()
def warm_start(network: Network, folder: Path) -> None:
    """Gives the network the adapter, projector, tags and LoRA of the model in `folder`. Raises ModelError."""
    delta = folders.load_delta(folder)
    try:
        network.adapter.load_state_dict(delta.adapter)
        network.projector.load_state_dict(delta.projector)
        network.tags.copy_(delta.tags)
        lora = folder / "llm_delta" / "adapter_model.safetensors"
        if lora.is_file():
            state = folders.read_state(lora)
            if found := set_peft_model_state_dict(network.llm, state).unexpected_keys:
                raise RuntimeError(f"no place for {found[0]}")
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError("model_mismatch", f"{folder} is no start for this recipe's model: {reason}.") from error


def start_of(recipe: Recipe) -> Path | None:
    """The folder of the model that a run begins with, if with any, which has the recipe's shape. Raises ModelError."""
    if recipe.start is None:
        return None
    name, config = recipe.start, PRESETS[recipe.model]
    folder = Path(name) if Path(name).is_dir() else hub.resolve(name)
    if not (folder / "adapter.safetensors").is_file():
        text = f"{name} is no trained model: it has no adapter.safetensors. A run's is in `model`."
        raise ModelError("model_not_found", text)
    other = ModelConfig.load(folder / "config.json")
    if (other.adapter, other.encoder.width, other.llm.width) != (
        config.adapter, config.encoder.width, config.llm.width,
    ):  # fmt: skip
        text = f"{name} is {other.name}, no start for {recipe.name}, which trains {recipe.model}."
        raise ModelError("model_mismatch", text)
    return folder


def build(recipe: Recipe, data: Path, run: Path) -> Trainer:
    """A trainer for the manifests `data`/<name>.jsonl of the recipe; encodes what is not in `data`/features yet.

    Weights come from `recipe.start` or the base models; those of a run that is under way, from its state, later.
    Raises UsageError (manifest_..., batch_not_divisible, resume_mismatch, new_words, features_...), ModelError.
    """
    at = checkpoint.place(run)
    accelerator = parallel.start(recipe, run, None if at is None else at.bf16)
    for stage in recipe.stages:
        parallel.part_size(accelerator, stage.name, stage.batch)  # before hours of encoding
    config, start = PRESETS[recipe.model], start_of(recipe)
    of = {"recipe": recipe.name, "start": None if start is None else sha256(start / "adapter.safetensors")}
    if recipe.frozen_llm:
        of["llm"] = "frozen"
    checkpoint.same_run(run, at, of, accelerator.is_main_process)
    voices = Voices() if recipe.adversary else None
    names = {name for stage in recipe.stages for name in stage.weights or recipe.weights}
    rows = {name: capped(read_manifest(data / f"{name}.jsonl"), recipe.cap, recipe.seed) for name in sorted(names)}
    whisper, whisper_tokenizer = read_whisper(config), read_whisper_tokenizer(config)
    llm_folder = hub.base(config.llm.weights)
    tokenizer = load_tokenizer(llm_folder)
    tags, end = tag_ids(tokenizer), int(tokenizer.eos_token_id)
    spelled = spelling(tokenizer.get_vocab())
    # What the first model could write, this one still can.
    able = None if start is None else folders.load_outputs(start)
    special = [end] if able is None else [end, *({*able.tolist()} - {*tags, *spelled})]
    every = [row for found in rows.values() for row in found]
    asked = {n for s in recipe.stages if s.objective == "ctc-whisper" for n in s.weights or recipe.weights}
    heard = [row for name in sorted(asked) for row in rows[name]]
    audios = list(dict.fromkeys(row.audio for row in every))
    features = encoder_frames(data, audios, config, whisper, accelerator, run, at is None)
    lengths = features.lengths
    sets = {name: taught(name, found, lengths, accelerator) for name, found in rows.items()}
    path = run / "vocabularies.json"
    with accelerator.main_process_first():  # after what may be refused: a run keeps its vocabulary
        if at is None and accelerator.is_main_process:
            path.unlink(missing_ok=True)  # of a run that ended before its first checkpoint
        by_whisper, by_llm = vocabularies(path, every, tokenizer, whisper_tokenizer, special, heard)
    outputs = sorted({*by_llm, *tags, *spelled})
    known = Vocabularies(*(torch.tensor(ids) for ids in (by_whisper, by_llm, tags, outputs)))
    back = None
    if recipe.validate_every:
        sets, back = split(sets)

    def batches(members: Mapping[str, Sequence[Clip]], augment: bool, voices: Voices | None = None) -> Batches:
        weights = {name: recipe.weights.get(name, 1.0) for name in members}
        sampler = Sampler(members, weights, recipe.seed, recipe.temperature, recipe.tiers)
        drawn = replace(recipe, augment=augment)
        return Batches(drawn, sampler, features, tokenizer, whisper_tokenizer, known, end, voices)

    torch.manual_seed(recipe.seed)
    network = new_network(recipe, known, whisper, whisper_tokenizer, llm_folder, accelerator)
    # An adversary's adapter is measured against the one that it began as, in a resumed run too.
    if start is not None and (at is None or voices):
        warm_start(network, start)
    if voices:
        network.adversary = Adversary(network.adapter, accelerator.device)
    validation = batches(back, False) if back else None
    return Trainer(recipe, network, batches(sets, recipe.augment, voices), accelerator, run, validation)


def taught(name: str, rows: Sequence[Row], lengths: Mapping[str, int], accelerator: Accelerator) -> list[Clip]:
    """A manifest's clips with frames and a transcript; tells how many are left out.

    Raises UsageError `no_clips`.
    """
    found = [clip for clip in clips(rows, lengths) if len(plain(clip.transcript)) > 1]
    out = len({row.audio for row in rows}) - len(found)
    why = (
        f"{name}.jsonl: {out:,} clips are left out, as they have no transcript of two letters at least, or are no "
        "sound of 0.3 to 30 s."
    )
    if not found:
        raise UsageError("no_clips", why)
    if out and accelerator.is_main_process:
        print(why, file=sys.stderr)
    return found


def new_network(
    recipe: Recipe, known: Vocabularies, whisper: Mapping[str, Tensor], whisper_tokenizer: Tokenizer, llm: Path,
    accelerator: Accelerator,
) -> Network:  # fmt: skip
    """The network as the base weights make it. Under autocast the LLM is kept in bfloat16, as it was published."""
    config = PRESETS[recipe.model]
    dtype = torch.bfloat16 if parallel.in_bf16(accelerator) else torch.float32
    decoder = part(whisper, "decoder.")
    network = Network(
        config, load_language_model(llm, dtype), known, decoder["embed_tokens.weight"][known.whisper],
        recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout, recipe.checkpointing,
    )  # fmt: skip
    if config.adapter.style == "whisper":
        start = whisper_tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
        start_from_decoder(network.adapter, decoder, start)
    return network
