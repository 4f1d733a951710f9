"""Batches: a function of seed and number; examples: what each task asks and what the loss sees."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from esrt.languages import LANGUAGES
from esrt.train.examples import FORKS, always_into, example, plain
from esrt.train.loop import Trainer
from esrt.train.manifest import Row
from esrt.train.sampler import Clip, Sampler, capped, clips
from tests.train.conftest import RECIPE

ROWS = [
    Row("a", "a.wav", "eng", "", "Good morning.", ""),
    Row("a", "a.wav", "eng", "deu", "Good morning.", "Guten Morgen."),
    Row("b", "b.wav", "spa", "", "Buenos días.", ""),
    Row("c", "c.wav", "spa", "", "Nada", ""),
]


class Words:
    """A tokenizer whose ids are numbers of words, tags from 1,000."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}

    def convert_tokens_to_ids(self, token: str) -> int:
        return 1000 + [language.tag for language in LANGUAGES.values()].index(token)


def test_clips_join_rows_and_drop_what_has_no_frames() -> None:
    found = clips(ROWS, {"a.wav": 90, "b.wav": 40, "c.wav": 0})
    assert [clip.audio for clip in found] == ["b.wav", "a.wav"]
    assert found[1].translations == (("deu", "Guten Morgen."),)


def test_a_batch_depends_on_its_number_alone() -> None:
    many = [Clip(f"{n}.wav", "eng" if n % 3 else "spa", "x", (), n + 1) for n in range(300)]
    one, other = (Sampler({"m": many}, {"m": 1.0}, seed=5) for _ in range(2))
    other.batch("I", 0, 8)
    assert one.batch("I", 7, 8)[0] == other.batch("I", 7, 8)[0]
    assert one.batch("I", 7, 8)[0] != one.batch("II", 7, 8)[0]
    spread = [max(c.frames for c in b) - min(c.frames for c in b) for b in (one.batch("I", s, 8)[0] for s in range(50))]
    assert sum(spread) / len(spread) < 60, "clips of a batch are of like length"


def test_other_manifests_for_one_stage() -> None:
    sets = {name: [Clip(f"{name}.wav", "eng", "x", (), 9)] for name in ("a", "b")}
    sampler = Sampler(sets, {"a": 1.0}, seed=0)
    assert sampler.batch("I", 0, 2)[0][0].audio == "a.wav"
    assert sampler.batch("I", 0, 2, {"b": 1.0})[0][0].audio == "b.wav"


@pytest.mark.parametrize(
    ("temperature", "tiers", "expected"),
    [(1.0, {}, 0.1), (2.0, {}, 0.25), (math.inf, {}, 0.5), (math.inf, {"low": 3.0}, 0.75)],
)
def test_temperature_and_tiers(temperature: float, tiers: dict[str, float], expected: float) -> None:
    """900 clips of English into German, 100 of Bulgarian, a language of the low tier, into Greek and Danish."""
    many = [Clip(f"{n}.wav", "eng", "x", (("deu", "y"),), n + 1) for n in range(900)]
    few = [("ell", "y"), ("dan", "y")]
    many += [Clip(f"b{n}.wav", "bul", "x", tuple(few[: 1 + (n % 10 == 0)]), n + 1) for n in range(100)]
    sampler = Sampler({"m": many}, {"m": 1.0}, 0, temperature, tiers)
    drawn = [clip for step in range(60) for clip in sampler.batch("I", step, 50)[0]]
    share = sum(clip.source == "bul" for clip in drawn) / len(drawn)
    assert share == pytest.approx(expected, abs=0.035)
    # Danish is a target of ten clips of Bulgarian, Greek of all hundred.
    first = [clip.translations[0][0] for clip in drawn if clip.source == "bul"]
    assert first.count("dan") / len(first) == pytest.approx(1 / (1 + 10 ** (1 / temperature)), abs=0.06)


def test_a_pair_is_capped() -> None:
    rows = [Row(f"{n}", f"{n}.wav", "eng", target, "x", "y") for n in range(50) for target in ("deu", "")]
    rows += [Row("z", "z.wav", "spa", "deu", "x", "y")]
    kept = capped(rows, 10, seed=1)
    assert kept == capped(rows, 10, seed=1) != capped(rows, 10, seed=2)
    assert sorted({(row.src, row.tgt) for row in kept}) == [("eng", ""), ("eng", "deu"), ("spa", "deu")]
    assert len(kept) == 21 and len(set(kept)) == 21


def test_samples_are_those_of_one_process_whatever_their_number(make_trainer: Callable[..., Trainer]) -> None:
    batches, stage = make_trainer().batches, RECIPE.stages[2]
    samples = batches.samples(stage, 3)
    whole, half = batches.tensors(stage, 3, samples, slice(0, 4)), batches.tensors(stage, 3, samples, slice(2, 4))
    assert whole.targets is not None and half.targets is not None
    assert torch.equal(whole.targets.classes, half.targets.classes), "one softmax for all processes"
    assert torch.equal(whole.targets.lengths[2:], half.targets.lengths)
    assert torch.equal(whole.lengths[2:], half.lengths)


def test_what_the_loss_sees() -> None:
    clip = clips(ROWS, {"a.wav": 90, "b.wav": 40, "c.wav": 0})[1]
    eng, deu = Words().convert_tokens_to_ids("<|eng|>"), Words().convert_tokens_to_ids("<|deu|>")
    text, translation, end = [4, 8], [5, 7], 1
    expected = {
        ("asr", False): ([eng, *text, end], "0111"),
        ("asr", True): ([*text, eng, end], "1111"),
        ("smt", False): ([*text, eng, deu, *translation, end], "0000111"),
        ("srt", False): ([eng, deu, *text, eng, deu, *translation, end], "001111111"),
        ("srt", True): ([*text, eng, deu, *translation, end], "1110111"),
    }
    for (task, unnamed), (ids, learned) in expected.items():
        made = example(clip, task, Words(), end, unnamed)
        assert list(made.ids) == ids, (task, unnamed)
        assert "".join("01"[flag] for flag in made.learned) == learned, (task, unnamed)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("¿Qué? ¡No!", "qué no"), ("It's 5 o'clock_", "it's 5 o'clock"), ("Привет, мир.", "привет мир")],
)
def test_plain(text: str, wanted: str) -> None:
    assert plain(text) == wanted


def test_a_language_that_is_always_translated_into() -> None:
    codes = ("deu", "fra", "ita", "spa", "rus", "eng", "ces")
    clip = Clip("a.wav", "pol", "Tak.", tuple((code, code) for code in codes), 90)
    found = always_into(clip, "eng").translations
    assert [code for code, _ in found] == ["deu", "fra", "ita", "eng", "spa", "rus", "ces"]
    assert found.index(("eng", "eng")) < FORKS
    for code in ("fra", "nld", ""):
        assert always_into(clip, code) == clip, "there already, or not to be had"


def test_translations_fork_where_the_transcript_ends() -> None:
    clip = Clip("a.wav", "eng", "Good morning.", (("deu", "Guten Morgen."), ("fra", "Bonjour.")), 90)
    made = example(clip, "srt", Words(), 1, True)
    trunk, lengths = 3, {2 + 2: "deu", 1 + 2: "fra"}
    assert made.branch[:trunk] == (0, 0, 0)
    assert {made.branch.count(k) for k in (1, 2)} == set(lengths)
    assert made.positions[:trunk] == (0, 1, 2)
    for k in (1, 2):
        assert [p for p, b in zip(made.positions, made.branch, strict=True) if b == k][:2] == [3, 4]
