"""The language model as vLLM reads it: with a vocabulary of those tokens only that the model may write.

vLLM's sampler chooses among all rows of the output layer. Where a model may write 84,146 of 262,144 tokens, a mask
would cost a pass over all of them for each token. So the table is cut once, on disk: tokens are numbered anew, the
output layer costs a third, and whatever vLLM does besides (tensor parallel, quantisation) needs to know nothing of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from esrt.errors import ModelError
from esrt.hub import kept
from esrt.model import checkpoint
from esrt.model.manifest import identity

_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
_FORM = 1  # raise it when what is written below changes


@dataclass(frozen=True)
class LanguageModel:
    """`folder` is what vLLM reads; `ids[n]` is the token that it numbers n; `eos_ids` end a text."""

    folder: Path
    ids: list[int]
    eos_ids: frozenset[int]


def language_model(ready: Path) -> LanguageModel:
    """The LLM of a ready model folder, in which LoRA and tags are merged, cut to what it may write.

    It is made once and kept in the cache. Raises ModelError.
    """
    source = ready / "llm"
    config = _json(source / "config.json")
    eos_ids = frozenset(_ids(config) | _ids(_json(source / "generation_config.json")))
    if (outputs := checkpoint.load_outputs(ready)) is None:
        return LanguageModel(source, list(range(config["vocab_size"])), eos_ids)
    folder = kept(f"vllm-{_FORM}-{identity(ready)}", lambda work: _cut(source, config, outputs, work))
    return LanguageModel(folder, outputs.tolist(), eos_ids)


def embedding(ready: Path) -> Tensor:
    """The whole embedding table of a ready folder [vocabulary, width], as stored; read from disk as it is used."""
    for file in sorted((ready / "llm").glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if _TABLES[0] in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                table: Tensor = tensors.get_tensor(_TABLES[0])
                return table
    raise ModelError("model_damaged", f"{ready / 'llm'} has no embedding table: fetch the model again.")


def _cut(source: Path, config: dict[str, Any], outputs: Tensor, folder: Path) -> None:
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        cut = {name: tensor[outputs] if name in _TABLES else tensor for name, tensor in state.items()}
        save_file(cut, folder / file.name, metadata={"format": "pt"})
    index = source / "model.safetensors.index.json"
    if index.is_file():
        (folder / index.name).write_bytes(index.read_bytes())
    numbers = {token: number for number, token in enumerate(outputs.tolist())}
    ends = sorted(numbers[token] for token in _ids(config) if token in numbers)
    special = {"eos_token_id": ends, "bos_token_id": None, "pad_token_id": None, "vocab_size": len(outputs)}
    (folder / "config.json").write_text(json.dumps(config | special, indent=1) + "\n", encoding="utf-8")


def _ids(config: dict[str, Any]) -> set[int]:
    found = config.get("eos_token_id")
    return set() if found is None else {found} if isinstance(found, int) else set(found)


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("model_damaged", f"{path} cannot be read: fetch the model again.") from error
    return content
