"""What speech goes through before a model hears it: throat, pace, distance, room, telephone, noise, a call."""

from __future__ import annotations

import random

import av
import av.filter
import numpy as np

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE
from esrt.train.sources.call import any_call
from esrt.train.sources.pcm import frame, resampled

WINDOW, HOP = 512, 128  # samples of a short spectrum (32 ms), and from one to the next
LIFTER = 26  # cepstral coefficients of an envelope: 1.6 ms, below the period of a voice of 400 Hz (2.5 ms)


def disturb(samples: Samples, rng: random.Random) -> Samples:
    """float32 [n] at 16 kHz -> [m] within [-1, 1].

    Always another loudness; at random another speed (m is n / 1.1 to n / 0.9), a room, the band of a telephone, white
    or brown noise (10 to 40 dB below the speech), the codec of a call.
    """
    if not len(samples):
        return samples
    noise_rng = np.random.default_rng(rng.getrandbits(32))
    if rng.random() < 0.3:
        samples = resample(samples, round(SAMPLE_RATE * rng.uniform(0.9, 1.1)))
    out = samples / max(float(np.abs(samples).max()), 1e-4) * rng.uniform(0.1, 0.95)
    if rng.random() < 0.3:
        out = reverberate(out, rng.uniform(0.15, 0.8), rng.uniform(-15, 0), noise_rng)
    if rng.random() < 0.3:
        out = telephone(out, rng.uniform(3400, 5000))
    if rng.random() < 0.5:
        noise = noise_rng.standard_normal(len(out))
        if rng.random() < 0.5:
            noise = np.cumsum(noise)
            noise -= np.convolve(noise, np.ones(800) / 800, "same")[: len(noise)]
        out = out + noise * _louder(out, noise) * 10 ** (-rng.uniform(10, 40) / 20)
    out = np.clip(out, -1, 1).astype(np.float32)
    if rng.random() < 0.2:
        out = np.clip(any_call(out, rng), -1, 1)
    return out


def revoice(samples: Samples, height: float, pace: float) -> Samples:
    """float32 [n] at 16 kHz -> about [n / pace]: all frequencies `height` times as high, spoken `pace` times as fast.

    `pace / height` must lie within 0.5 and 2.
    """
    if not len(samples):  # FFmpeg asks for all memory
        return samples
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_abuffer(sample_rate=SAMPLE_RATE, format="flt", layout="mono"),
        graph.add("asetrate", str(round(SAMPLE_RATE * height))),
        graph.add("aresample", str(SAMPLE_RATE)),
        graph.add("atempo", f"{pace / height:.6f}"),
        graph.add("aformat", "sample_fmts=flt"),
        graph.add("abuffersink"),
    ).configure()
    graph.push(frame(samples, SAMPLE_RATE))
    graph.push(None)
    parts = [np.zeros(0, np.float32)]
    while True:
        try:
            parts.append(graph.pull().to_ndarray()[0])
        except (av.EOFError, av.BlockingIOError):
            return np.concatenate(parts)


def resonate(samples: Samples, ratio: float) -> Samples:
    """float32 [n] -> [n]: the throat's resonances `ratio` times as high, the pitch as it was.

    Short spectra are divided by their envelope, whose cepstrum ends before the pitch's, and given the moved one.
    """
    if not len(samples):
        return samples
    window = np.hanning(WINDOW + 1)[:-1] ** 0.5
    padded = np.pad(samples, WINDOW)
    spectra = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * window)
    cepstra = np.fft.irfft(np.log(np.abs(spectra) + 1e-5))[:, 1:LIFTER]
    bins = np.arange(spectra.shape[1])
    waves = 2 * np.pi / WINDOW * np.arange(1, LIFTER)[:, None]  # an envelope is a sum of these
    moved = np.cos(waves * np.minimum(bins / ratio, bins[-1])) - np.cos(waves * bins)
    spectra *= np.exp(np.clip(2 * cepstra @ moved, -3, 3))
    out = np.zeros(len(padded))
    for index, piece in enumerate(np.fft.irfft(spectra) * window):
        out[index * HOP : index * HOP + WINDOW] += piece
    out = out[WINDOW:-WINDOW]
    return (out * _louder(samples, out)).astype(np.float32)


def recast(samples: Samples, throat: float, pitch: float, pace: float) -> Samples:
    """float32 [n] at 16 kHz -> about [n / pace]: resonances `throat` times as high, the pitch `pitch` times
    that, as people of one size speak at many; spoken `pace` times as fast. As `revoice`, of `throat * pitch`.
    """
    return resonate(revoice(samples, throat * pitch, pace), 1 / pitch)


def _louder(samples: np.ndarray, other: np.ndarray) -> float:
    """How many times as loud as `other` (root of the mean square)."""
    return float(np.sqrt(np.mean(samples**2) / max(float(np.mean(other**2)), 1e-12)))


def reverberate(samples: Samples, seconds: float, level: float, rng: np.random.Generator) -> Samples:
    """A room: the sound itself, then its echoes as noise that has died away by 60 dB after `seconds`. [n] -> [n].

    `level` is the energy of all echoes beside the direct sound's, in dB.
    """
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response[: SAMPLE_RATE // 500] = 0  # the first wall is a third of a metre away: 2 ms
    response *= 10 ** (level / 20) / np.linalg.norm(response)
    response[0] = 1
    size = len(samples) + len(response)
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)
    return wet[: len(samples)].astype(np.float32)


def telephone(samples: Samples, highest: float) -> Samples:
    """Only what lies between 200 Hz and `highest` Hz; the rest is 34 dB lower. [n] -> [n]."""
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    spectrum[(hertz < 200) | (hertz > highest)] *= 0.02
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def resample(samples: Samples, rate: int) -> Samples:
    """float32 [n] at `rate` Hz -> about [n * 16000 / rate] at 16 kHz."""
    parts = resampled([frame(samples, rate)], "flt", SAMPLE_RATE)
    return np.concatenate([part.to_ndarray()[0] for part in parts] or [np.zeros(0, np.float32)])
