"""Real files of many formats, encoded here, and everything that only looks like one."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from esrt.audio.io import Sound, load
from esrt.config import SAMPLE_RATE
from esrt.errors import AudioError

Floats = npt.NDArray[np.float64]
HZ = 440.0


def tone(seconds: float, rate: int = SAMPLE_RATE, level: float = 0.5, hz: float = HZ) -> Floats:
    sound: Floats = level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return sound


def write_wav(path: Path, channels: list[Floats], rate: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.stack(channels, axis=1) * 32767).round().astype("<i2").tobytes())
    return path


def write(path: Path, sound: Floats, rate: int, codec: str, layout: str = "mono", format: str | None = None) -> Path:
    """`sound` in every channel, encoded by FFmpeg."""
    with av.open(path, "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        channels = len(stream.layout.channels)
        frame = av.AudioFrame.from_ndarray(np.tile(sound.astype(np.float32), (channels, 1)), "fltp", layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=stream.codec_context.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def level_of(samples: npt.NDArray[np.float32], hz: float = HZ) -> float:
    """Amplitude of the tone at `hz`."""
    wheel = np.exp(-2j * np.pi * hz * np.arange(len(samples)) / SAMPLE_RATE)
    return float(2 * abs((samples * wheel).mean()))


def refused(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        load(path)
    sentence = str(caught.value)
    assert str(path) in sentence and sentence.endswith(".") and "\n" not in sentence
    return caught.value.code


@pytest.mark.parametrize(
    ("name", "rate", "codec", "layout"),
    [
        ("a.mp3", 44_100, "libmp3lame", "stereo"),
        ("a.m4a", 48_000, "aac", "stereo"),
        ("a.aac", 22_050, "aac", "mono"),
        ("a.flac", 16_000, "flac", "mono"),
        ("a.flac", 96_000, "flac", "5.1"),
        ("a.ogg", 48_000, "libopus", "stereo"),
        ("a.webm", 48_000, "libopus", "mono"),
        ("a.wav", 8_000, "pcm_mulaw", "mono"),
        ("a.wav", 48_000, "pcm_f32le", "stereo"),
        ("a.mka", 44_100, "pcm_s24le", "stereo"),
        ("a.g722", 16_000, "g722", "mono"),
    ],
)
def test_any_format_becomes_16_khz_mono(tmp_path: Path, name: str, rate: int, codec: str, layout: str) -> None:
    samples = load(write(tmp_path / name, tone(2.0, rate), rate, codec, layout))
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert abs(len(samples) / SAMPLE_RATE - 2.0) < 0.1
    assert np.abs(samples).max() <= 1.0
    assert level_of(samples[4_000:28_000]) == pytest.approx(0.5, rel=0.05), "as loud as it was, in any layout"


def test_a_wav_at_16_khz_is_not_touched(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, SAMPLE_RATE)
    samples = load(write_wav(tmp_path / "a.wav", [sound], SAMPLE_RATE))
    np.testing.assert_array_equal(samples, (sound * 32767).round().astype(np.float32) / 32768)


def test_telephone_stereo(tmp_path: Path) -> None:
    """8 kHz; the mean of a tone on the left and another on the right."""
    path = write_wav(tmp_path / "a.wav", [tone(1.0, 8_000, 0.8), tone(1.0, 8_000, 0.6, hz=1_000)], 8_000)
    samples = load(path)
    assert len(samples) == SAMPLE_RATE
    assert level_of(samples) == pytest.approx(0.4, rel=0.02)
    assert level_of(samples, 1_000) == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize("channels", [7, 8, 9, 32])
def test_surround_sound_and_arrays_of_microphones(tmp_path: Path, channels: int) -> None:
    sounds = [tone(0.5, SAMPLE_RATE) * (each == channels - 1) for each in range(channels)]
    heard = load(write_wav(tmp_path / "a.wav", sounds, SAMPLE_RATE))
    assert np.allclose(heard, sounds[-1] / channels, atol=1e-4)


def test_loud_stereo_does_not_clip(tmp_path: Path) -> None:
    loud = tone(1.0, level=0.99)
    samples = load(write_wav(tmp_path / "a.wav", [loud, loud], SAMPLE_RATE))
    np.testing.assert_allclose(samples, loud, atol=1e-4)


def test_floats_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    samples = load(write(tmp_path / "a.wav", tone(0.5, level=3.0), SAMPLE_RATE, "pcm_f32le"))
    assert samples.max() == 1.0 and samples.min() == -1.0


def test_silence_and_31_seconds_are_sound(tmp_path: Path) -> None:
    assert not load(write_wav(tmp_path / "silence.wav", [np.zeros(SAMPLE_RATE)], SAMPLE_RATE)).any()
    assert len(load(write(tmp_path / "long.mp3", tone(31.0), SAMPLE_RATE, "libmp3lame"))) >= 31 * SAMPLE_RATE


def test_a_stream_that_changes_half_way(tmp_path: Path) -> None:
    """MP3 files are sometimes glued together: mono at 16 kHz, then stereo at 44.1 kHz."""
    first = write(tmp_path / "1.mp3", tone(1.0), SAMPLE_RATE, "libmp3lame", format="mp3").read_bytes()
    second = write(tmp_path / "2.mp3", tone(1.0, 44_100), 44_100, "libmp3lame", "stereo", format="mp3").read_bytes()
    (tmp_path / "both.mp3").write_bytes(first + second)
    samples = load(tmp_path / "both.mp3")
    assert abs(len(samples) / SAMPLE_RATE - 2.0) < 0.2
    assert level_of(samples[20_000:30_000]) == pytest.approx(0.5, rel=0.05)


def test_a_cut_file_gives_what_is_left(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.flac", tone(4.0), SAMPLE_RATE, "flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    assert 1.0 < len(load(tmp_path / "cut.flac")) / SAMPLE_RATE < 3.0


@pytest.mark.parametrize(("name", "codec"), [("a.flac", "flac"), ("a.mp3", "libmp3lame"), ("a.ogg", "libopus")])
def test_a_hole_is_told_and_what_follows_keeps_its_time(tmp_path: Path, name: str, codec: str) -> None:
    sound = np.concatenate([np.random.default_rng(0).uniform(-0.3, 0.3, 480_000), tone(4.0, 48_000)])
    path = write(tmp_path / name, sound, 48_000, codec)
    with Sound(path) as whole:
        before = np.concatenate(list(whole))
        assert whole.damage is None and whole.seconds == pytest.approx(14.0, abs=0.1)
    data = path.read_bytes()
    hole = len(data) // 20
    path.write_bytes(data[: len(data) // 3] + bytes(hole) + data[len(data) // 3 + hole :])
    with Sound(path) as damaged:
        samples = np.concatenate(list(damaged))
        assert damaged.damage is not None and damaged.damage.code == "audio_damaged" and name in str(damaged.damage)
    if codec != "libmp3lame":  # its times are counted by the reader, over what it could read
        assert len(samples) == pytest.approx(len(before), abs=SAMPLE_RATE / 5)
    assert level_of(samples[-3 * SAMPLE_RATE :]) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(("late", "broken"), [(3.0, 0), (0.0, 16)])
def test_sound_that_begins_late_keeps_its_time(tmp_path: Path, late: float, broken: int) -> None:
    """A film whose sound comes after its picture, and one whose first packets of sound cannot be decoded."""
    with av.open(tmp_path / "film.mkv", "w") as container:
        picture: Any = container.add_stream("ffv1", rate=1, width=16, height=16, pix_fmt="yuv420p")
        stream: Any = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        container.mux([*picture.encode(av.VideoFrame(16, 16, "yuv420p")), *picture.encode(None)])
        frame = av.AudioFrame.from_ndarray((tone(4.0) * 32767).astype("<i2")[None], "s16", "mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, round(late * SAMPLE_RATE)
        packets = [*stream.encode(frame), *stream.encode(None)]
        for packet in packets[:broken]:
            packet.update(bytes(packet.size))
        container.mux(packets)
    with Sound(tmp_path / "film.mkv") as film:
        samples = np.concatenate(list(film))
        assert (film.damage is not None) == bool(broken)
    assert len(samples) == pytest.approx((late + 4) * SAMPLE_RATE, abs=SAMPLE_RATE / 20)
    assert not samples[:SAMPLE_RATE].any(), "nothing was to be heard yet"
    assert level_of(samples[-SAMPLE_RATE:]) == pytest.approx(0.5, rel=0.1)


def test_the_name_says_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.mp3", tone(1.0), SAMPLE_RATE, "libmp3lame").rename(tmp_path / "a.wav")
    assert level_of(load(str(tmp_path / "a.wav"))[4_000:12_000]) == pytest.approx(0.5, rel=0.05)


def _zero_bytes(path: Path) -> None:
    path.touch()


def _text(path: Path) -> None:
    path.write_text("This is a letter, not a sound.\n" * 40)


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(5_000))


def _header_only(path: Path) -> None:
    write_wav(path, [np.zeros(0)], SAMPLE_RATE)


def _not_numbers(path: Path) -> None:
    write(path, np.full(SAMPLE_RATE, np.nan), SAMPLE_RATE, "pcm_f32le")


def _folder(path: Path) -> None:
    path.mkdir()


def _picture(path: Path) -> None:
    with av.open(path, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=1, width=16, height=16, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: None, "audio_not_found"),
        (_zero_bytes, "audio_empty"),
        (_header_only, "audio_empty"),
        (_text, "audio_not_readable"),
        (_noise, "audio_not_readable"),
        (_not_numbers, "audio_not_readable"),
        (_folder, "audio_not_readable"),
        (_picture, "audio_no_stream"),
    ],
)
def test_what_is_no_speech(tmp_path: Path, make: Callable[[Path], None], code: str) -> None:
    make(tmp_path / "clip.wav")
    assert refused(tmp_path / "clip.wav") == code


def test_a_path_that_no_file_can_have(tmp_path: Path) -> None:
    assert refused(tmp_path / ("long" * 100)) == "audio_not_readable"


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    """Whoever sends a file must not get to hear another one of this device."""
    write_wav(tmp_path / "secret.wav", [tone(1.0)], SAMPLE_RATE)
    playlists = {
        "concat.wav": "ffconcat version 1.0\nfile secret.wav\n",
        "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n",
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        assert refused(tmp_path / name) == "audio_not_readable"


def test_ffmpeg_says_nothing_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = write(tmp_path / "a.mp3", tone(2.0), SAMPLE_RATE, "libmp3lame").read_bytes()
    (tmp_path / "b.mp3").write_bytes(whole[:5_000] + b"\0" * 500 + whole[5_700:])
    load(tmp_path / "b.mp3")
    _text(tmp_path / "c.wav")
    refused(tmp_path / "c.wav")
    assert capfd.readouterr() == ("", "")
