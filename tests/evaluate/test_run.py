"""A run over a manifest: each clip once, results that survive whatever stops it, and no two systems in one file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from esrt.errors import AudioError, UsageError
from esrt.evaluate import results
from esrt.evaluate.run import Answer, Clip, Done, System, run
from esrt.evaluate.systems import through
from tests.evaluate.conftest import Make, made

ROWS = [("a", "fra", ""), ("a", "fra", "eng"), ("a", "fra", "deu"), ("b", "spa", "eng"), ("c", "spa", "eng")]
ME = {"model": "me"}


class Recorder:
    """A system that says what it is asked, and notes it; it breaks at the clip named `breaks`."""

    def __init__(self, breaks: str = "") -> None:
        self.asked: list[Clip] = []
        self.breaks, self.closed = breaks, False

    def __call__(self) -> System:
        return self.answer

    def answer(self, clips: Sequence[Clip]) -> Iterator[Answer]:
        try:
            for clip in clips:
                name = Path(clip.audio).stem
                if name == self.breaks:
                    raise UsageError("broken", "It broke.")
                self.asked.append(clip)
                yield Answer(clip.told or "ita", f"{name} heard", {code: f"{name} to {code}" for code in clip.targets})
        finally:
            self.closed = True


def go(manifest: Path, out: Path, system: Recorder, named: bool = False, each: int | None = None) -> Done:
    return run(manifest, out, system, ME, named=named, each=each)


def test_each_clip_is_asked_once_for_all_its_targets(manifest: Make, tmp_path: Path) -> None:
    system, out = Recorder(), tmp_path / "out.jsonl"
    done = go(manifest(ROWS), out, system)
    assert (done.before, done.results, done.clips) == (0, 5, 3)
    assert [(Path(clip.audio).name, clip.targets, clip.told) for clip in system.asked] == [
        ("a.wav", ("eng", "deu"), None),
        ("b.wav", ("eng",), None),
        ("c.wav", ("eng",), None),
    ]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines[2] == {
        "id": "a", "audio": "a.wav", "prompt": "<|deu|>", "src": "fra", "tgt": "deu", "asr": "a said",
        "s2tt": "a in deu", "asr_r": "a heard", "s2tt_r": "a to deu", "response": "a heard<|ita|><|deu|>a to deu",
    }  # fmt: skip
    assert lines[0]["response"] == "a heard<|ita|>" and lines[0]["prompt"] == ""
    assert [found.found for found in results.read(out)] == ["ita"] * 5


def test_captions_are_left_out(manifest: Make, tmp_path: Path) -> None:
    path, system = manifest(ROWS), Recorder()
    captions = {"id": "a", "audio": "a.wav", "src": "fra", "tgt": "spa", "asr": "a said", "s2tt": "", "caption": "Low."}
    with path.open("a") as file:
        file.write(json.dumps(captions) + "\n")
    assert go(path, tmp_path / "out.jsonl", system).results == 5
    assert [clip.targets for clip in system.asked] == [("eng", "deu"), ("eng",), ("eng",)]


def test_a_named_source(manifest: Make, tmp_path: Path) -> None:
    system, out = Recorder(), tmp_path / "out.jsonl"
    go(manifest(ROWS), out, system, named=True)
    assert [clip.told for clip in system.asked] == ["fra", "spa", "spa"]
    found = results.read(out)
    assert found[1].prompt == "<|fra|><|eng|>" and all(one.named for one in found)


@pytest.mark.parametrize("torn", [b"", b'{"id": "c", "audi'], ids=["whole", "torn"])
def test_a_run_that_broke_goes_on(manifest: Make, tmp_path: Path, torn: bytes) -> None:
    path, out, broken = manifest(ROWS), tmp_path / "out.jsonl", Recorder(breaks="c")
    with pytest.raises(UsageError, match="It broke"):
        go(path, out, broken)
    assert broken.closed and len(out.read_text().splitlines()) == 4
    with out.open("ab") as file:
        file.write(torn)
    second = Recorder()
    done = go(path, out, second)
    assert (done.before, done.results) == (4, 1)
    assert [Path(clip.audio).stem for clip in second.asked] == ["c"]
    assert len(results.read(out)) == len(out.read_text().splitlines()) == 5
    third = Recorder()
    assert go(path, out, third).results == 0 and not third.asked


def test_a_clip_that_cannot_be_read_costs_only_itself(manifest: Make, tmp_path: Path) -> None:
    class Translator:
        def translate(self, audio: str, to: Sequence[str], source: str | None = None) -> Answer:
            if Path(audio).stem == "b":
                raise AudioError("audio_not_readable", "This is no sound.")
            return Answer("fra", "heard", dict.fromkeys(to, "said"))

    out = tmp_path / "out.jsonl"
    for _ in range(2):  # again, as the sound may have been mended
        with pytest.raises(AudioError, match=r"All but .*b\.wav: This is no sound") as refused:
            run(manifest(ROWS), out, lambda: through(Translator()), ME)
        assert refused.value.code == "audio_not_readable"
        assert {one.id for one in results.read(out)} == {"a", "c"}


def test_only_the_targets_that_lack_are_asked(manifest: Make, tmp_path: Path) -> None:
    path, out = manifest(ROWS), tmp_path / "out.jsonl"
    go(path, out, Recorder())
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(line for line in lines if '"tgt": "deu"' not in line))
    second = Recorder()
    go(path, out, second)
    assert [clip.targets for clip in second.asked] == [("deu",)]


def test_results_of_two_systems_are_not_mixed(manifest: Make, tmp_path: Path) -> None:
    path, out = manifest(ROWS), tmp_path / "out.jsonl"
    go(path, out, Recorder())
    with pytest.raises(UsageError) as refused:
        go(path, out, Recorder(), named=True)
    assert refused.value.code == "resume_mismatch" and "another --out" in str(refused.value)


def test_a_file_of_something_else_stays_as_it_is(manifest: Make, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    out.write_text('{"mine": 1}')
    with pytest.raises(UsageError) as refused:
        go(manifest(ROWS), out, Recorder())
    assert refused.value.code == "resume_mismatch" and out.read_text() == '{"mine": 1}'


def test_some_clips_of_each_language_and_some_directions(manifest: Make, tmp_path: Path) -> None:
    path = manifest(ROWS)
    for name in ("one", "two"):
        go(path, tmp_path / name, Recorder(), each=1)
    found = results.read(tmp_path / "one")
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text()
    assert sorted(one.src for one in found) == ["fra", "fra", "fra", "spa"]
    run(path, tmp_path / "three", Recorder(), ME, sources=["fra"], targets=["eng"])
    assert [(one.src, one.tgt) for one in results.read(tmp_path / "three")] == [("fra", "eng")]
    with pytest.raises(UsageError) as refused:
        run(path, tmp_path / "four", Recorder(), ME, sources=["deu"])
    assert refused.value.code == "no_rows" and not (tmp_path / "four").exists()


def test_a_folder_that_cannot_be_written(manifest: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as refused:
        go(manifest(ROWS), tmp_path / "file" / "out.jsonl", Recorder())
    assert refused.value.code == "not_saved"


@pytest.mark.parametrize(
    ("content", "code"),
    [("", "results_empty"), ("{}\n", "results_bad_row"), ("no\n", "manifest_bad_row")],
)
def test_files_that_hold_no_results(tmp_path: Path, content: str, code: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError) as refused:
        results.read(path)
    assert refused.value.code == code


def test_what_a_system_found() -> None:
    assert made(1, "fra", "eng", "", "bonjour", "", "hello", found="fra").found == "fra"
    assert made(1, "fra", "eng", "", "bonjour", "", "hello", found=None).found is None
    assert made(1, "fra", "eng", "", "", "", "", found=None).found is None
    assert made(1, "fra", "", "", "bonjour", "", "", found="oci").found == "oci"
