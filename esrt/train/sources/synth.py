"""Speech from text: espeak-ng through its own library (`espeakng-loader`), with many voices, and light disturbances."""

from __future__ import annotations

import ctypes
import random
import wave
from pathlib import Path

import av
import espeakng_loader
import numpy as np

from esrt.config import SAMPLE_RATE
from esrt.errors import UsageError

ESPEAK_VOICES = {
    "eng": ("en", "en-us", "en-gb-scotland", "en-us-nyc"), "spa": ("es", "es-419"), "fra": ("fr", "fr-be"),
    "ita": ("it",), "rus": ("ru",), "ces": ("cs",), "nld": ("nl",), "deu": ("de",), "pol": ("pl",),
    "por": ("pt", "pt-br"), "swe": ("sv",),
}  # fmt: skip
_VARIANTS = (
    "", "+f1", "+f2", "+f3", "+f4", "+f5", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8",
    "+Andy", "+Annie", "+belinda", "+Denis", "+Gene", "+Jacky", "+Lee", "+linda", "+steph", "+UniRobot",
)  # fmt: skip
_SYNCHRONOUS, _UTF8, _RATE, _PITCH, _RANGE = 2, 1, 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Speaker:
    """One espeak-ng engine of this process: `say` gives float32 [n] at 16 kHz."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(Path(espeakng_loader.get_data_path()).parent).encode()
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 200, data, 0)
        self._chunks: list[np.ndarray] = []

        def collect(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
            if samples and count:
                self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        self._callback = _CALLBACK(collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, speed: int, pitch: int, pitch_range: int) -> np.ndarray:
        """`speed` in words a minute (80 to 450), `pitch` and `pitch_range` 0 to 100."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UsageError("unknown_voice", f"espeak-ng has no voice {voice!r}; `espeak-ng --voices` lists them.")
        for parameter, value in ((_RATE, speed), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        self._chunks.clear()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        spoken = np.concatenate([*self._chunks, np.zeros(1, np.int16)])
        return _resample(spoken, self._rate).astype(np.float32) / 32768


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
    return np.concatenate([part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))])


def disturb(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """Gain, and at random: white or brown noise (10 to 40 dB), telephone band, a short echo. float32 [n] -> [n]."""
    noise_rng = np.random.default_rng(rng.getrandbits(32))
    out = samples / max(float(np.abs(samples).max()), 1e-4) * rng.uniform(0.1, 0.95)
    if rng.random() < 0.3:
        spectrum = np.fft.rfft(out)
        hertz = np.fft.rfftfreq(len(out), 1 / SAMPLE_RATE)
        spectrum[(hertz < 200) | (hertz > rng.uniform(3400, 5000))] *= 0.02
        out = np.fft.irfft(spectrum, len(out))
    if rng.random() < 0.3:
        delay = rng.randint(200, 1600)
        echo = np.zeros_like(out)
        echo[delay:] = out[:-delay] if len(out) > delay else 0
        out = out + rng.uniform(0.1, 0.4) * echo
    if rng.random() < 0.5:
        noise = noise_rng.standard_normal(len(out))
        if rng.random() < 0.5:
            noise = np.cumsum(noise)
            noise -= np.convolve(noise, np.ones(800) / 800, "same")
        loudness = float(np.sqrt(np.mean(out**2) / max(float(np.mean(noise**2)), 1e-12)))
        out = out + noise * loudness * 10 ** (-rng.uniform(10, 40) / 20)
    return np.clip(out, -1, 1).astype(np.float32)


def random_voice(language: str, rng: random.Random) -> dict[str, str | int]:
    """Keyword arguments of `Speaker.say` for one voice drawn at random."""
    return {
        "voice": rng.choice(ESPEAK_VOICES[language]) + rng.choice(_VARIANTS),
        "speed": rng.randint(125, 205),
        "pitch": rng.randint(25, 75),
        "pitch_range": rng.randint(30, 70),
    }


def write_wav(path: Path, samples: np.ndarray) -> None:
    """float32 [n] in [-1, 1] -> 16-bit mono WAV at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
