"""The cache of encoder frames: what a batch gives is what a clip alone gives, and a second call encodes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout

from esrt.audio.padding import pad
from esrt.audio.samples import Samples
from esrt.config import FRAME_SAMPLES, PRESETS, SAMPLE_RATE, EncoderConfig
from esrt.errors import UsageError
from esrt.model.mel import LogMel
from esrt.model.whisper_encoder import WhisperEncoder
from esrt.train import features
from esrt.train.encoding import encode, encoding_type
from esrt.train.features import Features, frame_counts, padded_counts
from esrt.train.sources.synth import write_wav

CONFIG = replace(PRESETS["ESRT-270M"], encoder=EncoderConfig("none", mel_bins=80, width=32, layers=2, heads=2))


@pytest.fixture
def recordings(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for name, seconds in (("a", 1.2), ("b", 3.7), ("empty", 0.0), ("long", 31.0)):
        samples = 0.2 * rng.standard_normal(int(seconds * SAMPLE_RATE)).astype(np.float32)
        write_wav(tmp_path / f"{name}.wav", samples.clip(-1, 1))
    return [str(tmp_path / f"{name}.wav") for name in ("a", "b", "empty", "long")]


def test_a_batch_gives_what_each_clip_gives(tmp_path: Path, recordings: list[str]) -> None:
    torch.manual_seed(0)
    encoder = WhisperEncoder(CONFIG.encoder).eval()
    features = Features(tmp_path / "features", 32)
    features.fill(recordings, CONFIG, encoder)
    lengths = {Path(audio).stem: frames for audio, frames in features.lengths.items()}
    assert lengths == {"a": 100, "b": 225, "empty": 0, "long": 0}
    (tmp_path / "no.wav").write_text("no sound")
    counted = frame_counts([*recordings, str(tmp_path / "no.wav")])
    assert {Path(audio).stem: frames for audio, frames in counted.items()} == {
        "a": 60, "b": 185, "empty": 0, "long": 0, "no": 0
    }  # fmt: skip
    assert padded_counts(recordings, "speech") == features.lengths
    assert list(padded_counts(recordings, "full").values()) == [1500, 1500, 0, 0]

    wave = pad((0.2 * np.random.default_rng(0).standard_normal(19_200)).astype(np.float32).clip(-1, 1), "speech")
    assert len(wave) == 100 * FRAME_SAMPLES
    with torch.inference_mode():
        alone = encoder.float()(LogMel(80)(torch.from_numpy(wave)[None]))[0].numpy()
    # The cache's may be of bfloat16, the file's sound has 16 bits.
    cosines = (features.get(recordings[0]) * alone).sum(1) / np.linalg.norm(alone, axis=1)
    assert (cosines / np.linalg.norm(features.get(recordings[0]).astype(np.float32), axis=1) > 0.99).all()


@pytest.mark.parametrize("known", [{}, {"amx_bf16": True}])
def test_frames_are_computed_in_what_the_processor_multiplies(
    tmp_path: Path, recordings: list[str], monkeypatch: pytest.MonkeyPatch, known: dict[str, bool]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    used: list[WhisperEncoder] = []

    def seen(waves: Sequence[Samples], mel: LogMel, encoder: WhisperEncoder) -> Iterator[tuple[int, np.ndarray]]:
        used.append(encoder)
        return encode(waves, mel, encoder)

    monkeypatch.setattr(features, "encode", seen)
    Features(tmp_path / "features", 32).fill(recordings, CONFIG, WhisperEncoder(CONFIG.encoder))
    assert {encoder.conv1.weight.dtype for encoder in used} == {torch.bfloat16 if known else torch.float32}
    assert encoding_type(torch.device("cuda")) is torch.bfloat16


def test_a_second_call_encodes_nothing(tmp_path: Path, recordings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = WhisperEncoder(CONFIG.encoder).eval()
    Features(tmp_path / "features", 32).fill(recordings[:3], CONFIG, encoder)
    monkeypatch.setattr(encoder, "forward", lambda *_: pytest.fail("encoded again"))
    Features(tmp_path / "features", 32).fill(recordings[:3], CONFIG, encoder)


def test_a_sound_that_changed_is_encoded_again(tmp_path: Path, recordings: list[str]) -> None:
    encoder, folder = WhisperEncoder(CONFIG.encoder).eval(), tmp_path / "features"
    first = Features(folder, 32)
    first.fill(recordings[:3], CONFIG, encoder)
    first.append(recordings[3], np.ones((4, 32)))  # as lines were before they told of the sound
    kept = first.get(recordings[1])
    Path(recordings[1]).unlink()
    write_wav(Path(recordings[0]), np.full(2 * SAMPLE_RATE, 0.1, np.float32))
    changed = Features(folder, 32)
    assert set(changed.index) == set(recordings[1:])
    changed.fill(recordings, CONFIG, encoder)
    again = Features(folder, 32)
    assert again.index[recordings[0]][1] == 125 and len(again.get(recordings[0])) == 125
    assert np.array_equal(again.get(recordings[1]), kept) and (again.get(recordings[3]) == 1).all()


def test_the_folder_of_data_may_be_moved(tmp_path: Path) -> None:
    data = tmp_path / "data"
    features = Features(data / "features", 4)
    for audio in (str(data / "a.wav"), str(tmp_path / "elsewhere.wav"), "synth:{}"):
        features.append(audio, np.full((3, 4), len(audio)))
    data.rename(tmp_path / "moved")
    moved = Features(tmp_path / "moved" / "features", 4)
    assert set(moved.index) == {str(tmp_path / "moved" / "a.wav"), str(tmp_path / "elsewhere.wav"), "synth:{}"}
    assert moved.get(str(tmp_path / "moved" / "a.wav"))[0, 0] == len(str(data / "a.wav"))


def test_frames_that_the_disk_has_no_room_for(
    tmp_path: Path, recordings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(free=9_599_999)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    encoder, many = WhisperEncoder(CONFIG.encoder), [f"{n}.wav" for n in range(100)]
    features = Features(tmp_path / "features", 32, "full")
    with pytest.raises(UsageError) as refused:
        features.fill(many, CONFIG, encoder)
    assert refused.value.code == "disk_full"  # 100 clips of 1500 x 32 numbers of 2 bytes
    assert not features.has_room(many[:1]) and features.has_room([]), "checkpoints need room too"
    free.free += 5_000_000_000
    assert not features.has_room(many) and features.has_room(many[:99])
    free.free = 5_000_000_000 + 64 * (100 + 225)  # speech alone takes less: what the two clips have, to the byte
    assert Features(tmp_path / "features", 32).has_room([*recordings, *recordings])
    free.free -= 1
    assert not Features(tmp_path / "features", 32).has_room(recordings)


@pytest.mark.parametrize("samples", [4800, 8000, 8001, 8320, 24_000, 479_999, 480_000])
def test_frames_are_counted_as_they_are_padded(tmp_path: Path, samples: int) -> None:
    write_wav(tmp_path / "a.wav", np.full(samples, 0.1, np.float32))
    for context in ("speech", "full"):
        padded = pad(np.zeros(samples, np.float32), context)
        assert padded_counts([str(tmp_path / "a.wav")], context) == {
            str(tmp_path / "a.wav"): len(padded) // FRAME_SAMPLES
        }


def test_frames_of_another_encoder_are_refused(tmp_path: Path, recordings: list[str]) -> None:
    folder = tmp_path / "features"
    Features(folder, 64, "full")  # nothing is there yet
    encoder, trained = WhisperEncoder(CONFIG.encoder), WhisperEncoder(CONFIG.encoder)
    Features(folder, 32).fill(recordings[:2], CONFIG, encoder)
    trained.load_state_dict(encoder.state_dict())
    Features(folder, 32).check(trained.double().state_dict())
    with torch.no_grad():
        next(trained.parameters())[0] *= 1.01
    with pytest.raises(UsageError, match="another encoder"):
        Features(folder, 32).check(trained.state_dict())
    with pytest.raises(UsageError, match="another encoder"):
        Features(folder, 32).fill([], CONFIG, trained)
    for width in (64, 4):
        with pytest.raises(UsageError, match="another encoder"):
            Features(folder, width)
    with pytest.raises(UsageError) as refused:
        Features(folder, 32, "full")
    assert refused.value.code == "features_differ"
    (folder / "encoder.json").unlink()  # a folder of before there was one
    assert set(Features(folder, 32, "full").index) == set(recordings[:2])
    for width in (64, 4):
        with pytest.raises(UsageError, match="another encoder"):
            Features(folder, width)


def test_two_commands_fill_one_folder_in_turns(
    tmp_path: Path, recordings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, folder = WhisperEncoder(CONFIG.encoder).eval(), tmp_path / "features"
    forward = WhisperEncoder.forward

    def locked(self: WhisperEncoder, mel: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        with pytest.raises(Timeout):
            FileLock(folder / ".lock").acquire(timeout=0)
        return forward(self, mel, lengths)

    monkeypatch.setattr(WhisperEncoder, "forward", locked)
    one, other = Features(folder, 32), Features(folder, 32)
    one.fill(recordings[:1], CONFIG, encoder)
    first = one.get(recordings[0])
    other.fill(recordings[1:2], CONFIG, encoder)
    found = Features(folder, 32)
    assert set(found.index) == set(recordings[:2])
    assert np.array_equal(found.get(recordings[0]), first) and len(found.get(recordings[1])) == 225


def test_lines_that_a_power_cut_left_without_frames(tmp_path: Path, recordings: list[str]) -> None:
    encoder = WhisperEncoder(CONFIG.encoder).eval()
    whole = Features(tmp_path / "features", 32)
    whole.fill(recordings[:2], CONFIG, encoder)
    wanted = {audio: whole.get(audio) for audio in recordings[:2]}
    last = max(whole.index, key=lambda audio: whole.index[audio][0])
    data = tmp_path / "features" / "frames.f16"
    with data.open("r+b") as file:
        file.truncate(data.stat().st_size - 10)
    cut = Features(tmp_path / "features", 32)
    assert cut.missing(recordings[:2]) == [last]
    with pytest.raises(UsageError, match="another encoder"):
        Features(tmp_path / "features", 64)
    cut.fill(recordings[:2], CONFIG, encoder)
    again = Features(tmp_path / "features", 32)
    assert all(np.allclose(again.get(audio), frames, atol=0.05) for audio, frames in wanted.items())


def test_frames_need_a_folder(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("")
    with pytest.raises(UsageError) as caught:
        Features(tmp_path / "features", 32)
    assert caught.value.code == "features_not_writable"
