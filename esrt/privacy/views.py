"""What an attacker holds of a clip: its sound, what Opus leaves of it, or the rows that a frame decodes to."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from esrt.audio import protect
from esrt.audio.formats import encoded
from esrt.audio.io import load
from esrt.audio.samples import Samples
from esrt.edge.encoder import Encoder
from esrt.errors import UsageError
from esrt.model.checkpoint import load_tables
from esrt.model.manifest import identity
from esrt.model.mel import LogMel
from esrt.privacy import kept
from esrt.wire.codecs import CODECS, Tables, check_codec, decode, encode

AUDIO, OPUS = "audio", "opus16"
DEFENCES = ("gain", "shift", "adversary")
Rows = npt.NDArray[np.float16]

_BINS, _STACK, _LONGEST = 80, 4, 300  # sound: log-mel frames of 40 ms, 12 s of them
_PLAIN = "bf16"


@dataclass(frozen=True)
class View:
    """AUDIO, OPUS, or a codec with defences before it: `rvq32+shift+gain`."""

    codec: str
    defences: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it is written."""
        return "+".join((self.codec, *self.defences))

    @property
    def plain(self) -> View:
        """What an attacker has who knows of neither defences nor codec."""
        return self if self.is_sound else View(_PLAIN)

    @property
    def is_sound(self) -> bool:
        """Whether these are no rows."""
        return self.codec in (AUDIO, OPUS)


def parse(text: str) -> View:
    """Raises UsageError `unknown_codec`, `unknown_defence`."""
    codec, *defences = text.split("+")
    if codec not in (AUDIO, OPUS):
        check_codec(codec, CODECS)
    wrong = [name for name in defences if name not in DEFENCES or codec in (AUDIO, OPUS)]
    if wrong:
        raise UsageError("unknown_defence", f"{wrong[0]!r} is no defence of {codec}: use {', '.join(DEFENCES)}.")
    return View(codec, tuple(name for name in DEFENCES if name in defences))


class Views:
    """All views of the same sounds. Rows are encoded once for each set of defences and kept in `folder`."""

    def __init__(self, sounds: Sequence[Samples], model: Path, adversary: Path | None, folder: Path, seed: int) -> None:
        """`model` and `adversary` are ready model folders; the latter was trained by the recipe esrt-270m-private."""
        self._sounds, self._folders, self._folder, self._seed = sounds, {False: model, True: adversary}, folder, seed
        self._coded: dict[View, Rows] = {}  # of the last view alone: the search in codebooks takes a while
        self._encoders: dict[Path, tuple[Encoder, Tables]] = {}
        self.key = hashlib.sha256(b"".join(sound.tobytes() for sound in sounds)).hexdigest()[:16]

    def __call__(self, view: View) -> Rows:
        """[clips, t, width]; rows of zeros stand for nothing.

        Raises UsageError `no_adversary` and `codec_not_in_model`.
        """
        if view.is_sound:
            change = opus if view.codec == OPUS else _same
            return self._cached(view.name, lambda: _mels(change(sound) for sound in self._bar(view.name)))
        folder = self._folders["adversary" in view.defences]
        if folder is None:
            raise UsageError("no_adversary", f"{view.name} needs --adversary: a model trained by esrt-270m-private.")
        if folder not in self._encoders:
            self._encoders[folder] = Encoder(folder / "edge.onnx"), load_tables(folder)
        encoder, tables = self._encoders[folder]
        check_codec(view.codec, tables.codecs)
        before = tuple(name for name in view.defences if name != "adversary")
        name = "+".join((identity(folder), *before))
        rows = self._cached(name, lambda: self._encode(encoder, before))
        if view not in self._coded:
            coded = [decode(encode(one.astype(np.float32), view.codec, tables, bytes(8)), tables) for one in rows]
            self._coded = {view: np.stack(coded).astype(np.float16)}
        return self._coded[view]

    def made_by(self, view: View) -> str:
        """What a view's figures hang on, besides how attackers are trained and what is true of the clips."""
        # The ignorant attacker trained on the plain model's rows, whatever the adversary's are.
        folders = () if view.is_sound else (self._folders[False], self._folders["adversary" in view.defences])
        return "-".join([view.name, self.key, *(identity(folder) for folder in dict.fromkeys(folders) if folder)])

    def sounds(self, view: View) -> list[Samples]:
        """What is heard of a view that is sound."""
        return [opus(sound) if view.codec == OPUS else sound for sound in self._sounds]

    def _encode(self, encoder: Encoder, defences: tuple[str, ...]) -> Rows:
        rng = np.random.default_rng(self._seed)
        made = []
        for sound in self._bar("+".join(("rows", *defences))):
            if "gain" in defences:
                sound = protect.gain(sound, rng)
            if "shift" in defences:
                sound = protect.shift(sound, rng)
            made.append(encoder.encode(sound).astype(np.float16))
        return np.stack(made)

    def _cached(self, name: str, make: Callable[[], Rows]) -> Rows:
        found: Rows = kept.array(self._folder / f"{name}-{self.key}.npy", make)
        return found

    def _bar(self, what: str) -> tqdm[Samples]:
        return tqdm(self._sounds, desc=what, unit="clip", disable=None)


def opus(samples: Samples) -> Samples:
    """What is left after Opus at 16 kb/s: float32 [n] -> about [n]."""
    return load(io.BytesIO(encoded(samples, "ogg", "libopus", ({}, {}), 16_000)))


def _same(sound: Samples) -> Samples:
    return sound


def _mels(sounds: Iterable[Samples]) -> Rows:
    """Log-mel frames, _STACK in one row, padded by zeros: [clips, _LONGEST, _STACK * _BINS]."""
    mel = LogMel(_BINS)
    return np.stack([_mel(mel, sound) for sound in sounds])


def _mel(mel: LogMel, sound: Samples) -> Rows:
    frames = mel(torch.from_numpy(sound)[None])[0].T.numpy()
    frames = frames[: len(frames) // _STACK * _STACK].reshape(-1, _STACK * _BINS)[:_LONGEST]
    # Whisper's log-mel knows no level: the sound does.
    loud = np.float32(np.log10(max(float(np.abs(sound).max()), 1e-6)))
    return np.pad(frames + loud, ((0, _LONGEST - len(frames)), (0, 0))).astype(np.float16)
