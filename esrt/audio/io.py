"""Any sound file -> 16 kHz mono float32, decoded by FFmpeg (through PyAV) packet by packet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
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
# Formats whose sound goes on without a gap: where time is missing, FFmpeg has left out what it could not read. Others
# may have gaps that mean nothing: a recording that was paused, a codec that does not send silence.
_GAPLESS = {"flac", "mp3", "ogg", "wav"}
_SHORTEST_GAP, _LONGEST_GAP = 0.1, 3600.0  # seconds; beyond these it is a timestamp that is wrong


class Sound:
    """A sound that is open: iterate, once, for its samples. Use it in a `with`, or call `close` when done.

    `seconds` is its length as the container says it, None where it does not; `damage` is what could not be decoded so
    far, None if nothing.
    """

    seconds: float | None
    damage: AudioError | None = None

    def __init__(self, audio: str | Path | IO[bytes]) -> None:
        """Open a file, or take an open binary one, which stays the caller's to close.

        Reads whatever FFmpeg reads (the sound of a video too) and raw `.g722`. Raises AudioError `audio_not_found`,
        `audio_empty` (no bytes), `audio_no_stream` (a picture, a silent film) or `audio_not_readable`.
        """
        path = Path(audio) if isinstance(audio, str | Path) else None
        self.name = str(path) if path is not None else "The audio"
        self._own = _open(path) if path is not None else None
        file = self._own if self._own is not None else audio
        # G.722 as telephones store it has no header that FFmpeg could know it by.
        raw = "g722" if path is not None and path.suffix.lower() == ".g722" else None
        try:
            if _is_empty(file):
                raise AudioError("audio_empty", f"{self.name} is empty (0 bytes): record or copy it again.")
            self._container = av.open(file, mode="r", format=raw, options=_ONLY_THIS_FILE, metadata_errors="replace")
        except _FFMPEG_ERRORS as error:
            self._close_own()
            raise AudioError("audio_not_readable", f"{self.name} is not a sound file that FFmpeg can read.") from error
        except AudioError:
            self._close_own()
            raise
        if not self._container.streams.audio:
            self.close()
            raise AudioError("audio_no_stream", f"{self.name} has no sound in it: name a file with an audio stream.")
        duration = self._container.duration  # microseconds, or nothing
        self.seconds = duration / av.time_base if duration is not None and duration > 0 else None

    def __iter__(self) -> Iterator[Samples]:
        """Float32 [k], 16 kHz, all channels averaged, within [-1, 1]; silence where damaged packets are left out.

        Raises AudioError, at the end, `audio_empty` if there was no sound, or `audio_not_readable` if most packets were
        damaged; that too at once where samples are not numbers.
        """
        count = 0
        for chunk in self._decode():
            if not np.isfinite(chunk).all():
                raise AudioError(
                    "audio_not_readable", f"{self.name} is damaged: it holds samples that are not numbers."
                )
            count += chunk.size
            yield np.clip(chunk, -1.0, 1.0, out=chunk)
        if not count:
            raise AudioError("audio_empty", f"{self.name} holds no sound: record or copy it again.")

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()
        self._close_own()

    def __enter__(self) -> Sound:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_own(self) -> None:
        if self._own is not None:
            self._own.close()

    def _decode(self) -> Iterator[Samples]:
        whole = damaged = heard = 0
        start: Any = self._container.start_time  # microseconds, or None, whatever its type says
        mixer, clock = _Mixer(), _Clock(None if start is None else start / av.time_base)
        packets = self._container.demux(self._container.streams.audio[0])
        while True:
            try:
                packet = next(packets, None)
            except _FFMPEG_ERRORS:  # what was read so far is still speech
                damaged += 1
                self.damage = self._damaged(f"it breaks off after {heard / SAMPLE_RATE:.0f} s")
                break
            if packet is None:
                break
            try:
                for frame in packet.decode():
                    if gap := clock.gap_before(frame):
                        if self._container.format.name in _GAPLESS:
                            self.damage = self._damaged(f"{gap:.1f} s are missing after {heard / SAMPLE_RATE:.0f} s")
                        heard += round(gap * SAMPLE_RATE)
                        yield from _silence(gap)
                    for chunk in mixer.push(frame):
                        heard += chunk.size
                        yield chunk
                whole += 1
            except _FFMPEG_ERRORS:
                damaged += 1
                self.damage = self._damaged(f"{damaged} of its packets cannot be decoded")
        yield from mixer.flush()
        if damaged > whole:
            raise AudioError("audio_not_readable", f"{self.name} is damaged: most of it cannot be decoded.")

    def _damaged(self, how: str) -> AudioError:
        return AudioError("audio_damaged", f"{self.name} is damaged ({how}), and what was said there is missing.")


def load(audio: str | Path | IO[bytes]) -> Samples:
    """The whole sound: float32 [n], 16 kHz, mono, within [-1, 1]. Raises AudioError as Sound and its iterator do."""
    with Sound(audio) as sound:
        return np.concatenate(list(sound))


def _open(path: Path) -> IO[bytes]:
    try:
        if not path.exists():
            raise AudioError("audio_not_found", f"{path} does not exist: check the path.")
        if not path.is_file():
            raise AudioError("audio_not_readable", f"{path} is not a file: name a sound file.")
        return path.open("rb")
    except OSError as error:
        raise AudioError("audio_not_readable", f"{path} cannot be read: {error.strerror or error}.") from error


def _is_empty(file: Any) -> bool:
    """Whether an open file ends where it begins; False for a pipe, which would lose what is read to find out."""
    if not file.seekable():
        return False
    place = file.tell()
    empty = not file.read(1)
    file.seek(place)
    return empty


class _Clock:
    """Finds time that is missing between frames, so that what follows keeps its place."""

    def __init__(self, start: float | None) -> None:
        """`start`: the second at which the file begins, maybe with a picture and no sound yet; None if unknown."""
        self._next = start

    def gap_before(self, frame: av.AudioFrame) -> float:
        """Seconds without sound before this frame; 0 where there is no gap worth the name, or no time."""
        begin = self._next
        if frame.pts is not None and frame.time_base is not None:
            begin = float(frame.pts * frame.time_base)
        if begin is None:
            return 0.0
        gap = begin - self._next if self._next is not None else 0.0
        self._next = begin + frame.samples / frame.sample_rate
        return gap if _SHORTEST_GAP < gap < _LONGEST_GAP else 0.0


def _silence(seconds: float) -> Iterator[Samples]:
    left = round(seconds * SAMPLE_RATE)
    while left > 0:
        yield np.zeros(min(left, SAMPLE_RATE), np.float32)
        left -= SAMPLE_RATE


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
            self._resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=SAMPLE_RATE)
        assert self._resampler is not None
        yield from map(_mono, self._resampler.resample(frame))

    def flush(self) -> Iterator[Samples]:
        if self._resampler is not None:
            yield from map(_mono, self._resampler.resample(None))


def _mono(frame: av.AudioFrame) -> Samples:
    # FFmpeg's own float downmix is louder than either channel (+3 dB) and would clip; the mean never is. Packed, as
    # PyAV reads beyond the frame where eight channels or more have a plane each.
    mono: Samples = frame.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(axis=1, dtype=np.float32)
    return mono
