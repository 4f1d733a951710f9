"""A clip as others send it: WAV, FLAC and Opus, by the real encoders of FFmpeg, each as small as its container lets it.

Everything begins at the same 16-bit samples, so WAV and FLAC bring to a cloud exactly what a device hears.
"""

from __future__ import annotations

import io
from typing import Any, TypeAlias

import av
import numpy as np

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE

OPUS = (24, 16, 12, 6)
"""kb/s."""

# FFmpeg's options of a container and of an encoder. The longest pages (microseconds) and frames (ms) cost the fewest
# bytes, and no container says who wrote it.
Options: TypeAlias = tuple[dict[str, str], dict[str, str]]
_WAV: Options = {"fflags": "bitexact"}, {}
_FLAC = {"fflags": "bitexact", "metadata_header_padding": "0"}, {"compression_level": "12"}
_OGG = {"fflags": "bitexact", "page_duration": "30000000"}, {"application": "voip", "frame_duration": "60"}
_LIVE: Options = {"fflags": "bitexact"}, {"application": "voip"}


def rounded(samples: Samples) -> Samples:
    """float32 [n] within [-1, 1] -> the same as 16-bit PCM has it."""
    return _pcm(samples).astype(np.float32) / np.float32(32768)


def wav(samples: Samples) -> bytes:
    """float32 [n], 16 kHz -> 16-bit PCM with a head of 44 bytes."""
    return encoded(samples, "wav", "pcm_s16le", _WAV)


def flac(samples: Samples) -> bytes:
    """float32 [n], 16 kHz -> FLAC, 16 bit, FFmpeg's highest level."""
    return encoded(samples, "flac", "flac", _FLAC)


def opus(samples: Samples, kilobits: int, live: bool = False) -> bytes:
    """float32 [n], 16 kHz -> Ogg Opus at `kilobits` kb/s: libopus for speech, variable rate.

    As small as Ogg gets: frames of 60 ms in pages of up to 30 s. `live`: 20 ms and 1 s, as FFmpeg does by itself.
    """
    return encoded(samples, "ogg", "libopus", _LIVE if live else _OGG, 1000 * kilobits)


def _pcm(samples: Samples) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def encoded(samples: Samples, container: str, codec: str, options: Options, rate: int | None = None) -> bytes:
    """float32 [n], 16 kHz -> FFmpeg's `codec` in its `container`, at `rate` bits a second where it has one."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options[0]) as output:
        stream: Any = output.add_stream(codec, rate=SAMPLE_RATE, layout="mono", options=options[1])
        if rate is not None:
            stream.bit_rate = rate
        frame = av.AudioFrame.from_ndarray(_pcm(samples)[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        output.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()
