"""The codecs' tables of a trained model: the levels of int4, and the codebooks of residual vector quantisation.

Codebooks are trained on the rows that the model's own adapter makes of training clips. They are small enough to travel
with a model because each stage has a small subspace of its own, in the coordinates that the projector sees most of.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from esrt.config import ModelConfig
from esrt.errors import UsageError
from esrt.model import checkpoint
from esrt.train import adapter_rows
from esrt.train.manifest import Row, read_manifest
from esrt.wire.frame import STAGES
from esrt.wire.rvq import WORDS, Codebooks

Floats = npt.NDArray[np.float32]

COORDINATES = 256
SUBSPACE = 20
_ITERATIONS = 8
_FEWEST_ROWS, _MOST_ROWS = 8, 200  # of a word: fewer would make words of single rows
_LEVELS = 16
_STEPS = np.linspace(0.15, 0.6, 31)  # of int4, in standard deviations of a channel: 1.2 to 4.8 of them either way


def run(folder: Path, data: Path, names: Sequence[str], clips: int) -> None:
    """Gives the delta folder a new `codec.safetensors`: at most `clips` of each manifest `data`/<name>.jsonl are heard.

    Raises UsageError `model_is_built` for a folder that was made of another, and `too_few_clips`; ModelError.
    """
    _faiss()  # before all the rest: it takes minutes
    with adapter_rows.renewed(folder) as work:
        chosen = [audio for name in names for audio in _draw(read_manifest(data / f"{name}.jsonl"), clips)]
        _enough(len(chosen), folder)
        heard = [made.half().cpu().numpy() for _, made in adapter_rows.of(folder, data, chosen)]
        _enough(sum(map(len, heard)), folder)
        rows, scale = np.concatenate(heard), checkpoint.read_state(folder / checkpoint.CODEC)["int8_scale"]
        seen = metric(checkpoint.load_projector(folder))
        checkpoint.save_codec({"int8_scale": scale, **int4(rows), **books(rows, seen)}, work)


def _enough(clips: int, folder: Path) -> None:
    if clips * ModelConfig.load(folder / "config.json").adapter.queries < _FEWEST_ROWS * WORDS:
        raise UsageError("too_few_clips", f"{clips} clips are too few to train codebooks: take more (--clips).")


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise UsageError("not_installed", "faiss is not installed: type `pip install 'esrt[train]'`.") from error
    return faiss


def _draw(rows: Sequence[Row], clips: int) -> list[str]:
    audios = list(dict.fromkeys(row.audio for row in rows))
    return sorted(np.random.default_rng(0).permutation(audios)[:clips].tolist())


def int4(rows: npt.NDArray[np.floating]) -> dict[str, Tensor]:
    """`int4_scale` and `int4_centre` float32 [width]: for each channel, the 16 even levels with the least square error.

    `rows` are [clips, queries, width]; 20,000 of them are looked at.
    """
    every = rows.reshape(-1, rows.shape[-1])
    some = every[np.linspace(0, len(every) - 1, min(len(every), 20_000)).astype(int)].astype(np.float32)
    centre, spread = some.mean(0), np.maximum(some.std(0), checkpoint.SMALLEST_SCALE)
    some = (some - centre) / spread
    errors = []
    for step in _STEPS:
        level = np.clip(np.floor(some / step), -_LEVELS // 2, _LEVELS // 2 - 1) + 0.5
        errors.append(np.square(level * step - some).mean(0))
    scale = _STEPS[np.argmin(errors, axis=0)] * spread
    return {"int4_scale": torch.from_numpy(scale.astype(np.float32)), "int4_centre": torch.from_numpy(centre)}


def metric(projector: nn.Sequential) -> Floats:
    """What the projector sees of a row: float32 [width, n]. Distances between rows times this are what shall be small.

    It is the projector's first matrix; where a LayerNorm follows, which takes the mean away, without that.
    """
    first, second = projector[0], projector[1]
    assert isinstance(first, nn.Linear)
    matrix: Floats = first.weight.detach().float().T.cpu().numpy()
    return matrix - matrix.mean(1, keepdims=True) if isinstance(second, nn.LayerNorm) else matrix


def books(rows: npt.NDArray[np.floating], seen: Floats) -> dict[str, Tensor]:
    """The tensors of `Codebooks`, by their names in `codec.safetensors`, from rows [clips, queries, width].

    `seen` is the `metric`. The coordinates are the principal components of the rows times it, and each stage's subspace
    those of what the stages before have left; its words are found by k-means (FAISS).
    """
    faiss = _faiss()
    centre = _half(rows.mean(0, dtype=np.float32))
    width, d = rows.shape[-1], min(COORDINATES, rows.shape[-1])
    spread: Floats = np.zeros((seen.shape[1],) * 2, np.float32)
    for clip in rows:
        part = (clip - centre) @ seen
        spread += part.T @ part
    analysis = _half(seen @ _principal(spread, d))
    rest = np.concatenate([(clip.astype(np.float32) - centre) @ analysis for clip in rows])
    whole = rest.copy()
    subspaces, words = [], []
    for stage in tqdm(range(max(STAGES.values())), desc="codebooks", disable=None):
        subspace = _half(_principal(rest.T @ rest, min(SUBSPACE, d)))
        near = np.ascontiguousarray(rest @ subspace)
        means = faiss.Kmeans(
            near.shape[1],
            WORDS,
            niter=_ITERATIONS,
            seed=stage,
            min_points_per_centroid=_FEWEST_ROWS,
            max_points_per_centroid=_MOST_ROWS,
        )
        means.train(near)
        found = _half(means.centroids)
        means.index.reset()
        means.index.add(found)
        rest -= found[means.index.search(near, 1)[1][:, 0]] @ subspace.T
        subspaces.append(subspace)
        words.append(found)
    # Of all linear maps from what is heard back to rows, the one with the least square error.
    heard = whole - rest
    gram, cross = heard.T @ heard, np.zeros((d, width), np.float32)
    for clip, codes in zip(rows, heard.reshape(len(rows), -1, d), strict=True):
        cross += codes.T @ (clip.astype(np.float32) - centre)
    synthesis = np.linalg.lstsq(gram.astype(np.float64), cross.astype(np.float64), rcond=1e-10)[0]
    made = Codebooks(centre, analysis, _half(synthesis), np.stack(subspaces), np.stack(words))
    return {f"{checkpoint.RVQ}{name}": torch.from_numpy(array) for name, array in vars(made).items()}


def _principal(spread: Floats, count: int) -> Floats:
    """The `count` directions [n, count] of the largest spread, of a matrix of second moments [n, n]."""
    values: Floats = np.linalg.eigh(spread.astype(np.float64))[1][:, ::-1][:, :count]
    return values


def _half(array: npt.NDArray[np.floating]) -> Floats:
    """Rounded to what float16 holds: the stages after must see the words as they are stored."""
    return np.ascontiguousarray(array.astype(np.float16).astype(np.float32))
