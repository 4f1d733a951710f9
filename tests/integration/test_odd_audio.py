"""Odd but legal audio through the whole command: each file gets an answer, and a right one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from esrt.audio.io import load
from esrt.config import SAMPLE_RATE

Run = Callable[..., subprocess.CompletedProcess[str]]


def write(path: Path, samples: npt.NDArray[np.float32], codec: str, rate: int, channels: int) -> Path:
    """Encode 16 kHz samples as another program would: any codec, rate and number of channels."""
    layout = "stereo" if channels == 2 else "mono"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def answers(run: Run, model: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one `esrt translate` says of all files, by name."""
    folder = tmp_path_factory.mktemp("odd")
    speech = load(examples / "spanish.flac")
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    long = np.concatenate([np.concatenate([speech, pause]) for _ in range(6)])[: 31 * SAMPLE_RATE]
    assert len(long) == 31 * SAMPLE_RATE
    two = np.concatenate([speech, np.zeros(4 * SAMPLE_RATE, np.float32), speech])
    files = [
        write(folder / "plain.wav", speech, "pcm_s16le", 16_000, 1),
        write(folder / "telephone.wav", speech, "pcm_s16le", 8_000, 2),
        write(folder / "music.mp3", speech, "libmp3lame", 44_100, 2),
        write(folder / "phone.m4a", speech, "aac", 44_100, 1),
        write(folder / "long.wav", long, "pcm_s16le", 16_000, 1),
        write(folder / "two.ogg", two, "libopus", 48_000, 1),
        write(folder / "silence.wav", np.zeros(3 * SAMPLE_RATE, np.float32), "pcm_s16le", 16_000, 1),
    ]
    result = run("translate", *files, "--to", "eng", "--model", model, "--format", "verbose_json")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return {Path(row["audio"]).name: row for row in map(json.loads, result.stdout.splitlines())}


def test_silence_is_an_empty_transcript_and_costs_nothing(answers: dict[str, Any]) -> None:
    silence = answers["silence.wav"]
    assert (silence["source"], silence["transcript"], silence["bytes"]) == (None, "", 0)
    assert silence["translations"] == {"eng": ""} and silence["segments"] == []


def test_no_frame_holds_more_than_the_model_hears_well(answers: dict[str, Any]) -> None:
    lengths = [segment["end"] - segment["start"] for segment in answers["long.wav"]["segments"]]
    assert len(lengths) > 4 and max(lengths) <= 8
    assert answers["long.wav"]["bytes"] == len(lengths) * answers["plain.wav"]["bytes"]
    assert len(answers["long.wav"]["transcript"]) > len(answers["plain.wav"]["transcript"])


def test_each_utterance_has_its_times_and_texts(answers: dict[str, Any]) -> None:
    plain, two = answers["plain.wav"], answers["two.ogg"]
    first, second = two["segments"]
    length = plain["duration"]
    assert 0 <= first["start"] < first["end"] < length + 1
    assert length + 3 < second["start"] < second["end"] <= two["duration"] + 0.1
    for segment in (first, second):
        assert segment["source"] == plain["source"] and segment["transcript"] and segment["translations"]["eng"]
    assert two["transcript"] == f"{first['transcript']} {second['transcript']}"


@pytest.mark.parametrize("name", ["telephone.wav", "music.mp3", "phone.m4a"])
def test_other_formats_are_the_same_speech(answers: dict[str, Any], name: str) -> None:
    """A small model hears a codec's noise, so words are compared and not letters."""
    plain = set(answers["plain.wav"]["transcript"].lower().split())
    other = set(answers[name]["transcript"].lower().split())
    assert answers[name]["source"] == answers["plain.wav"]["source"]
    assert plain and len(plain & other) >= len(plain) / 3, (plain, other)
