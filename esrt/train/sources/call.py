"""Speech as the far end of a call hears it: through the codec of a mobile phone, a landline or an internet call."""

from __future__ import annotations

import random

import av
import numpy as np

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE
from esrt.train.sources.pcm import frame, resampled

# Encoder, decoder, Hz and bits a second: AMR narrow band, G.711, Opus.
CODECS = (
    ("libopencore_amrnb", "amrnb", 8_000, (4_750, 5_900, 7_400, 12_200)),
    ("pcm_mulaw", "pcm_mulaw", 8_000, (64_000,)),
    ("libopus", "libopus", SAMPLE_RATE, (8_000, 12_000, 16_000)),
)


def any_call(samples: Samples, rng: random.Random) -> Samples:
    """`call` with a codec and a rate drawn at random."""
    encoder, decoder, rate, bits = rng.choice(CODECS)
    return call(samples, encoder, decoder, rate, rng.choice(bits))


def call(samples: Samples, encoder: str, decoder: str, rate: int, bits: int) -> Samples:
    """float32 [n] at 16 kHz, encoded and decoded by FFmpeg's codecs -> [n]; late by 5 to 7 ms, as calls are."""
    if not len(samples):
        return samples
    sender, receiver = av.CodecContext.create(encoder, "w"), av.CodecContext.create(decoder, "r")
    assert isinstance(sender, av.AudioCodecContext) and isinstance(receiver, av.AudioCodecContext)
    for side in (sender, receiver):
        side.sample_rate, side.layout = rate, "mono"
    sender.format, sender.bit_rate = "s16", bits
    sender.open()
    said = resampled([frame(samples, SAMPLE_RATE)], "s16", rate, sender.frame_size or rate // 50)
    packets = [packet for part in (*said, None) for packet in sender.encode(part)]
    parts = [part for packet in packets for part in receiver.decode(packet)]
    heard = [part.to_ndarray()[0] for part in resampled(parts, "flt", SAMPLE_RATE)]
    return np.concatenate([*heard, np.zeros(len(samples), np.float32)])[: len(samples)]
