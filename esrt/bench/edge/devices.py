"""What devices do, for processes of their own: each import is made where it is used, so that it is counted there."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esrt.bench.edge.child import peak_memory

FASTER_WHISPER = ("av", "huggingface_hub", "onnxruntime", "tokenizers", "tqdm")
CLIPS = 20
MEL = (1, 80, 3000)


def ours(edge: str, timing: str, clips: int, threads: int) -> Iterator[tuple[str, int]]:
    """(what was done, bytes at most so far): imports, the edge model, then clips of 1.5 to 30 s made into frames."""
    from esrt.bench.edge.sounds import speech
    from esrt.edge.encoder import Encoder
    from esrt.wire import codecs

    speech(30)
    yield "imports", peak_memory()
    encoder = Encoder(edge, threads, timing)  # type: ignore[arg-type]  # what JSON brings has no literal type
    yield "model", peak_memory()
    for number in range(clips):
        rows = encoder.encode(speech(30 * (number + 1) / clips))
        codecs.encode(rows, "int8", encoder.tables, encoder.fingerprint).to_bytes()
    yield "clips", peak_memory()


def theirs(folder: str, packages: list[str], threads: int) -> Iterator[tuple[str, int]]:
    """The same of CTranslate2's Whisper, with further `packages` imported; one mel of 30 s is encoded."""
    import numpy as np

    from esrt.bench.edge import whisper

    for name in packages:
        importlib.import_module(name)
    engine = whisper.engine()
    yield "imports", peak_memory()
    model = whisper.load(Path(folder), threads)
    yield "model", peak_memory()
    model.encode(engine.StorageView.from_array(np.zeros(MEL, np.float32)))
    yield "clips", peak_memory()


def importable() -> list[str]:
    """Those packages of faster-whisper's that are installed here; itself, if it is."""
    return [name for name in ("faster_whisper", *FASTER_WHISPER) if importlib.util.find_spec(name)]


def client(url: str, file: str, to: list[str]) -> Iterator[dict[str, Any]]:
    """Each segment of a file through the cloud at `url`: times, texts, seconds, and bytes of memory at most so far."""
    from esrt.edge.client import Client

    with Client(url) as cloud:
        for found in cloud.segments(file, to):
            yield {
                "start": found.start,
                "end": found.end,
                "transcript": found.transcript,
                "translations": found.translations,
                "edge": found.edge_seconds,
                "cloud": found.cloud_seconds,
                "peak": peak_memory(),
            }
