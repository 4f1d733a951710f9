"""The frozen encoder's frames, computed once and kept on disk: training reads them instead of encoding again."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from esrt.audio.io import Sound
from esrt.audio.padding import pad, padded_length
from esrt.config import FRAME_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, ModelConfig
from esrt.errors import AudioError, UsageError
from esrt.model.mel import LogMel
from esrt.model.whisper_encoder import WhisperEncoder
from esrt.train.encoding import encode, encoding_type
from esrt.train.manifest import SPOKEN_ON_THE_FLY, is_there
from esrt.train.sound import sound

SHORTEST = 4800  # samples, 0.3 s: shorter clips teach nothing
_MOST = WINDOW_SAMPLES // FRAME_SAMPLES
_RESERVE = 5e9  # bytes of disk for checkpoints and the model
_HERE = "./"  # before the name of a sound that lies below the cache's own folder


class Features:
    """Frames of clips by audio path: float16 [t, width] each, one after the other in one file, with an index beside.

    A clip whose sound has changed since counts as never encoded; one whose sound is gone stays. Sound below the folder
    beside which this one lies is named from there, so that both may be moved together.
    """

    def __init__(self, folder: Path, width: int, context: Literal["speech", "full"] = "speech") -> None:
        """`context` is that of config.ModelConfig.

        Raises UsageError `features_differ` for another encoder's frames, and `features_not_writable`.
        """
        self._root = folder.resolve().parent
        self.width, self.context = width, context
        self.silent: frozenset[str] = frozenset()  # what has no sound has no frames here
        self.index: dict[str, tuple[int, int]] = {}
        self._folder, self._data, self._lines = folder, folder / "frames.f16", folder / "index.jsonl"
        self._encoder = folder / "encoder.json"  # what the frames are of
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._data.touch()
            self._lines.touch()
        except OSError as error:
            text = f"{folder} cannot keep the encoder's frames ({error.strerror}): use another folder of data."
            raise UsageError("features_not_writable", text) from error
        self._read()

    def _read(self) -> None:
        self.index.clear()
        stamps: dict[str, list[int]] = {}
        # Where the next clip goes: what lies behind was left by an interrupted run, and is written over.
        self._frames = self._index_bytes = 0
        lines = self._lines.read_bytes().splitlines(keepends=True)
        # After a power cut there may be lines without frames; by the size of other frames nothing is to be told.
        ours = self._described().items() <= self._known().items()
        there = self._data.stat().st_size // (2 * self.width) if ours else sys.maxsize
        for line in lines:
            if not line.endswith(b"\n"):
                break
            audio, start, frames, *stamp = json.loads(line)
            if start + frames > there:
                break
            if audio.startswith(_HERE):
                audio = str(self._root / audio)
            self.index[audio], stamps[audio] = (start, frames), stamp
            self._frames = start + frames
            self._index_bytes += len(line)
        for audio, stamp in stamps.items():
            if stamp and _stamp(audio) not in ([], stamp):
                del self.index[audio]
        if self._frames and not self._fits():
            raise self._differ()

    def _differ(self) -> UsageError:
        return UsageError(
            "features_differ",
            f"{self._folder} has frames of another encoder than this one of width {self.width} and context "
            f"{self.context!r}: move it away, or use another folder of data.",
        )

    def _known(self) -> dict[str, object]:
        """What is written down of the encoder whose frames these are."""
        return dict(json.loads(self._encoder.read_text(encoding="utf-8"))) if self._encoder.is_file() else {}

    def _fits(self) -> bool:
        """Whether the frames are of an encoder of our shape; where no file says so, whether their size is right."""
        if known := self._known():
            return self._described().items() <= known.items()
        behind = self._data.stat().st_size // (2 * self.width) - self._frames
        return 0 <= behind <= _MOST  # an interrupted run leaves one clip at most

    def _described(self) -> dict[str, object]:
        return {"width": self.width, "context": self.context}

    def check(self, encoder: Mapping[str, Tensor]) -> str:
        """The digest of an encoder's weights. Raises UsageError `features_differ` where the frames are another's.

        In float16, as models are saved: what was saved and read again is the same encoder.
        """
        digest = hashlib.blake2b(digest_size=16)
        for _, weight in sorted(encoder.items()):
            digest.update(weight.half().cpu().numpy().tobytes())
        if self._frames and self._known().get("weights", digest.hexdigest()) != digest.hexdigest():
            raise self._differ()
        return digest.hexdigest()

    @property
    def lengths(self) -> dict[str, int]:
        """Audio -> how many frames it has."""
        return {audio: frames for audio, (_, frames) in self.index.items()}

    def of(self, audios: Sequence[str]) -> list[np.ndarray]:
        """float16 [t, width] of each clip."""
        return [self.get(audio) for audio in audios]

    def get(self, audio: str) -> np.ndarray:
        """float16 [t, width]; a KeyError names a clip that was never encoded."""
        start, frames = self.index[audio]
        place = start * self.width * 2
        return np.fromfile(self._data, np.float16, frames * self.width, offset=place).reshape(frames, self.width)

    def append(self, audio: str, frames: np.ndarray, stamp: Sequence[int] = ()) -> None:
        """Keeps the frames [t, width] of a clip; t = 0 says that it has none. `stamp` tells when its sound changes."""
        below = Path(audio).is_relative_to(self._root)
        name = _HERE + Path(audio).relative_to(self._root).as_posix() if below else audio
        line = json.dumps([name, self._frames, len(frames), *stamp]).encode() + b"\n"
        _write_at(self._data, self._frames * self.width * 2, frames.astype(np.float16).tobytes())
        _write_at(self._lines, self._index_bytes, line)
        self.index[audio] = (self._frames, len(frames))
        self._frames += len(frames)
        self._index_bytes += len(line)

    def fill(self, audios: Iterable[str], config: ModelConfig, encoder: WhisperEncoder) -> None:
        """Encodes what is missing where the encoder is, in `encoding_type`; stops anywhere, goes on from there.

        A second command that fills the same folder waits, and encodes only what the first one did not. A clip of less
        than 0.3 s or more than 30 s has no frames. Raises UsageError `disk_full` where they cannot fit, and `check`'s;
        AudioError `audio_not_found` where a sound is missing.
        """
        with FileLock(self._folder / ".lock"):
            self._read()
            described = self._described() | {"weights": self.check(encoder.state_dict())}
            beside = self._encoder.with_suffix(".part")
            beside.write_text(json.dumps(described), encoding="utf-8")
            beside.replace(self._encoder)
            missing = self.missing(audios)
            if (needed := self._needed(missing)) > (free := self._free()):
                raise UsageError(
                    "disk_full",
                    f"Frames of {len(missing):,} clips take {needed / 1e9:,.0f} GB; {self._folder} has "
                    f"{free / 1e9:,.0f} GB left: choose fewer clips, or move the folder of data to a larger disk.",
                )
            _are_there(missing)
            self._fill(missing, config, encoder)

    def has_room(self, audios: Iterable[str]) -> bool:
        """Whether the disk has room for the frames of those clips that have none yet, and for a run's checkpoints."""
        missing = self.missing(audios)
        return not missing or self._needed(missing) + _RESERVE <= self._free()

    def missing(self, audios: Iterable[str]) -> list[str]:
        """Those that have no frames here, each once."""
        return [audio for audio in dict.fromkeys(audios) if audio not in self.index]

    def _free(self) -> int:
        return shutil.disk_usage(self._folder).free

    def _needed(self, missing: Sequence[str]) -> int:
        """Bytes that the frames of clips take, at most: of speech alone it is counted only where that decides."""
        most = len(missing) * _MOST * self.width * 2
        if self.context == "full" or most + _RESERVE <= self._free():
            return most
        return sum(padded_counts(missing, self.context).values()) * self.width * 2

    def _fill(self, missing: Sequence[str], config: ModelConfig, encoder: WhisperEncoder) -> None:
        kind = encoding_type(encoder.conv1.weight.device)
        encoder, mel = copy.deepcopy(encoder).to(kind).eval(), LogMel(config.encoder.mel_bins)
        pool = 256  # clips sorted by length at a time
        with tqdm(total=len(missing), desc="encoding", unit="clip", disable=None) as bar:
            for first in range(0, len(missing), pool):
                clips, waves = [], []
                for audio in missing[first : first + pool]:
                    stamp = _stamp(audio)  # before it is read: a change meanwhile shows
                    samples = sound(audio)
                    if not SHORTEST <= len(samples) <= WINDOW_SAMPLES:
                        self.append(audio, np.zeros((0, self.width)), stamp)
                        bar.update(1)
                    else:
                        clips.append((audio, stamp))
                        waves.append(pad(samples, self.context))
                for place, rows in encode(waves, mel, encoder):
                    self.append(clips[place][0], rows, clips[place][1])
                    bar.update(1)


def _are_there(audios: Iterable[str]) -> None:
    """Looks for all sounds at once, before the hours that the first ones take."""
    gone = [audio for audio in audios if not is_there(audio)]
    if gone:
        more = f" (and {len(gone) - 1:,} more)" if gone[1:] else ""
        raise AudioError("audio_not_found", f"{gone[0]}{more} does not exist: check the manifest's paths.")


def _stamp(audio: str) -> list[int]:
    """Size and time of a sound file; nothing of one that is gone, or that is spoken anew from its recipe."""
    try:
        found = Path(audio).stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _sample_counts(audios: Iterable[str]) -> Iterator[tuple[str, int]]:
    """About how many samples each sound has, as its file says; 0 of one that is too short, too long or no sound."""
    for audio in tqdm(list(audios), desc="measuring", unit="clip", disable=None):
        try:
            if audio.startswith(SPOKEN_ON_THE_FLY):
                count = len(sound(audio))
            else:
                with Sound(audio) as file:
                    count = round(file.seconds * SAMPLE_RATE) if file.seconds else len(sound(audio))
        except AudioError:
            count = 0
        yield audio, count if SHORTEST <= count <= WINDOW_SAMPLES else 0


def frame_counts(audios: Iterable[str]) -> dict[str, int]:
    """About how many frames each sound has; 0 of one that is too short, too long or no sound."""
    return {audio: count // FRAME_SAMPLES for audio, count in _sample_counts(audios)}


def padded_counts(audios: Iterable[str], context: Literal["speech", "full"]) -> dict[str, int]:
    """As `frame_counts`, with the silence that `audio.padding.pad` adds: how many frames the cache would have."""
    return {audio: count and padded_length(count, context) // FRAME_SAMPLES for audio, count in _sample_counts(audios)}


class Live:
    """Frames that are computed anew each time a batch asks for them, but for those that are cached.

    In the precision of the encoder, and where it is.
    """

    def __init__(self, cache: Features, audios: Iterable[str], config: ModelConfig, encoder: WhisperEncoder) -> None:
        self._cache, self._encoder = cache, encoder
        self._mel = LogMel(config.encoder.mel_bins).to(encoder.conv1.weight.device)
        self.width, self.silent = cache.width, set[str]()
        missing = cache.missing(audios)
        _are_there(missing)
        self.lengths = {**padded_counts(missing, cache.context), **cache.lengths}

    def of(self, audios: Sequence[str]) -> list[np.ndarray]:
        """float16 [t, width] of each clip."""
        unknown = self._cache.missing(audios)
        sounds = [sound(audio)[:WINDOW_SAMPLES] for audio in unknown]
        self.silent.update(audio for audio, samples in zip(unknown, sounds, strict=True) if not len(samples))
        waves = [pad(samples, self._cache.context) for samples in sounds]
        made = {unknown[place]: rows for place, rows in encode(waves, self._mel, self._encoder)}
        return [made[audio] if audio in made else self._cache.get(audio) for audio in audios]


def _write_at(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.truncate(place)
        file.seek(place)
        file.write(data)
