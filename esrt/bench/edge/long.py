"""Hours of sound from a device through a real cloud: how long it takes, in what memory, and if the texts are right."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from esrt.audio.io import load
from esrt.audio.samples import Samples
from esrt.audio.segments import Segment
from esrt.bench.edge import child, devices
from esrt.bench.edge.sounds import examples
from esrt.bench.page import machine, table
from esrt.bench.server import serving
from esrt.config import SAMPLE_RATE
from esrt.edge import pipeline
from esrt.edge.client import Client
from esrt.errors import UsageError

MEGABYTE = 1e6
TO = ["eng"]
SAMPLE = 20  # segments that are translated alone, too
PAUSES = (0.3, 6.0)  # seconds between two clips: shorter ones join them into one segment
_FULL = 32768.0


def clips(manifest: Path | None) -> list[str]:
    """Paths of the examples, and of all clips of a manifest."""
    found = [str(path) for path in examples()]
    if manifest is not None:
        from esrt.train.manifest import read_manifest

        found.extend(dict.fromkeys(row.audio for row in read_manifest(manifest)))
    return found


def compose(paths: Sequence[str], minutes: float, file: Path) -> None:
    """Writes clips in a random order that is always the same, with silence between, as a WAV file of 16 bits."""
    chance, left = random.Random(0), round(60 * minutes * SAMPLE_RATE)
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        while left > 0:
            for path in chance.sample(paths, len(paths)):
                pause = np.zeros(round(chance.uniform(*PAUSES) * SAMPLE_RATE), np.float32)
                sound = np.concatenate([load(path), pause])[:left]
                out.writeframes((sound * _FULL).round().clip(-_FULL, _FULL - 1).astype("<i2").tobytes())
                left -= len(sound)
                if left <= 0:
                    break


def piece(file: Path, start: float, end: float) -> Samples:
    """The samples of such a file from second `start` to second `end`."""
    first, last = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
    with wave.open(str(file), "rb") as sound:
        sound.setpos(first)
        values = np.frombuffer(sound.readframes(last - first), "<i2")
    return values.astype(np.float32) / np.float32(_FULL)


def alone(url: str, file: Path, found: Sequence[dict[str, Any]]) -> int:
    """How many of a random sample of segments get the same texts when they are cut out and translated by themselves."""
    same = 0
    with Client(url) as client:
        for one in tqdm(random.Random(1).sample(found, min(SAMPLE, len(found))), desc="alone", disable=None):
            segment = Segment(one["start"], one["end"], piece(file, one["start"], one["end"]))
            (result,) = pipeline.translate_segments([segment], client.encoder(), client, TO)
            same += (result.transcript, result.translations) == (one["transcript"], one["translations"])
    return same


def report(found: Sequence[dict[str, Any]], minutes: float, seconds: float, same: int) -> str:
    """The table, of what `devices.client` yields of each segment."""
    first, last = found[len(found) // 10]["peak"] / MEGABYTE, found[-1]["peak"] / MEGABYTE
    spoken = sum(one["end"] - one["start"] for one in found)
    edge, answer = (statistics.median(one[name] for one in found) for name in ("edge", "cloud"))
    rows = [
        ["sound", f"{minutes:g} min, {spoken / 60:.0f} min of it in {len(found)} segments"],
        ["time from the first byte to the last text", f"{seconds / 60:.1f} min ({60 * minutes / seconds:.1f}x)"],
        ["device, in all", f"{sum(one['edge'] for one in found) / 60:.1f} min, median segment {edge:.2f} s"],
        ["waiting for the cloud, in all", f"{sum(o['cloud'] for o in found) / 60:.1f} min, median {answer:.2f} s"],
        ["device's memory at most", f"{last:.0f} MB; after a tenth of the segments {first:.0f} MB"],
        ["same texts as the segment alone", f"{same} of {min(SAMPLE, len(found))} drawn at random"],
    ]
    return table(["", "measured"], rows)


def run(model: str, manifest: Path | None, minutes: float) -> str:
    """The section: `minutes` of sound through a client in a process of its own and a cloud in another."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "long.wav"
        compose(clips(manifest), minutes, file)
        with serving(model) as server:
            with Client(server.url) as client:
                client.download_edge()  # else its time would count
            began, found = time.perf_counter(), []
            form = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}"
            with tqdm(total=round(60 * minutes), desc="long", mininterval=10, bar_format=form) as bar:
                for one in child.run(devices.client, url=server.url, file=str(file), to=TO):
                    found.append(one)
                    bar.update(round(one["end"]) - bar.n)
            seconds = time.perf_counter() - began
            if not found:
                raise UsageError("no_speech", f"{minutes:g} minutes held no segment: take more of --minutes.")
            same = alone(server.url, file, found)
    return "\n\n".join(
        [
            report(found, minutes, seconds, same),
            f"Clips of real speech in random order with {PAUSES[0]} to {PAUSES[1]:g} s of silence between, in one WAV "
            "file, through `Client.segments` into English and an `esrt serve` on the same machine; memory is that of "
            f"the device's process alone (VmHWM). On {machine()}.",
        ]
    )
