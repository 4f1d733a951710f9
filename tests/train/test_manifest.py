"""Manifests: what is written is read; what is wrong is named with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esrt.errors import UsageError
from esrt.languages import LANGUAGES
from esrt.train.manifest import Row, check, held_out, read_manifest, write_manifest

ROW = Row("a", "clips/a.wav", "eng", "deu", "Good morning.", "Guten Morgen.")
FIELDS = [name for name in ROW.__dict__ if name != "caption"]  # which may be left out


def test_round_trip_makes_paths_absolute(tmp_path: Path) -> None:
    assert write_manifest(tmp_path / "m.jsonl", [ROW]) == 1
    (row,) = read_manifest(tmp_path / "m.jsonl")
    assert row.audio == str(tmp_path / "clips/a.wav")
    assert (row.id, row.src, row.tgt, row.asr, row.s2tt) == ("a", "eng", "deu", "Good morning.", "Guten Morgen.")


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
LANGUAGE = st.sampled_from(list(LANGUAGES))


@st.composite
def row(draw: st.DrawFn) -> Row:
    target = draw(LANGUAGE | st.just(""))
    translation = draw(TEXT.filter(bool)) if target else ""
    audio = draw(st.sampled_from(["a.wav", "clips/ü b.wav", "/elsewhere/c.g722", "synth:voice=en%2Bf1&text=a+b"]))
    source = draw(LANGUAGE.filter(lambda code: code != target))
    return Row(draw(TEXT.filter(bool)), audio, source, target, draw(TEXT), translation)


@settings(max_examples=60, deadline=None)
@given(st.lists(row(), min_size=1, max_size=4))
def test_any_text_comes_back(rows: list[Row]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        assert write_manifest(folder / "m.jsonl", rows) == len(rows)
        expected = [
            each if each.audio.startswith("synth:") else replace(each, audio=str(folder / each.audio)) for each in rows
        ]
        assert read_manifest(folder / "m.jsonl") == expected


def test_sound_below_the_manifest_moves_with_it(tmp_path: Path) -> None:
    (tmp_path / "one/clips").mkdir(parents=True)
    (tmp_path / "one/clips/a.wav").touch()
    write_manifest(tmp_path / "one/m.jsonl", [replace(ROW, audio=str(tmp_path / "one/clips/a.wav"))])
    (tmp_path / "one").rename(tmp_path / "two")
    assert check(tmp_path / "two/m.jsonl")[0].audio == str(tmp_path / "two/clips/a.wav")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "one JSON object"),
        pytest.param("[" * 100_000, "not JSON", id="deep"),
        ("7", "one JSON object"),
        (json.dumps({"id": "a"}), "'audio' is missing"),
        *(
            (json.dumps({k: v for k, v in ROW.__dict__.items() if k != name}), f"{name!r} is missing")
            for name in FIELDS
        ),
        *((json.dumps({**ROW.__dict__, name: None}), f"{name!r} is not a string") for name in FIELDS),
        (json.dumps({**ROW.__dict__, "asr": 7}), "'asr' is not a string"),
        (json.dumps({**ROW.__dict__, "asr": "half \ud83d"}), "'asr' has half of a character"),
        (json.dumps({**ROW.__dict__, "s2tt": "", "caption": "half \ud83d"}), "'caption' is no text"),
        (json.dumps({**ROW.__dict__, "id": ""}), "'id' is empty"),
        (json.dumps({**ROW.__dict__, "audio": ""}), "'audio' is empty"),
        (json.dumps({**ROW.__dict__, "audio": "a\0.wav"}), "NUL"),
        (json.dumps({**ROW.__dict__, "src": "xxx"}), "'xxx' in 'src'"),
        (json.dumps({**ROW.__dict__, "src": ""}), "'' in 'src'"),
        (json.dumps({**ROW.__dict__, "tgt": "german"}), "'german' in 'tgt'"),
        (json.dumps({**ROW.__dict__, "s2tt": ""}), "go together"),
        (json.dumps({**ROW.__dict__, "tgt": ""}), "go together"),
        (json.dumps({**ROW.__dict__, "tgt": ROW.src}), "into another language"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(ROW.__dict__) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"m\.jsonl, line 3: .*" + reason) as caught:
        read_manifest(path)
    assert caught.value.code == "manifest_bad_row"


def test_fields_of_others_are_let_through(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({**ROW.__dict__, "prompt": "<|eng|>"}) + "\r\n", encoding="utf-8")
    assert read_manifest(tmp_path / "m.jsonl")[0].id == "a"


def test_missing_empty_and_not_text(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "latin.jsonl").write_bytes("é".encode("latin-1"))
    for name, code in (
        ("none.jsonl", "manifest_not_readable"),
        (".", "manifest_not_readable"),
        ("latin.jsonl", "manifest_not_readable"),
        ("empty.jsonl", "manifest_empty"),
    ):
        with pytest.raises(UsageError) as caught:
            read_manifest(tmp_path / name)
        assert caught.value.code == code


def test_missing_sound_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    there, spoken = replace(ROW, audio="a.wav"), replace(ROW, audio="synth:text=a")
    write_manifest(tmp_path / "m.jsonl", [there, spoken])
    assert len(check(tmp_path / "m.jsonl")) == 2
    write_manifest(tmp_path / "m.jsonl", [there, spoken, ROW])
    assert len(read_manifest(tmp_path / "m.jsonl")) == 3, "cached features need no sound"
    with pytest.raises(UsageError, match=r"line 3: there is no file .*clips/a\.wav") as caught:
        check(tmp_path / "m.jsonl")
    assert caught.value.code == "manifest_no_audio"
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    for audio in ("a" * 300, "loop.wav"):
        write_manifest(tmp_path / "m.jsonl", [there, replace(ROW, audio=audio)])
        with pytest.raises(UsageError, match="line 2: there is no file"):
            check(tmp_path / "m.jsonl")


def test_nothing_and_what_breaks_off_leave_what_was_there(tmp_path: Path) -> None:
    def breaks_off() -> Iterator[Row]:
        yield ROW
        raise UsageError("wrong_layout", "gone")

    with pytest.raises(UsageError) as caught:
        write_manifest(tmp_path / "deep/m.jsonl", [])
    assert caught.value.code == "no_rows" and not list(tmp_path.iterdir())
    write_manifest(tmp_path / "m.jsonl", [ROW, ROW])
    with pytest.raises(UsageError, match="gone"):
        write_manifest(tmp_path / "m.jsonl", breaks_off())
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]
    assert len(read_manifest(tmp_path / "m.jsonl")) == 2


def test_a_fifth_is_held_out() -> None:
    share = sum(held_out(f"prompt-{n}") for n in range(5000)) / 5000
    assert 0.17 < share < 0.23


def test_a_manifest_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, wrong in (
        (tmp_path / "file" / "m.jsonl", ROW),
        (tmp_path / "m.jsonl", replace(ROW, audio="caf\udce9.wav")),
        (tmp_path / "m.jsonl", replace(ROW, asr="half \ud83d")),
    ):
        with pytest.raises(UsageError) as caught:
            write_manifest(path, [wrong])
        assert caught.value.code == "manifest_not_written" and str(path) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
