"""Batches: a function of seed and number; examples: what each task asks and what the loss sees."""

from __future__ import annotations

import random

import pytest

from esrt.languages import LANGUAGES
from esrt.train.examples import example, plain
from esrt.train.manifest import Row
from esrt.train.sampler import Clip, Sampler, clips

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
    drawn = [clip for step in range(50) for clip in one.batch("I", step, 8)[0]]
    assert 0.35 < sum(clip.source == "spa" for clip in drawn) / len(drawn) < 0.65, "languages are drawn evenly"
    spread = [max(c.frames for c in b) - min(c.frames for c in b) for b in (one.batch("I", s, 8)[0] for s in range(50))]
    assert sum(spread) / len(spread) < 60, "clips of a batch are of like length"


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
        made = example(clip, task, Words(), end, unnamed, random.Random(0))
        assert list(made.ids) == ids, (task, unnamed)
        assert "".join("01"[flag] for flag in made.learned) == learned, (task, unnamed)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("¿Qué? ¡No!", "qué no"), ("It's 5 o'clock_", "it's 5 o'clock"), ("Привет, мир.", "привет мир")],
)
def test_plain(text: str, wanted: str) -> None:
    assert plain(text) == wanted


def test_translations_fork_where_the_transcript_ends() -> None:
    clip = Clip("a.wav", "eng", "Good morning.", (("deu", "Guten Morgen."), ("fra", "Bonjour.")), 90)
    made = example(clip, "srt", Words(), 1, True, random.Random(0))
    trunk, lengths = 3, {2 + 2: "deu", 1 + 2: "fra"}
    assert made.branch[:trunk] == (0, 0, 0)
    assert {made.branch.count(k) for k in (1, 2)} == set(lengths)
    assert made.positions[:trunk] == (0, 1, 2)
    for k in (1, 2):
        assert [p for p, b in zip(made.positions, made.branch, strict=True) if b == k][:2] == [3, 4]
