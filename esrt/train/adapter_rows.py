"""What a trained model's adapter makes of training clips, and how its folder gets what is fitted on that."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from esrt.config import ModelConfig
from esrt.errors import UsageError
from esrt.hub import is_ready
from esrt.model import checkpoint, manifest
from esrt.model.qformer import QFormer
from esrt.train.features import Features
from esrt.train.setup import cached_frames, read_whisper

_BATCH = 16


def of(folder: Path, data: Path, audios: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]:
    """`batches` of clips by the adapter of the delta folder; `data`/features caches their frames. Raises ModelError."""
    config = ModelConfig.load(folder / "config.json")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = cached_frames(data / "features", audios, config, read_whisper(config), device)
    return batches(load_adapter(folder, config).to(device), features, audios)


def load_adapter(folder: Path, config: ModelConfig) -> QFormer:
    """The adapter as the device runs it."""
    adapter = QFormer(config.adapter, config.encoder.width)
    adapter.load_state_dict(checkpoint.read_state(folder / "adapter.safetensors"))
    return adapter.eval()


def batches(adapter: QFormer, features: Features, audios: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]:
    """What the adapter makes of clips whose frames are cached: some of them and their rows float32 [n, queries, width],
    shortest first; empty ones left out.
    """
    lengths = {audio: features.index[audio][1] for audio in audios}
    heard = sorted((audio for audio in audios if lengths[audio]), key=lengths.__getitem__)
    device = adapter.queries.device
    for first in tqdm(range(0, len(heard), _BATCH), desc="rows", disable=None):
        some = heard[first : first + _BATCH]
        batch = [torch.from_numpy(features.get(audio).astype(np.float32)) for audio in some]
        frames = pad_sequence(batch, batch_first=True).to(device)
        counts = torch.tensor([len(each) for each in batch], device=device)
        with torch.inference_mode():
            yield some, adapter(frames, counts)


@contextmanager
def renewed(folder: Path) -> Iterator[Path]:
    """A copy of a delta folder, which takes its place when the block ends without an error.

    It is made before the block: hours of work must not end at a folder that nobody may write. Raises UsageError
    `model_is_built` for a folder that was made of another.
    """
    if is_ready(folder):
        raise UsageError("model_is_built", f"{folder} was built from another folder: name the one that training made.")
    with manifest.whole_folder(folder) as work:
        shutil.copytree(folder, work, ignore=shutil.ignore_patterns(manifest.MANIFEST), dirs_exist_ok=True)
        yield work
