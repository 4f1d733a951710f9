"""Reports: known scores in, the right cells out; pictures that can be opened; files of the right names."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from esrt.errors import UsageError
from esrt.evaluate import report, tables
from esrt.evaluate.scores import Score
from esrt.languages import CORE, LANGUAGES


def scores(shift: float = 0.0, skip: str = "") -> list[Score]:
    """All 1,980 directions: a source's number in CORE plus its target's, from 0 to 88, and a shift."""
    place = {code: number for number, code in enumerate(CORE)}
    found = [
        Score(src, tgt, 10, {"comet": place[src] + place[tgt] + shift})
        for src in CORE
        for tgt in CORE
        if src != tgt and skip not in (src, tgt)
    ]
    return [*found, Score("eng", "", 10, {"wer": 12.34, "found": 98.0}), Score("jpn", "", 10, {"cer": 5.0})]


def test_directions_are_those_of_the_45() -> None:
    outside = [Score("eng", "cym", 1, {"comet": 1.0}), Score("eng", "eng", 1, {"comet": 1.0})]
    assert len(tables.directions(scores() + outside, "comet")) == 45 * 44
    assert tables.directions(scores(), "bleu") == {}


def test_many_to_many() -> None:
    systems = {"one": tables.directions(scores(), "comet"), "two": tables.directions(scores(skip="tha"), "comet")}
    out, into = tables.many_to_many(systems, "comet")
    place = CORE.index("eng")
    wanted = (sum(range(45)) - place) / 44 + place
    column = out.head.index("eng")
    assert out.rows[0][column] == into.rows[0][column] == f"{wanted:.1f}"
    assert out.rows[1][out.head.index("tha")] == "-" and out.rows[1][-1] == str(44 * 43)
    assert tuple(out.head[1:12]) == tables.REPRESENTATIVES
    assert len({LANGUAGES[code].family for code in tables.REPRESENTATIVES}) == 11
    ones = [float(cell) for cell in out.rows[0][1:12]]
    assert float(out.rows[0][12]) == pytest.approx(sum(ones) / 11, abs=0.06)


def test_from_english() -> None:
    found = tables.from_english({"one": tables.directions(scores(), "comet")}, "comet")
    cells = {row[0]: row[1] for row in found.rows}
    assert len(found.rows) == 45 and cells["Thai (tha)"] == f"{CORE.index('eng') + CORE.index('tha'):.1f}"


def test_bands() -> None:
    values = [95, 90, 89.9, 80, 70, 60, 59.9, -3]
    directions = {("eng", code): float(value) for code, value in zip(CORE, values, strict=False)}
    assert tables.bands({"one": directions}, "comet").rows == [["one", "2", "2", "1", "1", "2", "8"]]


def test_groups() -> None:
    groups = tables.groups()
    assert len(groups) == 14 and sum(len(codes) for codes in groups.values()) == 90
    out, _ = tables.by_group({"one": {("jpn", "eng"): 10.0, ("kor", "eng"): 20.0}}, "comet")
    cells = {row[0]: row[2] for row in out.rows}
    assert (cells["Japonic"], cells["Koreanic"], cells["Uralic"]) == ("10.0", "20.0", "-")
    assert (cells["high resource"], cells["medium resource"]) == ("10.0", "20.0")


def test_text_against_speech() -> None:
    speech = {("fra", "deu"): 70.0, ("fra", "eng"): 80.0, ("fra", "tha"): 0.0, ("spa", "deu"): 80.0}
    text = {("fra", "deu"): 90.0, ("fra", "eng"): 81.0}
    found = tables.text_against_speech(speech, text, "comet").rows
    assert found == [["French (fra)", "85.5", "75.0", "10.5"]]  # of the directions that both have


def test_a_whole_report(tmp_path: Path) -> None:
    systems = {"one": scores(), "two": scores(5.0, skip="mya")}
    path = report.write(tmp_path / "new" / "report", systems, "comet", {"one": scores(3.0)})
    text = path.read_text()
    names = [
        "x-to-all", "all-to-x", "eng-to-x", "bands", "groups-spoken", "groups-targets", "transcripts",
        "text-and-speech-one",
    ]  # fmt: skip
    assert sorted(file.stem for file in path.parent.glob("*.csv")) == sorted(names)
    for picture in ("groups.png", "directions-one.png", "directions-two.png", "text-and-speech-one.png"):
        assert f"]({picture})" in text
        with Image.open(path.parent / picture) as image:
            assert image.width > 900 and len(image.convert("RGB").getcolors(1 << 24) or ()) > 50
    with (path.parent / "transcripts.csv").open() as file:
        rows = {row["spoken"]: row for row in csv.DictReader(file)}
    assert rows["English (eng)"]["one: %"] == "12.3" and rows["Japanese (jpn)"]["rate"] == "CER"
    assert rows["Japanese (jpn)"]["one: language found, %"] == ""
    with pytest.raises(UsageError) as refused:
        report.write(tmp_path, {"one": scores()}, "chrf")
    assert refused.value.code == "metric_missing"
