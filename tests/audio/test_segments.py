"""Where speech is cut: any probabilities through the cutter, and real speech, tones and noise through the real VAD."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esrt.audio.io import Sound, load
from esrt.audio.samples import Samples
from esrt.audio.segments import FRAME, MARGIN, SHORTEST, TOLD, Segment, cut, segments
from esrt.config import SAMPLE_RATE

EXAMPLES = Path(__file__).parents[2] / "examples"
MIX = np.random.default_rng(0)


@pytest.fixture(scope="module")
def clips() -> list[Samples]:
    return [load(EXAMPLES / f"{name}.flac") for name in ("french", "russian", "spanish")]


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def notes(seconds: float) -> Samples:
    """Plucked chords, which no one would take for speech."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    chord = sum(np.sin(2 * np.pi * hz * time) for hz in (262, 330, 392))
    return np.asarray(0.2 * chord * np.exp(-3 * (time % 0.5)), np.float32)


def hiss(seconds: float, level: float = 0.05) -> Samples:
    return np.random.default_rng(0).normal(0, level, round(seconds * SAMPLE_RATE)).astype(np.float32)


# Stretches of speech (True) and silence, each of so many frames: up to minutes of either.
stretches = st.lists(st.tuples(st.booleans(), st.integers(1, 1200)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(stretches, st.integers(1, FRAME), st.sampled_from([1, 2.5, 8, 30]))
def test_segments_hold_all_speech_once_in_order_and_fit(
    plan: list[tuple[bool, int]], last: int, longest: float
) -> None:
    spoken = np.array([is_speech for is_speech, count in plan for _ in range(count)], bool)
    count = len(spoken)
    # Each sample knows its own place; the last frame is not full.
    whole = np.arange(max(0, count * FRAME - (FRAME - last)), dtype=np.float32)
    frames = [(whole[at * FRAME : (at + 1) * FRAME], 0.9 if spoken[at] else 0.1) for at in range(count)]

    found = list(cut(frames, longest))

    covered = np.zeros(count, bool)
    for segment in found:
        assert 0 < len(segment.samples) <= longest * SAMPLE_RATE
        start, end = _heard(segment)
        np.testing.assert_array_equal(segment.samples, whole[start:end])
        assert start % FRAME == 0
        assert start <= round(segment.start * SAMPLE_RATE) < round(segment.end * SAMPLE_RATE) <= end
        covered[start // FRAME : -(-end // FRAME)] = True
    assert all(_heard(before)[1] <= _heard(after)[0] for before, after in pairwise(found)), "in order, without overlap"
    edges = np.flatnonzero(np.diff(np.array([False, *spoken, False], np.int8)))
    for begin, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - begin >= SHORTEST:
            assert covered[begin:stop].all(), "speech was lost"
    # Silence goes along only around speech and between what is close, and less of it is told.
    for segment in found:
        told = round(segment.start * SAMPLE_RATE), round(segment.end * SAMPLE_RATE)
        for (start, end), margin in ((_heard(segment), MARGIN), (told, TOLD)):
            begin, stop = start // FRAME, -(-end // FRAME)
            assert spoken[begin : begin + margin + 1].any() and spoken[max(0, stop - margin - 1) : stop].any()


def _heard(segment: Segment) -> tuple[int, int]:
    """Where its samples begin and end, which know their own places."""
    start = int(segment.samples[0])
    return start, start + len(segment.samples)


def _speech(plan: list[tuple[float, float]]) -> list[Segment]:
    """(seconds, probability) of each stretch, as sound that is louder where it is likelier."""
    frames = []
    for seconds, probability in plan:
        for _ in range(round(seconds * SAMPLE_RATE / FRAME)):
            frames.append((MIX.normal(0, probability, FRAME).astype(np.float32), probability))
    return list(cut(frames))


def test_close_utterances_stay_together_and_distant_ones_do_not() -> None:
    near = _speech([(2, 0.9), (0.7, 0.1), (3, 0.9)])
    assert [(round(s.start, 1), round(s.end, 1)) for s in near] == [(0.0, 5.7)]
    far = _speech([(1, 0.1), (2, 0.9), (1.5, 0.1), (3, 0.9)])
    assert [(round(s.start, 1), round(s.end, 1)) for s in far] == [(0.8, 3.2), (4.3, 7.5)]


def test_speech_that_runs_on_is_cut_at_its_longest_pause() -> None:
    first, second = _speech([(8, 0.9), (0.3, 0.1), (10, 0.9), (0.7, 0.1), (6, 0.9), (0.2, 0.1), (12, 0.9)])
    assert 18.3 < first.end <= second.start < 19.0


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    frames = [(hiss(FRAME / SAMPLE_RATE, 0.01 if number in (800, 801, 802) else 0.1), 0.9) for number in range(1200)]
    first, second = cut(frames)
    assert first.end == second.start == pytest.approx(802 * FRAME / SAMPLE_RATE, abs=0.04)


def test_a_click_is_no_segment() -> None:
    assert _speech([(2, 0.1), (0.1, 0.9), (2, 0.1)]) == []
    assert len(_speech([(29.5, 0.9), (9.6, 0.1), (0.1, 0.9), (2, 0.1)])) == 1, "nor long after a cut"
    assert len(_speech([(29.7, 0.9), (0.4, 0.1), (0.1, 0.9), (2, 0.1)])) == 2, "a word's end right after one is"


def test_nobody_speaks() -> None:
    for sound in (silence(0), silence(3), hiss(5), notes(6), np.full(SAMPLE_RATE, 0.2, np.float32), silence(0.01)):
        assert list(segments(sound)) == []


def test_speech_among_music_and_noise(clips: list[Samples]) -> None:
    parts = [notes(4), silence(2), clips[0], silence(2), hiss(3), silence(1.5), clips[1], silence(0.4), clips[2]]
    found = list(segments(np.concatenate(parts)))
    begins = np.cumsum([0, *map(len, parts)]) / SAMPLE_RATE
    assert len(found) == 2
    assert found[0].start == pytest.approx(begins[2], abs=0.35) and found[0].end == pytest.approx(begins[3], abs=0.35)
    assert found[1].start == pytest.approx(begins[6], abs=0.35) and found[1].end == pytest.approx(begins[9], abs=0.35)


def test_quiet_speech_is_speech(clips: list[Samples]) -> None:
    assert len(list(segments(clips[2] * np.float32(0.01)))) == 1


def _write(path: Path, sound: Samples, codec: str, rate: int) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        frame.sample_rate = SAMPLE_RATE
        size = stream.codec_context.frame_size
        resampler = av.AudioResampler(stream.format, "mono", rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.wav", "pcm_s16le", 16_000),
        ("a.mp3", "libmp3lame", 44_100),
        ("a.ogg", "libopus", 48_000),
        ("a.flac", "flac", 22_050),
    ],
)
def test_the_same_speech_in_any_format(tmp_path: Path, clips: list[Samples], name: str, codec: str, rate: int) -> None:
    whole = np.concatenate([clips[0], silence(2), clips[1]])
    path = _write(tmp_path / name, whole, codec, rate)
    expected = list(segments(whole))
    for given_as in (lambda: str(path), lambda: path.open("rb"), lambda: Sound(path)):
        found = list(segments(given_as()))
        assert [s.start for s in found] == pytest.approx([s.start for s in expected], abs=0.15)
        assert [s.end for s in found] == pytest.approx([s.end for s in expected], abs=0.15)
        assert all(s.samples.dtype == np.float32 for s in found)
    with Sound(path) as sound:
        assert sound.seconds == pytest.approx(len(whole) / SAMPLE_RATE, abs=0.2)


def test_what_is_read_ahead_is_bounded(clips: list[Samples]) -> None:
    """A source that never ends: only what the next segment needs is taken from it."""
    taken = 0

    class Endless(Sound):
        def __init__(self) -> None:
            pass

        def __iter__(self) -> Any:
            nonlocal taken
            while True:
                taken += 1
                yield from (clips[0], silence(2))

    found = segments(Endless())
    for number in range(1, 4):
        next(found)
        assert taken == number
    found.close()


def test_errors_come_through(tmp_path: Path) -> None:
    from esrt.errors import AudioError

    with pytest.raises(AudioError, match="does not exist"):
        next(segments(tmp_path / "none.wav"))
    with pytest.raises(AudioError, match="not mono"):
        next(segments(np.zeros((2, 100))))
