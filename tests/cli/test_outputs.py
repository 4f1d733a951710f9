"""Where texts go, without a model: names of files, what is there already, what cannot be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from esrt.cli.journal import Journal
from esrt.cli.outputs import Outputs, on_stdout
from esrt.edge.pipeline import SegmentResult, join
from esrt.errors import UsageError

RESULTS = [
    SegmentResult(0.5, 2.0, "spa", "Hola.", {"deu": "Hallo.", "spa": "Hola."}, 10, 0.1, 0.2),
    SegmentResult(4.0, 7.0, "spa", "Adi\u00f3s.", {"deu": "Tsch\u00fcs.", "spa": "Adi\u00f3s."}, 10, 0.1, 0.2),
]


def test_a_file_a_language_in_any_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form, suffix in [("text", "txt"), ("verbose_json", "json"), ("srt", "srt"), ("vtt", "vtt"), ("tsv", "tsv")]:
        outputs = Outputs(form, str(tmp_path / form))
        outputs.put("some/talk.mp3", join(RESULTS, ["deu", "spa"]), 9.0)
        names = {f"talk.deu.{suffix}", f"talk.spa.{suffix}"}
        assert {path.name for path in (tmp_path / form).iterdir()} == names
        assert {Path(line).name for line in capsys.readouterr().out.splitlines()} == names
    assert (tmp_path / "text" / "talk.deu.txt").read_text(encoding="utf-8") == "Hallo.\nTsch\u00fcs.\n"
    whole = json.loads((tmp_path / "verbose_json" / "talk.deu.json").read_text(encoding="utf-8"))
    assert (whole["language"], whole["duration"], len(whole["segments"])) == ("deu", 9.0, 2)


def test_nothing_said_is_a_file_too(tmp_path: Path) -> None:
    Outputs("srt", str(tmp_path)).put("talk.mp3", join([], []), None)
    assert (tmp_path / "talk.und.srt").read_text() == ""


def test_stdout() -> None:
    whole = join(RESULTS, ["deu"])
    assert on_stdout("text", "a.wav", whole, None) == "a.wav\nspa  Hola. Adi\u00f3s.\ndeu  Hallo. Tsch\u00fcs."
    assert set(json.loads(on_stdout("json", "a.wav", whole, None))) == {
        "audio", "source", "transcript", "translations", "bytes", "seconds"
    }  # fmt: skip
    verbose = json.loads(on_stdout("verbose_json", "a.wav", whole, None))
    assert verbose["duration"] == 7.0 and verbose["segments"][1]["translations"]["deu"] == "Tsch\u00fcs."


def test_two_files_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="would write the same files"):
        Outputs("srt", str(tmp_path)).check(["a/talk.mp3", "b/talk.wav"])
    Outputs("text", None).check(["a/talk.mp3", "b/talk.wav"])
    Outputs("srt", str(tmp_path)).check(["a/talk.mp3", "a/talk.mp3"])


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_names_that_are_one_to_some_systems(platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", platform)
    outputs = Outputs("srt", str(tmp_path))
    for pair in (["a/Talk.mp3", "b/talk.mp3"], ["a/caf\u00e9.mp3", "b/cafe\u0301.mp3"]):
        if platform == "linux":
            outputs.check(pair)
        else:
            with pytest.raises(UsageError):
                outputs.check(pair)


def test_nothing_is_removed_where_nothing_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that is read-only refuses to remove what it does not have."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", path)

    monkeypatch.setattr(Path, "unlink", refuse)
    Journal(tmp_path / "talk.esrt.jsonl", {}).remove()


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught:
        Outputs("srt", str(tmp_path / "file" / "folder"))
    assert caught.value.code == "output_not_saved"


def test_results_that_are_newer(tmp_path: Path) -> None:
    audio = tmp_path / "talk.mp3"
    audio.touch()
    outputs = Outputs("srt", str(tmp_path))
    assert not outputs.are_newer(str(audio), []) and not outputs.are_newer(str(audio), ["deu"])
    outputs.put(str(audio), join(RESULTS, ["deu"]), None)
    assert outputs.are_newer(str(audio), []) and outputs.are_newer(str(audio), ["deu"])
    assert not outputs.are_newer(str(audio), ["deu", "fra"])
    os.utime(audio, (2**32, 2**32))
    assert not outputs.are_newer(str(audio), ["deu"])


def test_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "talk.esrt.jsonl"
    head = {"esrt": 1, "audio": "no text: \udcff", "to": ["deu"]}
    journal = Journal(path, head)
    assert journal.read() == []
    for count in (1, 2):
        journal.add(RESULTS[:count])
    assert Journal(path, head).read() == RESULTS

    # Cut short by a power failure: the whole lines count, and writing goes on after them.
    path.write_bytes(path.read_bytes()[:-20])
    again = Journal(path, head)
    assert again.read() == RESULTS[:1] and again.saved == 1
    again.add(RESULTS)
    assert Journal(path, head).read() == RESULTS

    with pytest.raises(UsageError) as caught:
        Journal(path, {**head, "to": ["fra"]}).read()
    assert caught.value.code == "resume_mismatch"
    with pytest.raises(UsageError, match="by another model"):
        Journal(path, {**head, "edge": "another"}).read()
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(UsageError):
        Journal(path, head).read()
    journal.remove()
    journal.remove()
    assert list(tmp_path.iterdir()) == []
