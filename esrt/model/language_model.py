"""The language model: Gemma 3 from a folder or a GGUF file, its text part only, with a token for each language tag."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from esrt.errors import ModelError
from esrt.languages import LANGUAGES
from esrt.model import gguf

TAGS: tuple[str, ...] = tuple(language.tag for language in LANGUAGES.values())

_UNUSED = re.compile(r"<unused(\d+)>")


def load_language_model(source: Path, dtype: torch.dtype = torch.float32) -> Gemma3ForCausalLM:
    """Loads Gemma 3 from a folder of transformers (text only or multimodal) or from a `.gguf` file.

    A multimodal checkpoint loses its vision tower and its multimodal projector; they are not even read. Nothing is
    fetched. Raises ModelError: model_missing, model_damaged, model_not_supported.
    """
    with quiet():
        return _from_gguf(source, dtype) if source.suffix == ".gguf" else _from_folder(source, dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Within, transformers draws no progress bars and says nothing below an error."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _from_folder(source: Path, dtype: torch.dtype) -> Gemma3ForCausalLM:
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type")
        if kind == "gemma3":
            return _prune(source, config, dtype)
        if kind != "gemma3_text":
            raise ModelError("model_not_supported", f"{source} holds a model of type {kind}; ESRT needs Gemma 3.")
        return Gemma3ForCausalLM.from_pretrained(source, dtype=dtype, local_files_only=True, use_safetensors=True)
    except FileNotFoundError as error:
        raise ModelError("model_missing", f"{source} is not a folder of a language model: {error}.") from error
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise _damaged(source, error) from error


def _damaged(source: Path, why: object) -> ModelError:
    return ModelError("model_damaged", f"The language model in {source} is damaged ({why}); fetch it once more.")


def _from_gguf(file: Path, dtype: torch.dtype) -> Gemma3ForCausalLM:
    try:
        opened = gguf.read(file)
        state = dict(gguf.state(opened, dtype))
    except ImportError as error:
        raise ModelError("package_missing", "Reading GGUF files needs a package: pip install gguf") from error
    return Gemma3ForCausalLM.from_pretrained(None, config=gguf.config(opened), state_dict=state, dtype=dtype)


def _prune(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Gemma3ForCausalLM:
    """Gemma3ForConditionalGeneration -> Gemma3ForCausalLM: only the tensors of the language model are read."""
    state: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                if (new := text_name(name)) is not None:
                    state[new] = tensors.get_tensor(name)
    if not state:
        raise ModelError("model_missing", f"{folder} holds no weights of a language model.")
    text = Gemma3TextConfig(**config["text_config"])
    llm = Gemma3ForCausalLM.from_pretrained(None, config=text, state_dict=state, dtype=dtype)
    if (folder / "generation_config.json").is_file():
        llm.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return llm


def text_name(name: str) -> str | None:
    """The name in Gemma3ForCausalLM of a multimodal checkpoint's tensor; None for what is pruned.

    The published files say `language_model.model.layers...`, newer ones `model.language_model.layers...`.
    """
    for prefix in ("language_model.model.", "model.language_model."):
        if name.startswith(prefix):
            return "model." + name.removeprefix(prefix)
    return "lm_head.weight" if name in ("language_model.lm_head.weight", "lm_head.weight") else None


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder. Raises ModelError model_missing."""
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError("model_missing", f"{folder} holds no tokenizer that can be read: {error}.") from error


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` of `source` (a folder or a `.gguf` file) into `folder`."""
    if source.suffix == ".gguf":
        gguf.tokenizer(gguf.read(source)).save(str(folder / "tokenizer.json"))
        names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad")}
        _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GemmaTokenizer", **names})
        return
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (source / name).is_file():
            raise ModelError("model_missing", f"{source / name} is missing; fetch the language model once more.")
        shutil.copyfile(source / name, folder / name)


def tag_slots(vocabulary: Mapping[str, int], tags: Sequence[str] = TAGS) -> list[int]:
    """The token ids of the tags, in their order: where they are, or else the last `<unusedN>` tokens, which they take.

    The last ones, because models derived from Gemma put their own tokens in the first.
    """
    if all(tag in vocabulary for tag in tags):
        return [vocabulary[tag] for tag in tags]
    numbered = ((_UNUSED.fullmatch(token), index) for token, index in vocabulary.items())
    unused = sorted((int(match[1]), index) for match, index in numbered if match)
    if any(tag in vocabulary for tag in tags) or len(unused) < len(tags):
        raise ModelError(
            "model_not_supported",
            f"The tokenizer has {len(unused)} <unusedN> tokens left for {len(tags)} language tags; use Gemma 3's own.",
        )
    return [index for _, index in unused[-len(tags) :]]


def expand_tokenizer(folder: Path, tags: Sequence[str] = TAGS) -> list[int]:
    """Edits `tokenizer.json` (and `tokenizer_config.json`) in `folder` so that each tag is ONE special token.

    Returns the tags' ids, in order. A second call changes nothing.
    """
    path = folder / "tokenizer.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vocabulary: dict[str, int] = content["model"]["vocab"]
        ids = tag_slots(vocabulary, tags)
        names = dict(zip(ids, tags, strict=True))
        content["model"]["vocab"] = {names.get(index, token): index for token, index in vocabulary.items()}
        others = [token for token in content["added_tokens"] if token["id"] not in names]
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        added = [{"id": index, "content": tag, **flags} for index, tag in names.items()]
        content["added_tokens"] = sorted(others + added, key=lambda token: int(token["id"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("model_damaged", f"{path} is not a tokenizer: {error}.") from error
    _write_json(path, content)
    config_path = folder / "tokenizer_config.json"
    if config_path.is_file():
        config = json.loads(config_path.read_text(encoding="utf-8"))
        config.pop("added_tokens_decoder", None)  # says what tokenizer.json says, without the tags, and would win
        _write_json(config_path, config)
    return ids


def _write_json(path: Path, content: object) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    beside.replace(path)


def tag_ids(tokenizer: PreTrainedTokenizerFast, tags: Sequence[str] = TAGS) -> list[int]:
    """The tags' token ids, in order; ModelError tokenizer_without_tags where one of them is not in the vocabulary."""
    vocabulary = tokenizer.get_vocab()
    if missing := [tag for tag in tags if tag not in vocabulary]:
        raise ModelError("tokenizer_without_tags", f"The tokenizer does not know {missing[0]}; build the model anew.")
    return [vocabulary[tag] for tag in tags]


def eos_ids(llm: Gemma3ForCausalLM) -> set[int]:
    """The tokens that end a text, as the model and its settings for generation say."""
    found: set[int] = set()
    for ids in (llm.config.eos_token_id, llm.generation_config.eos_token_id):
        if ids is not None:
            found.update(ids if isinstance(ids, Iterable) else [ids])
    return found


@torch.no_grad()
def first_tag_rows(llm: Gemma3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """What the tags' embedding rows begin as: the mean of the rows of the language's English name.

    Returns float32 [102, width], as in the embedding table (before Gemma's scaling by sqrt(width)).
    """
    table = llm.get_input_embeddings().weight
    rows = []
    for language in LANGUAGES.values():
        # With the space before it, as names stand within sentences: most are one token then.
        name = tokenizer(" " + language.name, add_special_tokens=False).input_ids
        rows.append(table[torch.tensor(name, device=table.device)].float().mean(0))
    return torch.stack(rows)


@torch.no_grad()
def set_tag_rows(llm: Gemma3ForCausalLM, ids: Sequence[int], rows: Tensor) -> None:
    """Writes rows [len(ids), width] into the embedding table (and with it the output layer, which is tied to it)."""
    table = llm.get_input_embeddings().weight
    if rows.shape != (len(ids), table.shape[1]):
        raise ModelError(
            "model_mismatch", f"The tag rows are {tuple(rows.shape)}, the model needs {(len(ids), table.shape[1])}."
        )
    table[list(ids)] = rows.to(table)


def convert_base(source: Path, folder: Path, dtype: torch.dtype = torch.bfloat16) -> list[int]:
    """Writes Gemma 3 from `source` (a folder or a `.gguf` file) into `folder`: safetensors and tokenizer with tags.

    The tags' rows are initialised from the languages' names. Returns the tags' ids.
    """
    llm = load_language_model(source)
    folder.mkdir(parents=True, exist_ok=True)
    _copy_tokenizer(source, folder)
    ids = expand_tokenizer(folder)
    set_tag_rows(llm, ids, first_tag_rows(llm, load_tokenizer(folder)))
    with quiet():
        llm.to(dtype).save_pretrained(folder)
    return ids


def merge_lora(llm: Gemma3ForCausalLM, folder: Path) -> Gemma3ForCausalLM:
    """The LLM with the LoRA of a peft folder added into its weights; without such a folder, the LLM as it is."""
    if not folder.is_dir():
        return llm
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():  # peft would unpickle another form
        raise ModelError("model_damaged", f"{folder} has no LoRA in safetensors: fetch or save the model anew.")
    try:
        with quiet():
            return PeftModel.from_pretrained(llm, str(folder)).merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError("model_damaged", f"The LoRA in {folder} cannot be applied ({error}).") from error
