"""What measures UGSD: both ways over one link, and the page."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from esrt.bench.ugsd.__main__ import PAGE, SECTIONS, main
from esrt.bench.ugsd.captions import heard
from esrt.bench.ugsd.curve import Point, closed, goal, series
from esrt.bench.ugsd.latency import LINKS, _unseen
from esrt.bench.ugsd.link import Conditions
from esrt.bench.ugsd.runs import Outcome, Task, chrf, drafted, same, split
from esrt.bench.ugsd.translation import about
from esrt.decoding.drafter import Drafter
from esrt.decoding.ugsd import Settings
from esrt.train.manifest import Row
from esrt.train.sources import prosody
from esrt.wire.frame import read
from tests.cloud.conftest import Server, frame_bytes
from tests.decoding.conftest import _one_thread, llm, make_drafter, make_service, serve, server, talking, tokenizer

__all__ = ["_one_thread", "llm", "make_drafter", "make_service", "serve", "server", "talking", "tokenizer"]
ROOT = Path(__file__).parents[2]


def test_both_ways_over_one_link(server: Server, make_drafter: Callable[..., Drafter]) -> None:
    every = [Task(frame_bytes(seed), ["deu"], {"deu": ["Guten Morgen."]}) for seed in (12, 13)]
    every.append(Task(frame_bytes(14), ["eng"], {"eng": ["A low voice."]}, "caption"))
    drafter, link = make_drafter(server.service), Conditions(0.01)
    cloud = split(every, server.url, link)
    checked = drafted(every, drafter, server.url, Settings(0.0, 1), link)
    alone = drafted(every, drafter, server.url, Settings(math.inf), link)
    assert cloud.texts == checked.texts and same(cloud, checked) == 1
    assert 0 <= chrf(every, cloud) == chrf(every, checked) <= 100
    frames = sum(len(task.frame) for task in every)
    assert cloud.up > frames and checked.up > frames and alone.up == alone.down == 0
    assert checked.escalated == 1 and alone.escalated == 0
    for out in (cloud, checked, alone):
        assert len(out.first) == len(out.seconds) == 3
        assert all(0 < first <= whole for first, whole in zip(out.first, out.seconds, strict=True))
    # A round trip for the features of each clip and for each check, at the least.
    assert sum(checked.seconds) > 0.01 * (3 + checked.drafting.round_trips)


def test_a_clip_that_the_cloud_has_not_seen() -> None:
    """One value differs, by one step, and another one each time."""
    task = Task(frame_bytes(12), ["deu"], {"deu": ["Guten Morgen."]})
    before = read(task.frame, cap=1 << 20)
    frames = [read(_unseen([task], number)[0].frame, cap=1 << 20) for number in range(3)]
    assert len({before.id, *(frame.id for frame in frames)}) == 4
    values = np.frombuffer(before.payload, np.int8).astype(int)
    for number, frame in enumerate(frames):
        moved = np.frombuffer(frame.payload, np.int8).astype(int) - values
        assert np.flatnonzero(moved).tolist() == [number] and abs(moved[number]) == 1
        assert moved.min() >= -1 and -128 not in np.frombuffer(frame.payload, np.int8)


def test_the_page_has_every_section() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for section in SECTIONS:
        assert f"<!-- {section.__name__} -->" in text and f"python -m esrt.bench.ugsd {section.__name__}" in text
    assert [round(1000 * link.round_trip) for link in LINKS.values()][:3] == [10, 50, 200]


def test_a_drafter_says_how_it_was_made(tmp_path: Path) -> None:
    assert about(tmp_path) == "no card."
    (tmp_path / "card.md").write_text("# X\n\n6 layers,\nmade somehow.\n")
    assert about(tmp_path) == "6 layers, made somehow."


def test_the_goal_is_nine_tenths_of_the_gap_with_a_tenth_escalated() -> None:
    points = [Point("a", "x", 0.3, 30.0), Point("b", "x", 0.1, 28.9), Point("c", "y", 0.0, 20.0)]
    assert series(points, 20.0) == {"x": [(0.0, 20.0), (10.0, 28.9), (30.0, 30.0)]}
    assert goal(points, 20.0, 30.0) == "Not reached by any row."
    assert goal([*points, Point("d", "y", 0.1, 29.0)], 20.0, 30.0) == "Reached by d."
    assert goal(points, 20.0, 19.0).startswith("There is no gap")
    assert [closed(score, 20.0, 30.0) for score in (20.0, 29.0, 31.0)] == ["0", "90", "110"]
    assert closed(25.0, 20.0, 20.0) == "-"


def test_a_manner_is_heard_where_it_alone_is_named() -> None:
    rows = [Row("a", "a.wav", "eng", "eng", "Hi.", "", prosody.captions("slowly", "low", "lively", "loudly"))] * 4
    texts = ["A low voice talks quickly.", "It speaks slowly.", "Somebody low and high.", "So slowly and low."]
    out = Outcome([{"eng": text} for text in texts])
    assert heard(prosody.PITCH, out, rows) == 2  # "slowly" says nothing of a low voice
    assert heard(prosody.RATE, out, rows) == 2


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["translation", "--data", "data"])
    assert "--draft" in capsys.readouterr().err
