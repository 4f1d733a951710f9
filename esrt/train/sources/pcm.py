"""Samples as FFmpeg takes them, and at another rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import av
import numpy as np

from esrt.audio.samples import Samples


def frame(samples: Samples, rate: int) -> av.AudioFrame:
    """float32 [n] at `rate` Hz -> one frame of them."""
    made = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32)[None], format="flt", layout="mono")
    made.sample_rate = rate
    return made


def resampled(
    frames: Iterable[av.AudioFrame], kind: str, rate: int, size: int | None = None
) -> Iterator[av.AudioFrame]:
    """One sound's frames -> mono frames of FFmpeg's format `kind` at `rate` Hz, `size` samples each, to the end."""
    resampler = av.AudioResampler(kind, "mono", rate, frame_size=size)
    for one in frames:
        yield from resampler.resample(one)
    yield from resampler.resample(None)
