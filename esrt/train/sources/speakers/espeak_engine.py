"""espeak-ng's library as a program that speaks: requests on standard input, sound on standard output.

A program of its own, for the library ends its process now and then: it read a null pointer among its formants in three
of four runs of some 5,200 sentences in 21 languages. A request is a line of JSON: text, voice, speed, pitch,
pitch_range. An answer is a line with a rate in Hz and a count, then as many samples, int16; the rate is 0 where
espeak-ng does not know the voice.
"""

import ctypes
import json
import signal
import sys
from pathlib import Path

import espeakng_loader

if sys.platform == "win32":
    from _ctypes import FreeLibrary as close_library
else:
    from _ctypes import dlclose as close_library

_SYNCHRONOUS, _UTF8, _RATE, _PITCH, _RANGE = 2, 1, 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def say(text: str, voice: str, speed: int, pitch: int, pitch_range: int) -> tuple[int, bytes]:
    """The rate in Hz, 0 for a voice that is not known, and int16 samples."""
    # A fresh engine for each sentence (5 ms): it keeps the phase of its flutter in static variables, and with an old
    # one no sentence would sound the same twice.
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    chunks: list[bytes] = []

    def collect(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _CALLBACK(collect)
    rate = library.espeak_Initialize(_SYNCHRONOUS, 200, str(Path(espeakng_loader.get_data_path()).parent).encode(), 0)
    try:
        library.espeak_SetSynthCallback(callback)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            return 0, b""
        for parameter, value in ((_RATE, speed), (_PITCH, pitch), (_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
    finally:
        library.espeak_Terminate()
        close_library(library._handle)
    return rate, b"".join(chunks)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when its input does
    for line in sys.stdin.buffer:
        rate, samples = say(**json.loads(line))
        sys.stdout.buffer.write(b"%d %d\n" % (rate, len(samples) // 2) + samples)
        sys.stdout.buffer.flush()
