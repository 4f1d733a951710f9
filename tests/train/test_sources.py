"""Sources read the real layouts of their packages, made small here."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esrt.audio.io import load
from esrt.config import SAMPLE_RATE
from esrt.errors import UsageError
from esrt.train.manifest import Row, held_out, write_manifest
from esrt.train.sources import asterisk, catalogues, fillets, synth, texts, tuxpaint


def names(test: bool, count: int) -> list[str]:
    return [name for name in (f"prompt-{n}" for n in range(1000)) if held_out(name) == test][:count]


def test_asterisk_aligns_languages_by_prompt_and_holds_prompts_out(tmp_path: Path) -> None:
    seen, kept, twin = names(False, 2), names(True, 1), names(True, 2)[1]
    texts = [f"{name}: This is {name}." for name in (*seen, *kept, twin)]
    path = tmp_path / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("\n".join(["; Core", "", *texts, "beep: [a tone]"]).encode()))
    for language in ("eng", "ita"):
        for name in (*seen, *kept, twin, "beep"):
            audio = asterisk.audio_path(tmp_path, language, name)
            audio.parent.mkdir(parents=True, exist_ok=True)
            audio.write_bytes(bytes(asterisk.SHORTEST))
    asterisk.audio_path(tmp_path, "ita", seen[1]).write_bytes(b"")  # empty recordings exist
    italian = {"ita": {name: f"Questo è {name}." for name in seen + kept}}
    italian["ita"][twin] = f"questo è {seen[0]}"  # another prompt's words, which training has

    rows = list(asterisk.rows(tmp_path, italian, test=False))
    assert {row.id for row in rows} == {f"asterisk-eng-{name}" for name in seen} | {f"asterisk-ita-{seen[0]}"}
    pairs = {(row.src, row.tgt): row for row in rows if row.id.endswith(seen[0])}
    assert set(pairs) == {("eng", ""), ("ita", ""), ("eng", "ita"), ("ita", "eng")}
    assert pairs["ita", "eng"].s2tt == f"This is {seen[0]}."
    assert {row.id for row in asterisk.rows(tmp_path, italian, test=True)} == {
        f"asterisk-{code}-{kept[0]}" for code in ("eng", "ita")
    }

    folder, ending = asterisk.OTHER_VOICES["ita"]
    for name in (*seen, *kept, twin):
        other = tmp_path / asterisk.SOUNDS / folder / f"{name}.{ending}"
        other.parent.mkdir(parents=True, exist_ok=True)
        other.touch()
    [row] = asterisk.other_voices(tmp_path, italian)
    assert (row.src, row.tgt, row.asr, row.s2tt) == ("ita", "eng", "", f"This is {kept[0]}.")


def test_fillets_joins_speech_and_texts(tmp_path: Path) -> None:
    scene = next(f"scene{n}" for n in range(100) if not held_out(f"scene{n}"))
    games = tmp_path / "usr/share/games/fillets-ng"
    (games / "script" / scene).mkdir(parents=True)
    entry = 'dialogId("a-1", "font_small", "Where are\nwe?")\n'
    (games / "script" / scene / "dialogs_en.lua").write_text(entry, encoding="utf-8")
    (games / "script" / scene / "dialogs_cs.lua").write_text(entry + 'dialogStr("Kde to jsme?")\n', encoding="utf-8")
    (games / "sound" / scene / "cs").mkdir(parents=True)
    (games / "sound" / scene / "cs/a-1.ogg").touch()
    rows = list(fillets.rows(tmp_path, test=False))
    assert [(row.src, row.tgt, row.asr, row.s2tt) for row in rows] == [
        ("ces", "", "Kde to jsme?", ""),
        ("ces", "eng", "Kde to jsme?", "Where are we?"),
    ]
    assert not list(fillets.rows(tmp_path, test=True))


def catalogue(entries: dict[str, str]) -> bytes:
    """A compiled gettext catalogue."""
    pairs = sorted({"": "Content-Type: text/plain; charset=UTF-8\n", **entries}.items())
    keys, values = zip(*((k.encode(), v.encode()) for k, v in pairs), strict=True)
    place, tables = 28 + 16 * len(pairs), []
    for words in (keys, values):
        for text in words:
            tables.append(struct.pack("<II", len(text), place))
            place += len(text) + 1
    header = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return header + b"".join(tables) + b"".join(text + b"\0" for text in keys + values)


def test_catalogues_keep_plain_sentences_in_the_languages_asked_for(tmp_path: Path) -> None:
    sentences = (
        ("de", "Guten Morgen, alter Freund."),
        ("fr", "Bonjour, mon vieil ami."),
        ("pt_BR", "Bom dia, velho amigo."),
        ("pl", "Dzień dobry, stary druhu."),
    )
    for locale, words in sentences:
        folder = tmp_path / "usr/share/games/wesnoth/1.16/locale" / locale / "LC_MESSAGES"
        folder.mkdir(parents=True)
        entries = {
            "scene^Good morning, old friend.": words,
            "Press <b>$key</b> to go on now": "x",
            "Same as it was": "Same as it was",
            "Nobody has translated this one.": " ",
        }
        (folder / "wesnoth.mo").write_bytes(catalogue(entries))
    expected = {
        "eng": "Good morning, old friend.",
        "fra": "Bonjour, mon vieil ami.",
        "deu": "Guten Morgen, alter Freund.",
        "por": "Bom dia, velho amigo.",
    }
    assert catalogues.sentences(tmp_path, ("eng", "fra", "deu", "por", "khm")) == [expected]
    assert texts.read(tmp_path, {"eng", "fra", "deu", "por"}) == [expected]
    (folder / "wesnoth.mo").write_bytes(b"no catalogue")
    with pytest.raises(UsageError, match=r"wesnoth\.mo is no catalogue"):
        catalogues.sentences(tmp_path, ("pol",))


def test_tuxpaint_joins_captions_and_their_speech(tmp_path: Path) -> None:
    def stamp(name: str, english: str) -> None:
        path = tmp_path / f"usr/share/tuxpaint/stamps/animals/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            english,
            "de.utf8=Ein Hund.",
            "es.utf8=Un perro (25 cm).",
            "ro.utf8=Un  câine.",
            "zh_CN.utf8=狗。",
            "zh_TW.utf8=狗",
        ]
        lines += ["pt.utf8=Um cão.", "pt_BR.utf8=Um cachorro.", "ca@valencia.utf8=Un gos.", "son.utf8=Hansi."]
        path.write_text("\n".join(lines), encoding="utf-8")
        for voice in ("", "_ro", "_es", "_pt_BR", "_son"):
            (path.parent / f"{name}_desc{voice}.ogg").touch()

    captions = [f"A dog {word}." for word in "abcdefghijklmnopqrst"]
    seen, kept = ([text for text in captions if held_out(text) == test] for test in (False, True))
    stamp("dog", seen[0])
    stamp("puppy", kept[0])
    rows = list(tuxpaint.rows(tmp_path, test=False))
    assert {row.id for row in rows} == {f"tuxpaint-{code}-animals/dog" for code in ("eng", "ron", "por")}
    romanian = {row.tgt: (row.asr, row.s2tt) for row in rows if row.src == "ron"}
    assert romanian == {
        "": ("Un câine.", ""),
        "eng": ("Un câine.", seen[0]),
        "deu": ("Un câine.", "Ein Hund."),
        "cmn": ("Un câine.", "狗。"),
        "por": ("Un câine.", "Um cachorro."),
    }, "a caption with figures in it is not what was said"
    assert {row.id for row in tuxpaint.rows(tmp_path, test=True)} == {
        f"tuxpaint-{code}-animals/puppy" for code in ("eng", "ron", "por")
    }


def test_transcripts_are_read_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"language": "ita", "id": "a", "text": "Ciao."}\n', encoding="utf-8")
    assert asterisk.read_transcripts(path) == {"ita": {"a": "Ciao."}}
    for line, reason in (
        ('{"language": "ita"}', "strings"),
        ('{"language": "it!", "id": "a", "text": "b"}', "it!"),
        ('{"language": "ita", "id": "a", "text": "b\\u0000"}', "NUL"),
    ):
        path.write_text("\n" + line, encoding="utf-8")
        with pytest.raises(UsageError, match=f"line 2: .*{reason}"):
            asterisk.read_transcripts(path)


@pytest.mark.parametrize("source", [fillets.rows, tuxpaint.rows, lambda root, test: asterisk.rows(root, {}, test)])
def test_packages_that_are_not_unpacked(tmp_path: Path, source: Any) -> None:
    with pytest.raises(UsageError, match="unpack") as caught:
        list(source(tmp_path, False))
    assert caught.value.code == "wrong_layout"


def test_texts_come_from_lines_or_from_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"eng": "Yes.", "deu": "Ja."}\n{"eng": "No."}\n', encoding="utf-8")
    assert texts.read(path, {"eng"}) == [{"eng": "Yes.", "deu": "Ja."}, {"eng": "No."}]
    for line, reason in (('{"en": "Yes."}', "'en'"), ('{"eng": 7}', "'eng'"), ('{"eng": " "}', "'eng'")):
        path.write_text('{"eng": "Yes."}\n' + line, encoding="utf-8")
        with pytest.raises(UsageError, match=f"line 2: .*{reason}"):
            texts.read(path, {"eng"})
    path.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="no texts"):
        texts.read(path, {"eng"})
    with pytest.raises(UsageError, match="no texts"):
        texts.read(tmp_path, {"eng"})
    rows = [
        Row("1", "1.wav", "eng", "", "Yes.", ""),
        Row("1", "1.wav", "eng", "deu", "Yes.", "Ja."),
        Row("2", "2.wav", "deu", "eng", "Ja.", "Yes."),
        Row("3", "3.wav", "eng", "", "No.", ""),
        Row("4", "4.wav", "eng", "", "", ""),
    ]
    write_manifest(path, rows)
    assert texts.read(path, {"eng"}) == [{"eng": "Yes.", "deu": "Ja."}, {"eng": "No."}], "each sentence once"


def test_a_recipe_always_sounds_the_same() -> None:
    """In a process of its own too, whatever was spoken before."""
    voices = [
        {"voice": voice, "speed": 160, "pitch": 40, "pitch_range": 50} for voice in ("en-us", "fr+f2", "de+UniRobot")
    ]
    recipes = [synth.recipe("Ça & là = 100 % + ç", seed, voice) for seed, voice in enumerate(voices)]
    first = [synth.load(recipe) for recipe in recipes]
    again = [synth.load(recipe) for recipe in reversed(recipes)][::-1]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    script = (
        "import sys, zlib; from esrt.train.sources import synth;"
        "print(*(zlib.crc32(synth.load(recipe).tobytes()) for recipe in sys.argv[1:]))"
    )
    run = subprocess.run([sys.executable, "-c", script, *recipes], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(zlib.crc32(samples.tobytes())) for samples in first]
    assert not np.array_equal(synth.load(recipes[0]), synth.load(recipes[0].replace("seed=0", "seed=1")))


@pytest.mark.parametrize(
    "recipe", ["synth:", "synth:voice=en&text=a&speed=fast&pitch=1&pitch_range=1&seed=1", "synth:text=a"]
)
def test_what_is_no_recipe(recipe: str) -> None:
    with pytest.raises(UsageError, match="not a recipe") as caught:
        synth.load(recipe)
    assert caught.value.code == "bad_recipe"


TEXTS = [{"eng": "Good morning.", "deu": "Guten Morgen."}, {"eng": "Where are we?", "fra": "Où sommes-nous ?"}]


def test_spoken_rows_name_every_translation(tmp_path: Path) -> None:
    rows = list(synth.rows("s", TEXTS, ["eng", "deu"], ["deu", "fra"], 3, tmp_path / "s"))
    english = [row for row in rows if row.src == "eng" and not row.tgt]
    assert [row.id for row in english] == ["s-eng-00000", "s-eng-00001", "s-eng-00002"]
    assert Counter(row.asr for row in english).most_common()[0][1] == 2, "each text as often as any other"
    assert {(row.src, row.tgt) for row in rows} == {("eng", ""), ("eng", "deu"), ("eng", "fra"), ("deu", "")}
    assert all(len(load(row.audio)) > SAMPLE_RATE // 4 for row in rows)
    assert rows == list(synth.rows("s", TEXTS, ["eng", "deu"], ["deu", "fra"], 3, tmp_path / "s")), "the seed repeats"

    recipes = list(synth.rows("s", TEXTS, ["deu"], [], None, None))
    assert [row.asr for row in recipes] == ["Guten Morgen."]
    assert np.abs(synth.load(recipes[0].audio) - load(tmp_path / "s/s-deu-00000.wav")).max() < 1e-3

    for sources, code in ((["khm"], "no_voice"), (["ita"], "no_texts")):
        with pytest.raises(UsageError) as caught:
            list(synth.rows("s", TEXTS, sources, [], None, None))
        assert caught.value.code == code
