"""Model folders: a delta (what training changed) and a ready folder (the same, with all weights it needs).

    config.json  adapter.safetensors  projector.safetensors  codec.safetensors  tags.safetensors  llm_delta/  card.md
    outputs.safetensors, where the LLM shall not write every token
    finder.safetensors, where the language is found from a frame (esrt.model.finder)
    and, where it is ready to run:  llm/ (tags and LoRA merged)  whisper/ (the encoder)  edge.onnx

Every folder has a MANIFEST.json. safetensors and ONNX only: nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from esrt.config import ModelConfig
from esrt.errors import ModelError
from esrt.model.esrt import EdgeHalf, ESRTModel
from esrt.model.language_model import TAGS, load_language_model
from esrt.model.manifest import CARD, whole_folder
from esrt.model.projector import build_projector
from esrt.wire import codecs
from esrt.wire.rvq import Codebooks

State = dict[str, Tensor]

OUTPUTS = "outputs.safetensors"
FINDER = "finder.safetensors"
CODEC = "codec.safetensors"

RVQ = "rvq."
_SCALE = ".scale"
SMALLEST_SCALE = 2.0**-14  # the smallest normal float16: below it a scale would lose digits


@dataclass(frozen=True)
class Delta:
    """What training made. `int8_scale` [adapter.width]; `tags` [102, llm.width] as in the embedding table.

    `codec` holds what else the codecs need, by the names of `tables_of`: nothing, as long as no codebooks are trained.
    `outputs` int [n] are the tokens that the LLM may write, None for all of them.
    """

    config: ModelConfig
    adapter: Mapping[str, Tensor]
    projector: Mapping[str, Tensor]
    int8_scale: Tensor
    tags: Tensor
    card: str
    outputs: Tensor | None = None
    codec: Mapping[str, Tensor] = field(default_factory=dict)


def save(
    folder: Path, delta: Delta, lora: nn.Module | None = None, *, small: bool = False,
    lora_state: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Writes a delta folder, whole or not at all, in the place of one that is there.

    `lora` is the peft model around the LLM, `lora_state` its tensors where it does not hold them itself. With `small`,
    the adapter's matrices are stored as int8 with one scale a row and LoRA and tags as float16; a model that was loaded
    from such a folder is saved again without any change.
    """
    with whole_folder(folder) as work:
        delta.config.save(work / "config.json")
        adapter = quantise(delta.adapter) if small else dict(delta.adapter)
        dtype = torch.float16 if small else torch.float32
        _save(adapter, work / "adapter.safetensors")
        _save(delta.projector, work / "projector.safetensors")
        save_codec({"int8_scale": delta.int8_scale, **delta.codec}, work)
        _save({"rows": delta.tags.to(dtype)}, work / "tags.safetensors")
        if delta.outputs is not None:
            _save({"ids": delta.outputs.int()}, work / OUTPUTS)
        if lora is not None:
            _save_lora(lora, work / "llm_delta", delta.config.llm.weights, dtype, lora_state)
        (work / CARD).write_text(delta.card, encoding="utf-8")


def save_codec(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Writes `codec.safetensors`: codebooks in float16, scales in float32."""
    stored = {name: tensor.half() if name.startswith(RVQ) else tensor.float() for name, tensor in tensors.items()}
    _save(stored, folder / CODEC)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _save_lora(
    model: nn.Module, folder: Path, base: str, dtype: torch.dtype, tensors: Mapping[str, Tensor] | None
) -> None:
    from peft import PeftModel, get_peft_model_state_dict

    if not isinstance(model, PeftModel):
        raise ModelError("model_mismatch", "The language model has no LoRA; pass the model that peft wrapped.")
    folder.mkdir()
    # Not `save_pretrained`: it would ask the Hugging Face Hub about the embedding and write where the base lay here.
    state = get_peft_model_state_dict(model, state_dict=tensors, save_embedding_layers=False)
    _save({name: tensor.to(dtype) for name, tensor in state.items()}, folder / "adapter_model.safetensors")
    config = model.active_peft_config
    before = config.base_model_name_or_path, config.inference_mode
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))
    config.base_model_name_or_path, config.inference_mode = before


def quantise(state: Mapping[str, Tensor]) -> State:
    """Matrices named `*.weight` [out, in] become int8 plus `<name>.scale`, float16 [out]; the rest stays as it is.

    Doing it again after `dequantise` changes nothing: float16 moves a scale by less than 2^-11 of itself, so the
    largest value of a row stays at 127 scales.
    """
    out: State = {}
    for name, tensor in state.items():
        if tensor.ndim != 2 or not name.endswith(".weight"):
            out[name] = tensor.detach()
            continue
        rows = tensor.detach().float()
        scale = (rows.abs().amax(1) / 127).clamp(min=SMALLEST_SCALE).half()
        if not torch.isfinite(scale).all():
            raise ModelError("model_damaged", f"{name} has values that are not finite or too large to be stored.")
        out[name] = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        out[name + _SCALE] = scale
    return out


def dequantise(state: Mapping[str, Tensor]) -> State:
    """The inverse of `quantise`; every tensor becomes float32."""
    out: State = {}
    for name, tensor in state.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in state:
            continue
        out[name] = tensor.float()
        if tensor.dtype == torch.int8:
            scale = state.get(name + _SCALE)
            if scale is None or scale.shape != tensor.shape[:1]:
                raise ModelError("model_damaged", f"{name} is stored as int8 without a scale for each row.")
            out[name] *= scale.float()[:, None]
    return out


def read_state(path: Path) -> State:
    """The tensors of a safetensors file as float32, int8 rows expanded."""
    try:
        return dequantise(load_file(path))
    except FileNotFoundError as error:
        raise ModelError("model_missing", f"{path} does not exist; fetch the model again.") from error
    except (OSError, SafetensorError) as error:
        raise ModelError("model_damaged", f"{path} is damaged ({error}); fetch the model again.") from error


def _fill(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(read_state(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError("model_mismatch", f"{path} does not fit the model's config.json: {reason}.") from error


def load_delta(folder: Path) -> Delta:
    """Reads all of a delta (or ready) folder but the LoRA. Raises ModelError."""
    config = ModelConfig.load(folder / "config.json")
    codec = read_state(folder / CODEC)
    scale = codec.pop("int8_scale", None)
    tags = read_state(folder / "tags.safetensors").get("rows")
    if scale is None or scale.shape != (config.adapter.width,):
        raise ModelError("model_mismatch", f"{folder / CODEC} has no scale for each channel.")
    if tags is None or tags.shape != (len(TAGS), config.llm.width):
        raise ModelError("model_mismatch", f"{folder / 'tags.safetensors'} has no row for each of the language tags.")
    card = folder / CARD
    return Delta(
        config=config,
        adapter=read_state(folder / "adapter.safetensors"),
        projector=read_state(folder / "projector.safetensors"),
        int8_scale=scale,
        tags=tags,
        card=card.read_text(encoding="utf-8") if card.is_file() else "",
        outputs=load_outputs(folder),
        codec=codec,
    )


def load_outputs(folder: Path) -> Tensor | None:
    """The ids int64 [n] of the tokens that the folder's LLM may write; None where it may write all."""
    if not (folder / OUTPUTS).is_file():
        return None
    ids = read_state(folder / OUTPUTS).get("ids")
    if ids is None or ids.ndim != 1 or not len(ids):
        raise ModelError("model_damaged", f"{folder / OUTPUTS} has no token ids; fetch the model again.")
    return ids.long()  # float32 holds every integer below 2^24


def load_edge(folder: Path) -> EdgeHalf:
    """The edge half of a ready folder: Whisper's encoder and the adapter, float32, in evaluation mode."""
    config = ModelConfig.load(folder / "config.json")
    edge = EdgeHalf(config)
    _fill(edge.encoder, folder / "whisper" / "model.safetensors")
    _fill(edge.adapter, folder / "adapter.safetensors")
    return edge.eval().requires_grad_(False)


def load_projector(folder: Path) -> nn.Sequential:
    """The projector of a folder, float32, in evaluation mode: rows [b, queries, width] -> [b, queries, llm.width]."""
    projector = build_projector(ModelConfig.load(folder / "config.json"))
    _fill(projector, folder / "projector.safetensors")
    return projector.eval().requires_grad_(False)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> ESRTModel:
    """Loads both halves of a ready folder, frozen and in evaluation mode; `dtype` is the LLM's. Raises ModelError.

    The folder is not checked against its manifest here: `esrt.hub.resolve` did that.
    """
    if not (folder / "llm").is_dir():
        raise ModelError(
            "model_not_ready", f"{folder} holds no base weights: load what esrt.hub.resolve returns for it."
        )
    config = ModelConfig.load(folder / "config.json")
    llm = load_language_model(folder / "llm", dtype)
    if llm.config.hidden_size != config.llm.width:
        found = llm.config.hidden_size
        raise ModelError("model_mismatch", f"The language model in {folder} is {found} wide, not {config.llm.width}.")
    model = ESRTModel(config, llm)
    _fill(model.edge.encoder, folder / "whisper" / "model.safetensors")
    _fill(model.edge.adapter, folder / "adapter.safetensors")
    _fill(model.projector, folder / "projector.safetensors")
    return model.requires_grad_(False).eval()


def load_tables(folder: Path) -> codecs.Tables:
    """The codec tables of a folder. Raises ModelError."""
    return tables_of(_codec_arrays(folder))


def tables_of(arrays: Mapping[str, npt.NDArray[np.float32]]) -> codecs.Tables:
    """Tables from what `codec.safetensors` holds: `int8_scale`, and where the model has them `int4_scale` and
    `int4_centre`, and the codebooks `rvq.base`, `rvq.analysis`, `rvq.synthesis`, `rvq.subspaces` and `rvq.words`.
    """
    books = {name.removeprefix(RVQ): array for name, array in arrays.items() if name.startswith(RVQ)}
    rest = {name: array for name, array in arrays.items() if not name.startswith(RVQ)}
    try:
        return codecs.Tables(**rest, codebooks=Codebooks(**books) if books else None)
    except TypeError as error:
        raise ModelError("codec_damaged", f"The model's codec tables are incomplete or unknown: {error}.") from error


def _codec_arrays(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in read_state(folder / CODEC).items()}


def fingerprint(folder: Path) -> bytes:
    """8 bytes that name the folder's edge half: adapter weights as they are used (float32) and codec tables."""
    adapter = read_state(folder / "adapter.safetensors")
    tensors = {f"adapter.{name}": tensor.numpy() for name, tensor in adapter.items()}
    return codecs.fingerprint({**tensors, **{f"codec.{name}": array for name, array in _codec_arrays(folder).items()}})
