"""The trained model hears what is said: held-out human clips come out different, and recognisably right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jiwer
import pytest

from esrt.train.examples import plain
from esrt.train.manifest import held_out
from esrt.translator import Translator

CLIPS = Path(__file__).parent.parent / "data" / "held_out"
SAID = {
    "entr-num-rmv-blklist": "Please enter the number to be removed from the blacklist.",
    "vm-whichbox": "To leave a message, please enter a mailbox number.",
    "queue-periodic-announce": "All of our representatives are currently busy. Please stay on the line and your call "
    "will be answered by the next available representative.",
}


@pytest.fixture(scope="module")
def translator(model: Path) -> Iterator[Translator]:
    with Translator(str(model)) as translator:
        yield translator


@pytest.fixture(scope="module")
def heard(translator: Translator) -> dict[str, str]:
    return {name: plain(translator.transcribe(CLIPS / f"{name}.flac").transcript) for name in SAID}


def test_the_clips_were_not_trained_on() -> None:
    assert all(held_out(name) for name in SAID)


@pytest.mark.parametrize("name", SAID)
def test_a_transcript_is_recognisably_right(heard: dict[str, str], name: str) -> None:
    errors = {other: jiwer.cer(plain(said), heard[name] or "-") for other, said in SAID.items()}
    assert errors[name] < 0.5, heard[name]
    assert min(errors, key=errors.__getitem__) == name, "it is nearer to another clip's text"


def test_clips_differ(heard: dict[str, str]) -> None:
    assert len(set(heard.values())) == len(SAID)


def test_the_language_is_found(translator: Translator) -> None:
    results = [translator.transcribe(CLIPS / f"{name}.flac") for name in SAID]
    assert [result.source for result in results] == ["eng"] * len(SAID)
