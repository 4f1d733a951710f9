"""Formats of texts with times: whatever is said, others read the same cues out of them."""

from __future__ import annotations

import csv
import html
import io
import json
import re

from hypothesis import given
from hypothesis import strategies as st

from esrt.audio.subtitles import SUFFIXES, Cue, join, one_line, render, stamp

TEXTS = st.one_of(
    st.text(max_size=40), st.sampled_from(["-->", "a ---> b", "1\n\n2", "<b>&amp;</b>", "WEBVTT", "\t", ""])
)
CUES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 30_000), TEXTS), max_size=8).map(
    lambda plan: [Cue(at / 1000, (at + length) / 1000, text) for at, length, text in sorted(plan)]
)


def seconds(said: str) -> float:
    hours, minutes, rest = said.replace(",", ".").split(":")
    return round(int(hours) * 3600 + int(minutes) * 60 + float(rest), 3)


def shown(cues: list[Cue]) -> list[Cue]:
    return [Cue(cue.start, cue.end, one_line(cue.text)) for cue in cues if cue.text.strip()]


@given(st.integers(0, 10**9))
def test_times_come_back(thousandths: int) -> None:
    for point in ".,":
        said = stamp(thousandths / 1000, point)
        assert re.fullmatch(rf"\d{{2,}}:[0-5]\d:[0-5]\d\{point}\d{{3}}", said)
        assert seconds(said) == thousandths / 1000


@given(CUES)
def test_srt(cues: list[Cue]) -> None:
    blocks = render("srt", cues).split("\n\n") if shown(cues) else []
    assert len(blocks) == len(shown(cues))
    for number, (block, cue) in enumerate(zip(blocks, shown(cues), strict=True), 1):
        head, times, text = block.rstrip("\n").split("\n")
        assert head == str(number) and "-->" not in text
        assert [seconds(time) for time in times.split(" --> ")] == [cue.start, cue.end]
        assert text == re.sub("-{2,}>", "->", cue.text)


@given(CUES)
def test_vtt(cues: list[Cue]) -> None:
    head, *blocks = render("vtt", cues).rstrip("\n").split("\n\n")
    assert head == "WEBVTT" and len(blocks) == len(shown(cues))
    for block, cue in zip(blocks, shown(cues), strict=True):
        times, text = block.split("\n")
        assert [seconds(time) for time in times.split(" --> ")] == [cue.start, cue.end]
        assert not set("<>") & set(text) and html.unescape(text) == html.unescape(html.escape(cue.text, quote=False))


@given(CUES)
def test_tsv(cues: list[Cue]) -> None:
    head, *rows = csv.reader(io.StringIO(render("tsv", cues)), delimiter="\t", quoting=csv.QUOTE_NONE)
    assert head == ["start", "end", "text"]
    assert [Cue(int(start) / 1000, int(end) / 1000, text) for start, end, text in rows] == shown(cues)


@given(CUES)
def test_json(cues: list[Cue]) -> None:
    whole = json.loads(render("verbose_json", cues, "deu", 12.5, "translate"))
    assert (whole["task"], whole["language"], whole["duration"]) == ("translate", "deu", 12.5)
    assert [Cue(row["start"], row["end"], row["text"]) for row in whole["segments"]] == shown(cues)
    assert [row["id"] for row in whole["segments"]] == list(range(len(shown(cues))))
    assert json.loads(render("json", cues, "deu")) == {"text": whole["text"]}
    assert whole["text"] == " ".join(cue.text for cue in shown(cues))


@given(CUES)
def test_text(cues: list[Cue]) -> None:
    assert render("text", cues) == "".join(f"{cue.text}\n" for cue in shown(cues))


def test_every_format_ends_its_last_line() -> None:
    for form in SUFFIXES:
        assert render(form, [Cue(0, 1.5, "Hi.")]).endswith("\n")
    assert render("srt", [Cue(3723.5, 3725, "Hi.")]) == "1\n01:02:03,500 --> 01:02:05,000\nHi.\n"


def test_some_languages_set_no_spaces() -> None:
    assert (
        join(["\u306f\u3044\u3002", "", "\u3044\u3044\u3048\u3002"], "jpn")
        == "\u306f\u3044\u3002\u3044\u3044\u3048\u3002"
    )
    assert join(["Yes.", "", "No."], "eng") == "Yes. No." == join(["Yes.", "No."], None)
