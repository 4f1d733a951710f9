"""Loss weights of tasks, and which clips are held back to move them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esrt.train.recipes import TABLE_II, Stage
from esrt.train.sampler import Clip
from esrt.train.setup import split
from esrt.train.tasks import Balance, held_back

STAGE = Stage("III", "llm", 10, 4, 1e-4, tasks=TABLE_II["III"])


def test_a_task_whose_loss_rises_gets_weight_back() -> None:
    balance = Balance()
    assert balance.weights(STAGE) == {"asr": 1.0, "srt": 1.0}
    balance.hear({"asr": 2.0, "srt": 3.0})
    assert balance.weights(STAGE) == {"asr": 1.0, "srt": 1.0}, "the first losses are neither up nor down"
    balance.hear({"asr": 2.1, "srt": 2.5})
    raised = balance.weights(STAGE)
    assert raised["asr"] == pytest.approx(1.25 * raised["srt"])
    assert 0.2 * raised["asr"] + 0.8 * raised["srt"] == pytest.approx(1.0), "the whole keeps its size"
    for loss in range(3, 20):
        balance.hear({"asr": float(loss)})
    assert balance.state["asr"][0] == 4.0, "there is a limit"
    for loss in range(20):
        balance.hear({"asr": -float(loss)})
    assert balance.weights(STAGE) == {"asr": 1.0, "srt": 1.0}, "it goes back down when the loss falls"


def test_a_stage_may_weigh_its_tasks() -> None:
    weights = Balance().weights(replace(STAGE, loss_weights={"srt": 3.0}))
    assert weights["srt"] == pytest.approx(3 * weights["asr"])


def test_what_is_held_back() -> None:
    clips = [Clip(f"/{code}/{n}.wav", code, f"text {n}", (), 10) for n in range(2000) for code in ("eng", "spa")]
    again = [
        replace(clip, audio=f"again{clip.audio}-0.wav", transcript=f"Text {clip.transcript[5:]}!") for clip in clips
    ]
    training, back = split({"m": clips, "few": clips[:3], "again": again, "one": clips[:1]})
    heard = {(clip.source, clip.transcript) for clip in back["m"]}
    assert not any((clip.source, clip.transcript.lower()[:-1]) in heard for clip in training["again"]), "by no voice"
    assert len(training["again"]) > 3600
    assert training["one"] == back["one"] == clips[:1], "there is no other"
    assert 40 < len(back["m"]) < 140 and len(back["few"]) == 1 and len(training["few"]) == 2
    assert not {clip.audio for clip in training["m"]} & {clip.audio for clip in back["m"]}
    assert len({clip.audio.rsplit("/")[-1] for clip in back["m"]}) == len(back["m"]) / 2, (
        "a text with all its languages"
    )
    assert held_back(clips[0]) == held_back(replace(clips[0], audio="elsewhere/0.wav"))
    # As in FLEURS, whose recordings of a sentence have names of their own in each language.
    for n in range(200):
        english = Clip(f"{n}.wav", "eng", f"Text {n}.", (("fra", f"Texte {n}."),), 10)
        french = Clip(f"{n + 7}.wav", "fra", f"Texte {n}.", (("eng", f"Text {n}."), ("deu", "?")), 10)
        assert held_back(english) == held_back(french)
