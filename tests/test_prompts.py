"""Prompts and answers as the paper's table has them, and a parser that survives whatever a model writes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esrt.errors import UsageError
from esrt.languages import LANGUAGES
from esrt.prompts import _TAG, Parsed, Task, answer, parse, prompt, strip_tags

codes = st.sampled_from(list(LANGUAGES))
tags = st.sampled_from([*(language.tag for language in LANGUAGES.values()), "<|xyz|>", "<|endoftext|>", "<|0|>"])
# Text of any script, with no tag in it, as a transcript has it: no space around it.
plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<|>"), max_size=30).map(str.strip)
# What a model may write: texts, tags, and pieces of tags, in any order.
pieces = st.sampled_from(["<", "|", ">", "<|", "|>", "<|en", "<|eng|", "eng|>", "<|eng", " ", "\n", ""])
outputs = st.lists(st.one_of(plain, tags, pieces), max_size=12).map("".join)
# The same in a few languages, so that the tags of a pair are often the named ones.
few = st.sampled_from(["eng", "deu", "fra"])
short = st.lists(st.sampled_from(["Hi", "Hallo", "<|eng|>", "<|deu|>", "<|fra|>", "<|", "<|d"]), max_size=8).map(
    "".join
)
examples = settings(max_examples=300, deadline=None)


def one_line(text: str) -> str:
    return re.sub(r"[ \t\r\n]+", " ", text).strip()


def test_the_table_of_tasks() -> None:
    assert prompt(Task.ASR, "eng") == "<|eng|>"
    assert prompt(Task.ASR) == ""
    assert prompt(Task.SMT, "eng", "deu", "Text") == "Text<|eng|><|deu|>"
    assert prompt(Task.SRT, "eng", "deu") == "<|eng|><|deu|>"
    assert answer(Task.ASR, "eng", transcript="Text") == "Text"
    assert answer(Task.ASR, "eng", transcript="Text", named=False) == "Text<|eng|>"
    assert answer(Task.SMT, "eng", "deu", "Text", "Translation") == "Translation"
    assert answer(Task.SRT, "eng", "deu", "Text", "Translation") == "Text<|eng|><|deu|>Translation"


def test_an_unnamed_recognition_and_a_target_are_a_translation_prompt() -> None:
    heard = prompt(Task.ASR) + answer(Task.ASR, "eng", transcript="Text", named=False)
    assert heard + LANGUAGES["deu"].tag == prompt(Task.SMT, "eng", "deu", "Text")


@pytest.mark.parametrize(
    ("task", "source", "target", "transcript", "code"),
    [
        (Task.SMT, None, "deu", "Text", "missing_language"),
        (Task.SMT, "eng", None, "Text", "missing_language"),
        (Task.SMT, "eng", "deu", None, "missing_transcript"),
        (Task.SRT, "eng", None, None, "missing_language"),
        (Task.SRT, None, "deu", None, "missing_language"),
        (Task.ASR, "xx", None, None, "unknown_language"),
    ],
)
def test_what_a_prompt_needs(
    task: Task, source: str | None, target: str | None, transcript: str | None, code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        prompt(task, source, target, transcript)
    assert caught.value.code == code


@examples
@given(codes, codes, plain, plain)
def test_a_right_answer_is_read_back(source: str, target: str, said: str, meant: str) -> None:
    said, meant = one_line(said), one_line(meant)

    def read(task: Task, named: bool = True) -> Parsed:
        return parse(task, answer(task, source, target, said, meant, named), source if named else None, target)

    assert read(Task.ASR) == Parsed(source, said, None, None)
    assert read(Task.ASR, named=False) == Parsed(source, said, None, None)
    assert read(Task.SMT) == Parsed(source, "", target, meant or None)
    assert read(Task.SRT) == Parsed(source, said, target, meant or None)


SRT_OUTPUTS = [
    # what the model wrote, and what it says when eng -> deu was asked
    ("Hi\n\nthere<|eng|><|deu|>Hallo\n zusammen", Parsed("eng", "Hi there", "deu", "Hallo zusammen")),  # lines
    ("", Parsed("eng", "", "deu", None)),
    (" \n ", Parsed("eng", "", "deu", None)),
    ("Hi", Parsed("eng", "Hi", "deu", None)),  # no tag
    ("Hi<|eng|>", Parsed("eng", "Hi", "deu", None)),  # cut off
    ("Hi<|eng|><|deu|>", Parsed("eng", "Hi", "deu", None)),
    ("Hi<|eng|><|de", Parsed("eng", "Hi", "deu", None)),
    ("Hi<|", Parsed("eng", "Hi", "deu", None)),
    ("Hi<|eng|><|deu|>Hal", Parsed("eng", "Hi", "deu", "Hal")),
    ("Hi<|eng|>Hallo", Parsed("eng", "Hi", "deu", "Hallo")),  # half a pair
    ("Hi<|deu|>Hallo", Parsed("eng", "Hi", "deu", "Hallo")),
    ("Hi<|xyz|>Hallo", Parsed("eng", "Hi", "deu", "Hallo")),  # no such language
    ("Hi<|eng|><|fra|>Salut", Parsed("eng", "Hi", "fra", "Salut")),  # wrong pair
    ("Hi<|fra|><|deu|>Hallo", Parsed("eng", "Hi", "deu", "Hallo")),
    ("Hi<|deu|><|eng|>Hallo", Parsed("eng", "Hi", "deu", "Hallo")),
    ("Hi<|eng|><|deu|>Hallo<|eng|><|deu|>Du", Parsed("eng", "Hi", "deu", "Hallo")),  # tags twice
    ("Hi<|eng|><|eng|><|deu|><|deu|>Hallo", Parsed("eng", "Hi", "deu", "Hallo")),
    ("<|eng|><|deu|>Hi<|eng|><|deu|>Hallo", Parsed("eng", "Hi", "deu", "Hallo")),  # the prompt said again
    ("<|eng|><|deu|>Hallo", Parsed("eng", "", "deu", "Hallo")),  # nothing transcribed
    ("<|eng|><|deu|>", Parsed("eng", "", "deu", None)),
    (" Hi <|eng|><|deu|> Hallo \n", Parsed("eng", "Hi", "deu", "Hallo")),
]


@pytest.mark.parametrize(("text", "expected"), SRT_OUTPUTS)
def test_malformed_recognition_and_translation(text: str, expected: Parsed) -> None:
    assert parse(Task.SRT, text, "eng", "deu") == expected


@pytest.mark.parametrize(
    ("text", "source", "expected"),
    [
        ("Hi<|eng|>", None, Parsed("eng", "Hi", None, None)),
        ("Hi", None, Parsed(None, "Hi", None, None)),
        ("", None, Parsed(None, "", None, None)),
        ("<|eng|>", None, Parsed("eng", "", None, None)),
        ("<|eng|>Hi", None, Parsed("eng", "Hi", None, None)),
        ("<|fra|>Hi<|eng|>", None, Parsed("eng", "Hi", None, None)),
        ("Hi<|eng|><|deu|>Hallo", None, Parsed("eng", "Hi", None, None)),
        ("Hi<|xyz|><|eng|>", None, Parsed("eng", "Hi", None, None)),
        ("Hi<|en", None, Parsed(None, "Hi", None, None)),
        ("Hi<|fra|>", "eng", Parsed("eng", "Hi", None, None)),
    ],
)
def test_malformed_recognition(text: str, source: str | None, expected: Parsed) -> None:
    assert parse(Task.ASR, text, source) == expected


@pytest.mark.parametrize(
    ("text", "target", "translation"),
    [
        ("Hallo", "deu", "Hallo"),
        ("", "deu", None),
        ("<|deu|>", "deu", None),
        ("<|deu|>Hallo", "deu", "Hallo"),
        ("<|eng|><|deu|>Hallo", "deu", "Hallo"),
        ("Hallo<|eng|>Hi", "deu", "Hallo"),
        ("Hallo<|de", "deu", "Hallo"),
        ("Hi<|eng|><|deu|>Hallo", "deu", "Hallo"),
        ("Hi<|eng|><|fra|>Salut", "fra", "Salut"),
    ],
)
def test_malformed_translation(text: str, target: str, translation: str | None) -> None:
    assert parse(Task.SMT, text, "eng", "deu") == Parsed("eng", "", target, translation)


def check(text: str, parsed: Parsed, source: str | None, target: str | None) -> None:
    written = {tag for tag in LANGUAGES if f"<|{tag}|>" in text}
    assert parsed.source in {source, *written, None}
    assert parsed.target in {target, *written, None}
    assert parsed.source == source or source is None
    for part in (parsed.transcript, parsed.translation or ""):
        assert not _TAG.search(part)
        assert part in one_line(text)
        assert part == one_line(part)
    assert parsed.translation != ""


@examples
@given(st.sampled_from(Task), outputs, st.none() | codes, st.none() | codes)
def test_any_output_is_read(task: Task, text: str, source: str | None, target: str | None) -> None:
    check(text, parse(task, text, source, target), source, target)


@examples
@given(st.sampled_from(Task), short, st.none() | few, st.none() | few)
def test_any_order_of_tags_is_read(task: Task, text: str, source: str | None, target: str | None) -> None:
    parsed = parse(task, text, source, target)
    check(text, parsed, source, target)
    # No text is lost altogether, whatever the tags around it are.
    if "H" in text:
        assert parsed.transcript or parsed.translation


@examples
@given(few, few, st.integers(0, 40))
def test_any_cut_of_a_right_answer_keeps_what_came_before(source: str, target: str, cut: int) -> None:
    text = answer(Task.SRT, source, target, "Hi there.", "Hallo ihr.")[:cut]
    parsed = parse(Task.SRT, text, source, target)
    assert parsed.transcript == text.split("<")[0].strip()
    assert (parsed.translation or "") == text[len(f"Hi there.<|{source}|><|{target}|>") :].strip()


@examples
@given(outputs)
def test_text_cannot_bring_tags_of_its_own(text: str) -> None:
    clean = strip_tags(text)
    assert not _TAG.search(clean)
    assert prompt(Task.SMT, "eng", "deu", text).count("<|deu|>") == 1
    assert strip_tags(clean) == clean
    if not _TAG.search(text):
        assert clean == text
