"""What measures the device's half: arguments, tables of given figures, turns, children, composed sounds."""

from __future__ import annotations

import importlib
import json
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from esrt.audio.io import load
from esrt.bench.edge import child, devices, install, long, memory, quality, sounds, speed, whisper
from esrt.bench.edge.__main__ import PAGE, SECTIONS, main
from esrt.bench.training.score import Answer, Clip
from esrt.config import SAMPLE_RATE
from esrt.edge.encoder import Encoder
from esrt.errors import ESRTError, UsageError
from tests.edge.conftest import describe, write_edge

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    """A small real edge model."""
    return write_edge(tmp_path / "edge.onnx", json.dumps(describe()))


def cells(text: str) -> list[list[str]]:
    """The rows of the first table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def refused(error: pytest.ExceptionInfo[ESRTError]) -> str:
    assert "\n" not in str(error.value)
    return error.value.code


def test_the_page_has_every_section() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for section in SECTIONS:
        assert f"<!-- {section.__name__} -->\n" in text and f"<!-- /{section.__name__} -->" in text
        assert f"python -m esrt.bench.edge {section.__name__}" in text


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ([], ["quality"], ["speed", "--rounds", "many"], ["install", "--model", "x"], ["warmth"]):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2
    assert "--data" in capsys.readouterr().err


def test_a_section_goes_into_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- install -->\nold\n<!-- /install -->\n", encoding="utf-8")
    monkeypatch.setattr(install, "run", lambda: "new")
    assert main(["install", "--page", str(page)]) == 0
    assert "\nnew\n" in page.read_text(encoding="utf-8") and capsys.readouterr().out == "new\n"
    assert main(["install", "--page", str(tmp_path / "none.md")]) == 2
    assert "[page_missing]" in capsys.readouterr().err


@pytest.mark.parametrize("section", ["speed", "memory"])
def test_without_ctranslate2(section: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert main([section]) == 2
    error = capsys.readouterr().err
    assert "pip install --no-deps ctranslate2" in error and "[package_missing]" in error


def test_a_folder_without_whisper(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, whisper.model_folder(tmp_path):
        pass
    assert refused(caught) == "model_missing"
    (tmp_path / "model.bin").touch()
    with whisper.model_folder(tmp_path) as folder:
        assert folder == tmp_path


def test_whisper_is_loaded_in_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ModuleType("ctranslate2")
    monkeypatch.setattr(engine, "models", SimpleNamespace(Whisper=lambda *a, **named: (a, named)), raising=False)
    monkeypatch.setitem(sys.modules, "ctranslate2", engine)
    assert whisper.load(tmp_path, 3) == (
        (str(tmp_path),),
        {"device": "cpu", "compute_type": "int8", "intra_threads": 3},
    )


def test_turns_are_taken() -> None:
    order: list[str] = []
    found = speed.take_turns({name: lambda name=name: order.append(name) for name in "ab"}, 3)  # type: ignore[misc]
    assert "".join(order) == "abababab", "one round warms up"
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 3, "b": 3}


def test_a_frame_is_made(edge: Path) -> None:
    frame = speed.frame_maker(Encoder(edge, 1), np.ones(SAMPLE_RATE, np.float32))()
    assert len(frame) > 4 * 8


def test_the_table_of_speed() -> None:
    text = speed.report(
        {
            speed.Case("int8", "constant", 5): [speed.Turn(0.5, 1), speed.Turn(0.3, 2), speed.Turn(0.4, 1)],
            speed.Case("int8", "fast", 5): [speed.Turn(0.1, 0.5)],
            speed.Case("float32", "fast", 5): [speed.Turn(0.2, 0.5)],
        },
        [speed.Turn(0.4, 1), speed.Turn(0.2, 2), speed.Turn(0.9, 9)],
    )
    assert cells(text) == [
        ["Whisper's encoder alone", "any", "0.400", "0.200", "2.000", "1.00", "1.00", "1.00", ""],
        ["ESRT, constant", "5 s", "0.400", "0.300", "1.000", "1.00", "1.50", "0.50", "<= 1.2"],
        ["ESRT, fast", "5 s", "0.100", "0.100", "0.500", "0.25", "0.50", "0.25", "<= 0.35"],
        ["ESRT, fast, float32", "5 s", "0.200", "0.200", "0.500", "0.50", "1.00", "0.25", ""],
    ]


def test_the_table_of_memory() -> None:
    peaks = {"imports": 40_000_000, "model": 90_400_000, "clips": 250_600_000}
    assert cells(memory.report({"ESRT, fast": peaks, "other": peaks})) == [
        ["ESRT, fast", "40", "90", "251", "< 400"],
        ["other", "40", "90", "251", ""],
    ]


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that a child can import by its name."""
    (tmp_path / "work_of_a_child.py").write_text(
        "import os\nfrom esrt.bench.edge.child import peak_memory\n"
        "def work(size):\n    yield os.getpid()\n    held = b'1' * size\n    yield peak_memory()\n    1 / size\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("work_of_a_child")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process had at most")
def test_a_child_has_memory_of_its_own(own_module: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    one, small = child.run(own_module.work, size=1)
    other, large = child.run(own_module.work, size=100_000_000)
    assert len({one, other, os.getpid()}) == 3
    assert 90e6 < large - small < 110e6
    with pytest.raises(UsageError) as caught:
        list(child.run(own_module.work, size=0))
    assert refused(caught) == "child_failed" and "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process had at most")
def test_our_device_in_a_child(edge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    peaks = dict(child.run(devices.ours, edge=str(edge), timing="fast", clips=2, threads=1))
    assert tuple(peaks) == memory.STAGES and list(peaks.values()) == sorted(peaks.values())


def test_what_is_installed_is_weighed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small.py", "x = 1\n" * 1000)
        archive.writestr("small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        archive.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("small-1.0.dist-info/RECORD", "small.py,,\nsmall-1.0.dist-info/METADATA,,\n")
    found = install.weigh(wheel, tmp_path)
    assert found.wheels == wheel.stat().st_size
    assert list(found.packages) == ["small"] and 6000 < found.packages["small"] <= found.disk
    with pytest.raises(UsageError) as caught:
        install.weigh(tmp_path / "none-1.0-py3-none-any.whl", tmp_path)
    assert refused(caught) == "pip_failed"


def test_the_table_of_the_install() -> None:
    sizes = {name: (9 - number) * 1_000_000 for number, name in enumerate("abcdefg")}
    text = install.report({"esrt": install.Weight(10_000_000, 50_400_000, sizes)})
    assert cells(text) == [["esrt", "7", "10 MB", "50 MB"]]
    assert "- esrt: a 9, b 8, c 7, d 6, e 5" in text


def scored() -> tuple[list[Clip], list[Answer], list[Answer]]:
    said = "good morning to all my friends"
    clips = [Clip("a", "fra", "Bonjour à tous", {"eng": said, "spa": "buenos días"}), Clip("b", "eng", "Hello", {})]
    right = [Answer("fra", "bonjour à tous", {"eng": said, "spa": "buenos días"}), Answer("eng", "hello!", {})]
    wrong = [Answer("fra", "bonjour à vous", {"eng": "no", "spa": "no"}), Answer("eng", "", {})]
    return clips, right, wrong


def test_scores_of_two_graphs() -> None:
    clips, right, wrong = scored()
    targets = quality.two_targets(clips)
    assert targets == ["eng", "spa"] and quality.two_targets(clips[1:]) == ["eng"]
    good, bad = quality.scores(clips, right, targets), quality.scores(clips, wrong, targets)
    assert good.cer == 0 and good.bleu["eng"] == pytest.approx(100)
    assert 0 < bad.cer < 100 and bad.bleu["eng"] == 0
    assert quality.scores(clips[1:], right[1:], targets).bleu == {"eng": None, "spa": None}


def test_what_is_lost_and_how_sure_that_is() -> None:
    clips, right, wrong = scored()
    lost = quality.losses(clips, {"float32": right, "int8": wrong}, ["eng"])
    good, bad = quality.scores(clips, right, ["eng"]), quality.scores(clips, wrong, ["eng"])
    loss, low, high = lost["CER"]
    assert loss == pytest.approx(bad.cer - good.cer) and 0 <= low <= loss <= high
    assert lost["BLEU into eng"][0] == pytest.approx(100)
    same = quality.losses(clips, {"float32": right, "int8": right}, ["eng"])
    assert set(same.values()) == {(0.0, 0.0, 0.0)}


def test_the_table_of_quality() -> None:
    found = {
        "eng": {"float32": quality.Scores(10, {"eng": None}), "int8": quality.Scores(11, {"eng": None})},
        "all": {"float32": quality.Scores(20, {"eng": 30.04}), "int8": quality.Scores(20.25, {"eng": 29.9})},
    }
    lost = {"CER": (0.25, -1.0, 1.5), "BLEU into eng": (0.14, -0.5, 0.7)}
    text = quality.report(found, {"eng": 3, "all": 6}, lost)
    assert cells(text) == [["eng", "3", "10.0", "11.0", "-", "-"], ["all", "6", "20.0", "20.2", "30.0", "29.9"]]
    assert "+0.25 of CER (-1.00 to +1.50), +0.14 of BLEU into eng (-0.50 to +0.70)" in text


def test_cosines_of_rows() -> None:
    one = np.array([[1, 0], [3, 4]], np.float32)
    np.testing.assert_allclose(quality.cosines(one, one * 2), 1)
    np.testing.assert_allclose(quality.cosines(one, one[:, ::-1]), [0, 0.96])


def test_a_long_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    paths, file = long.clips(None), tmp_path / "long.wav"
    assert [Path(path).stem for path in paths] == ["french", "russian", "spanish"]
    long.compose(paths, 1.5, file)
    again = tmp_path / "again.wav"
    long.compose(paths, 1.5, again)
    assert file.read_bytes() == again.read_bytes() and file.stat().st_size == 44 + 2 * 90 * SAMPLE_RATE
    whole = load(file)
    np.testing.assert_array_equal(long.piece(file, 12.5, 20.032), whole[200_000:320_512])


def test_the_table_of_a_long_sound() -> None:
    segment = {"start": 0.0, "end": 6.0, "edge": 0.3, "cloud": 0.6, "peak": 200_000_000}
    found = [segment] * 19 + [segment | {"peak": 210_000_000}]
    rows = dict(cells(long.report(found, 4, 60, 20)))
    assert rows["sound"] == "4 min, 2 min of it in 20 segments"
    assert rows["time from the first byte to the last text"] == "1.0 min (4.0x)"
    assert rows["device's memory at most"] == "210 MB; after a tenth of the segments 200 MB"
    assert rows["same texts as the segment alone"] == "20 of 20 drawn at random"


def test_speech_of_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert sounds.speech(5).shape == (5 * SAMPLE_RATE,) and sounds.speech(45).shape == (45 * SAMPLE_RATE,)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        sounds.examples()
    assert refused(caught) == "examples_missing"
