"""The game's own formats, written small: what it shows is spelt as people write, what it says becomes WAV."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esrt.audio.io import load
from esrt.config import SAMPLE_RATE
from esrt.errors import UsageError
from esrt.train.sources import drascula, texts
from esrt.train.sources.spelling import Spelling

LANGUAGES = ("eng", "spa", "deu", "fra", "ita", "rus")
ENCODINGS = ("cp850",) * 5 + ("cp1251",)
SIZES = (4, 4, 4, 2, 4, 2, 4, 2, 2, 20, 20, 10, 8)
SPEAKERS = 10


def written(tables: list[list[list[str]]]) -> bytes:
    """Speaker -> language -> lines, as the game's file of texts, padded to four bytes."""
    made = b"DRASCULA\x06" + b"".join(struct.pack(">H", 2) + bytes(2 * size) for size in SIZES)
    made += struct.pack(">H", len(LANGUAGES))
    for table in tables:
        made += struct.pack(">H", len(table[0]))
        for lines, encoding in zip(table, ENCODINGS, strict=True):
            entries = b""
            for line in lines:
                text = line.encode(encoding) + b"\0"
                text += bytes(-(len(text) + 2) % 4)
                entries += struct.pack(">H", len(text) + 2) + text
            made += struct.pack(">H", len(entries) + 2) + bytes(2) + entries
    return made


def game(root: Path, tables: list[list[list[str]]]) -> Path:
    path = root / drascula.GAME / "en/drascula.dat"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(written(tables))
    return path


LINES = st.lists(st.text("ABC ÑÉß!¿'", min_size=1).map(lambda text: " ".join(text.split())), min_size=3, max_size=3)


@given(st.lists(st.tuples(*[LINES] * 5), min_size=SPEAKERS, max_size=SPEAKERS))
def test_every_line_is_read(tmp_path_factory: pytest.TempPathFactory, tables: list[tuple[list[str], ...]]) -> None:
    root = tmp_path_factory.mktemp("game")
    russian = ["ДА", "НЕТ", "Я"]
    game(root, [[*table, russian] for table in tables])
    found = drascula.dialogue(root)
    assert len(found) == SPEAKERS * 3
    assert found["VB", 2] == dict(zip(LANGUAGES, [lines[2] for lines in (*tables[-1], russian)], strict=True))
    assert [found["", line]["spa"] for line in range(3)] == tables[0][1]


def lines(eng: str, spa: str) -> list[list[str]]:
    return [[eng], [spa], [""], ["C'EST MOI"], [""], ["ЭТО Я"]]


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two lines of the hero's, one of which Igor says too, and one of Igor's own; and sentences of other games."""
    table = [[a + b for a, b in zip(lines("WHO AM I, IGOR?", "¿QUIEN SOY, IGOR?"), lines("NO", "NO"), strict=True)]]
    igor = [a + b for a, b in zip(lines("NO", "NO"), lines("THE MASTER (BEEP)", "EL AMO ESTA AQUI"), strict=True)]
    empty: list[list[str]] = [[] for _ in LANGUAGES]
    game(tmp_path, [*table, *[empty] * 4, igor, *[empty] * 4])
    others = {
        "eng": ["Here I am, and there is Igor, the master.", "Who is it? THE END"],
        "spa": ["El amo está aquí, dijo Igor, y soy yo; ¿no sabe quién?"],
        "fra": ["Oui, c’est moi."],
        "rus": ["Нет, это я."],
    }

    def read(root: Path, wanted: set[str]) -> list[dict[str, str]]:
        return [{each: text} for each in wanted for text in others.get(each, [])]

    monkeypatch.setattr(texts, "read", read)
    sound = bytes(32) + bytes([128, 255] * 11025)
    for name in ("en/0", "es/0", "en/1", "es/1", "es/I0", "es/I1", "en/I1"):
        path = tmp_path / drascula.GAME / f"{name}.ALS"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sound)
    return tmp_path


def test_the_hero_is_taught_and_others_are_held_out(unpacked: Path, tmp_path: Path) -> None:
    rows = list(drascula.rows(unpacked, tmp_path / "clips", test=False, sources=drascula.SPOKEN))
    assert [(row.id, row.tgt, row.asr, row.s2tt) for row in rows if row.src == "spa"] == [
        ("drascula-spa-0", "", "¿Quién soy, Igor?", ""),
        ("drascula-spa-0", "eng", "¿Quién soy, Igor?", "Who am I, Igor?"),
        ("drascula-spa-0", "fra", "¿Quién soy, Igor?", "C'est moi"),
        ("drascula-spa-0", "rus", "¿Quién soy, Igor?", "Это я"),
    ], "NO takes no two seconds, so line 1 is none"
    samples = load(rows[0].audio)
    assert abs(samples.size - 2 * SAMPLE_RATE) < 50 and np.abs(samples).max() > 0.4
    held = list(drascula.rows(unpacked, tmp_path / "clips", test=True, sources=drascula.SPOKEN))
    assert {(row.id, row.asr) for row in held} == {("drascula-spa-I1", "El amo está aquí")}
    assert {row.tgt for row in held} == {"", "fra", "rus"}, "a beep is no translation"
    english = list(drascula.rows(unpacked, tmp_path / "english", test=False, sources=["eng"]))
    assert {row.src for row in english} == {"eng"}
    assert all(path.name.startswith("drascula-eng") for path in (tmp_path / "english").iterdir())


@pytest.mark.parametrize("keep", [0, 8, 100, 600, -3])
def test_a_damaged_file_of_texts(unpacked: Path, keep: int) -> None:
    path = unpacked / drascula.GAME / "en/drascula.dat"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UsageError, match="is damaged") as caught:
        drascula.dialogue(unpacked)
    assert caught.value.code == "wrong_layout"


def test_spelling_keeps_accents_and_what_it_does_not_know() -> None:
    spelling = Spelling(["Nun, der Schlüssel ist über der Tür.", "Er weiß es.", "Où est là ou la clé?", "Et où ou ou?"])
    assert spelling.restored("DER SCHLueSSEL. ER WEISS ES") == "Der Schlüssel. Er weiß es"
    assert spelling.restored("OU EST LÀ") == "Ou est là"
    assert spelling.restored("Frag Igor, NICHT mich") == "Frag Igor, NICHT mich"
    assert spelling.restored("FRAG IGOR") == "Frag igor"
