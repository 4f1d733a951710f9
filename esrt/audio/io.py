"""Any sound file -> 16 kHz mono float32, decoded by FFmpeg (through PyAV) packet by packet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import av
import av.error
import numpy as np

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE
from esrt.errors import AudioError

# Some "sound files" are playlists that name other files or addresses: FFmpeg may read the open file and no other.
_ONLY_THIS_FILE = {"protocol_whitelist": "none"}
# What bytes that are not what they claim to be make PyAV raise: ValueErrors, OSErrors and RuntimeErrors among them.
_FFMPEG_ERRORS = (av.error.FFmpegError, ValueError, OSError, RuntimeError)


def load(path: str | Path) -> Samples:
    """The sound in `path`: float32 [n], 16 kHz, all channels averaged, within [-1, 1].

    Reads whatever FFmpeg reads (the sound of a video too) and raw `.g722`. Raises AudioError `audio_not_found`,
    `audio_empty` (no bytes, or no sound in them), `audio_no_stream` (a picture, a silent film) or `audio_not_readable`.
    """
    path = Path(path)
    if not path.exists():
        raise AudioError("audio_not_found", f"{path} does not exist: check the path.")
    if not path.is_file():
        raise AudioError("audio_not_readable", f"{path} is not a file: name a sound file.")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise AudioError("audio_empty", f"{path} is empty (0 bytes): record or copy it again.")
            file.seek(0)
            chunks = list(_decode(file, path))
    except OSError as error:
        raise AudioError("audio_not_readable", f"{path} cannot be read: {error.strerror or error}.") from error
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    if not samples.size:
        raise AudioError("audio_empty", f"{path} holds no sound: record or copy it again.")
    if not np.isfinite(samples).all():
        raise AudioError("audio_not_readable", f"{path} is damaged: it holds samples that are not numbers.")
    return np.clip(samples, -1.0, 1.0, out=samples)


def _decode(file: IO[bytes], path: Path) -> Iterator[Samples]:
    """Float32 [k] chunks at 16 kHz; damaged packets are skipped as long as most packets are whole."""
    # G.722 as telephones store it has no header that FFmpeg could know it by.
    raw = "g722" if path.suffix.lower() == ".g722" else None
    try:
        container = av.open(file, mode="r", format=raw, options=_ONLY_THIS_FILE, metadata_errors="replace")
    except _FFMPEG_ERRORS as error:
        raise AudioError("audio_not_readable", f"{path} is not a sound file that FFmpeg can read.") from error
    with container:
        if not container.streams.audio:
            raise AudioError("audio_no_stream", f"{path} has no sound in it: name a file with an audio stream.")
        whole = damaged = 0
        mixer = _Mixer()
        packets = container.demux(container.streams.audio[0])
        while True:
            try:
                packet = next(packets, None)
            except _FFMPEG_ERRORS:  # the container breaks off here: what was read so far is still speech
                damaged += 1
                break
            if packet is None:
                break
            try:
                for frame in packet.decode():
                    yield from mixer.push(frame)
                whole += 1
            except _FFMPEG_ERRORS:
                damaged += 1
        yield from mixer.flush()
        if damaged > whole:
            raise AudioError("audio_not_readable", f"{path} is damaged: most of it cannot be decoded.")


class _Mixer:
    """Frames of any rate, layout and format -> mono chunks at 16 kHz. A stream may change them half-way (MP3 does)."""

    def __init__(self) -> None:
        self._setup: tuple[Any, ...] | None = None
        self._resampler: av.AudioResampler | None = None

    def push(self, frame: av.AudioFrame) -> Iterator[Samples]:
        setup = (frame.format.name, frame.layout.name, frame.sample_rate)
        if setup != self._setup:
            yield from self.flush()
            self._setup = setup
            self._resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=SAMPLE_RATE)
        assert self._resampler is not None
        yield from map(_mono, self._resampler.resample(frame))

    def flush(self) -> Iterator[Samples]:
        if self._resampler is not None:
            yield from map(_mono, self._resampler.resample(None))


def _mono(frame: av.AudioFrame) -> Samples:
    # FFmpeg's own float downmix is louder than either channel (+3 dB) and would clip; the mean never is.
    mono: Samples = frame.to_ndarray().mean(axis=0, dtype=np.float32)
    return mono
