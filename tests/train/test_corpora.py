"""The corpora of the Hub, read from small copies of their real layouts, and speech folders."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from esrt.audio.io import load
from esrt.errors import UsageError
from esrt.train.manifest import Row
from esrt.train.sources import commonvoice, covost2, files, fleurs, parquet, speech_folder
from tests.train import corpora


def said(rows: list[Row]) -> set[tuple[str, str, str, str]]:
    return {(row.src, row.tgt, row.asr, row.s2tt) for row in rows}


def code(caught: pytest.ExceptionInfo[UsageError]) -> str:
    return caught.value.code


def test_fleurs_gives_any_pair_by_its_sentence_ids(tmp_path: Path) -> None:
    where = str(corpora.fleurs_parquet(tmp_path / "hub"))
    rows = list(fleurs.rows(where, ["eng", "fra"], ["fra", "cmn"], "train", tmp_path / "clips"))
    bridge, pont, qiao = (corpora.SENTENCES[name][3] for name in ("en_us", "fr_fr", "cmn_hans_cn"))
    assert said(rows) == {
        ("eng", "", bridge, ""),
        ("eng", "fra", bridge, pont),
        ("eng", "cmn", bridge, qiao),
        ("eng", "", "It rains.", ""),
        ("fra", "", pont, ""),
        ("fra", "cmn", pont, qiao),
    }, "raw text, with case and punctuation; other splits stay out"
    assert len({row.id for row in rows if row.asr == pont}) == 2, "two speakers, two clips"
    assert len(load(rows[0].audio)) == 8000
    assert sorted(path.name for path in (tmp_path / "clips/fra").iterdir()) == ["1030.wav", "1031.wav"]


@pytest.mark.parametrize("packed", [True, False])
def test_fleurs_as_it_was_published(tmp_path: Path, packed: bool) -> None:
    where = str(corpora.fleurs_published(tmp_path / "fleurs", packed))
    rows = list(fleurs.rows(where, ["eng"], ["cmn"], "validation", tmp_path / "clips"))
    assert ("eng", "cmn", 'The "old" bridge is closed.', "老桥关闭了。") in said(rows)
    assert len(rows) == 5 and all(len(load(row.audio)) == 8000 for row in rows)
    assert (tmp_path / "clips").is_dir() == packed
    next((Path(where) if not packed else tmp_path / "clips").rglob("1050.wav")).unlink()
    if not packed:
        with pytest.raises(UsageError, match=r"1050\.wav is not there"):
            list(fleurs.rows(where, ["eng"], [], "validation", tmp_path / "clips"))


@pytest.mark.parametrize("share", [0.5, 0])
def test_a_download_of_fleurs_that_broke_off(tmp_path: Path, share: float) -> None:
    where = corpora.fleurs_published(tmp_path / "fleurs", True)
    (packed,) = where.rglob("en_us/audio/dev.tar.gz")
    content = packed.read_bytes()
    packed.write_bytes(content[: int(share * len(content))] or b"<html>Not found</html>")
    with pytest.raises(UsageError, match=r"dev\.tar\.gz is damaged") as caught:
        list(fleurs.rows(str(where), ["eng"], ["cmn"], "validation", tmp_path / "clips"))
    assert code(caught) == "wrong_layout"


def test_covost2_from_parquet(tmp_path: Path) -> None:
    where = str(corpora.covost2_parquet(tmp_path / "hub"))
    rows = list(covost2.rows(where, ["eng"], ["deu", "cmn"], "train", tmp_path / "clips"))
    assert [(row.src, row.tgt, row.asr, row.s2tt) for row in rows] == [
        ("eng", "", "Hello.", ""),
        ("eng", "deu", "Hello.", "Hallo."),
        ("eng", "cmn", "Hello.", "你好。"),
    ], "the transcript once, although each pair's files have the clip"
    assert len({row.audio for row in rows}) == 1 and len(load(rows[0].audio)) == 8000
    with pytest.raises(UsageError, match="one of the two must be eng") as caught:
        list(covost2.rows(where, ["fra"], ["deu"], "train", tmp_path / "clips"))
    assert code(caught) == "not_in_covost2"


def test_covost2_beside_common_voice_4(tmp_path: Path) -> None:
    where = str(corpora.covost2_published(tmp_path))
    train = list(covost2.rows(where, ["fra"], ["eng"], "train", tmp_path / "clips"))
    assert said(train) == {
        ("fra", "", 'Il dit : "non".', ""),
        ("fra", "eng", 'Il dit : "non".', 'He says: "no".'),
        ("fra", "", "Bonjour.", ""),
        ("fra", "eng", "Bonjour.", "Hello."),
    }
    assert len(load(train[0].audio)) == 8000 and not (tmp_path / "clips").exists()
    validation = list(covost2.rows(where, ["fra"], ["eng"], "validation", tmp_path / "clips"))
    assert {row.asr for row in validation} == {"Oui."}
    with pytest.raises(UsageError, match=r"covost_v2\.en_fr\.tsv|en/|en_fr"):
        list(covost2.rows(where, ["eng"], ["fra"], "train", tmp_path / "clips"))


def test_commonvoice_as_its_archives_unpack(tmp_path: Path) -> None:
    where = str(corpora.commonvoice(tmp_path))
    for split, sentence in (("train", 'Il dit : "non".'), ("validation", "Bonjour."), ("test", "Oui.")):
        assert said(list(commonvoice.rows(where, ["fra"], split, tmp_path / "clips"))) == {("fra", "", sentence, "")}
    (tmp_path / "fr/clips/common_voice_fr_1.mp3").unlink()
    with pytest.raises(UsageError, match=r"common_voice_fr_1\.mp3 is not there: unpack"):
        list(commonvoice.rows(where, ["fra"], "train", tmp_path / "clips"))
    (tmp_path / "fr/test.tsv").write_text("client_id\tpath\nc\tcommon_voice_fr_3.mp3\n")
    with pytest.raises(UsageError, match=r"test\.tsv, line 2: no column 'sentence'") as caught:
        list(commonvoice.rows(where, ["fra"], "test", tmp_path / "clips"))
    assert code(caught) == "wrong_layout"


def test_commonvoice_from_parquet(tmp_path: Path) -> None:
    sound = corpora.wav(tmp_path / "a.wav")
    entry = {
        "path": "x/common_voice_sv_1.mp3",
        "sentence": " Hej. ",
        "audio": {"bytes": sound, "path": "common_voice_sv_1.mp3"},
    }
    types = {"path": pa.string(), "sentence": pa.string()}
    corpora.parquet(tmp_path / "hub/sv-SE/train-00000-of-00001.parquet", [entry], types)
    (row,) = commonvoice.rows(str(tmp_path / "hub"), ["swe"], "train", tmp_path / "clips")
    assert (row.src, row.asr, row.audio) == ("swe", "Hej.", str(tmp_path / "clips/swe/common_voice_sv_1.mp3"))
    assert len(load(row.audio)) == 8000


def test_what_is_missing_shows_before_any_clip_is_written(tmp_path: Path) -> None:
    where = str(corpora.fleurs_parquet(tmp_path / "hub"))
    with pytest.raises(UsageError, match="de_de/train") as caught:
        list(fleurs.rows(where, ["eng", "deu"], [], "train", tmp_path / "clips"))
    assert code(caught) == "wrong_layout" and not (tmp_path / "clips").exists()
    with pytest.raises(UsageError, match="hub has neither"):
        list(commonvoice.rows(where, ["fra"], "train", tmp_path / "clips"))
    with pytest.raises(UsageError, match="no folder here"):
        list(fleurs.rows(str(tmp_path / "nowhere"), ["eng"], [], "train", tmp_path / "clips"))


def test_parquet_that_is_damaged_or_has_other_columns(tmp_path: Path) -> None:
    corpora.fleurs_parquet(tmp_path)
    with pytest.raises(UsageError, match="sentence") as caught:
        list(parquet.rows(str(tmp_path), "fr_fr", "train", ["audio", "sentence"]))
    assert code(caught) == "wrong_layout"
    (tmp_path / "fr_fr/train/0000.parquet").write_bytes(b"half a file")
    with pytest.raises(UsageError, match=r"0000\.parquet"):
        list(parquet.rows(str(tmp_path), "fr_fr", "train", ["id"]))


def test_the_hub_is_asked_for_both_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class FileSystem:
        def glob(self, pattern: str) -> list[str]:
            asked.append(pattern)
            return (
                ["datasets/google/fleurs@refs/convert/parquet/fr_fr/train/0000.parquet"] if "convert" in pattern else []
            )

    monkeypatch.setattr("huggingface_hub.HfFileSystem", FileSystem)
    found = parquet._shards("google/fleurs", "fr_fr", "train")
    assert found == ["hf://datasets/google/fleurs@refs/convert/parquet/fr_fr/train/0000.parquet"]
    assert "datasets/google/fleurs/fr_fr/train-*.parquet" in asked

    def unreachable(self: object, pattern: str) -> list[str]:
        raise OSError("no route")

    monkeypatch.setattr(FileSystem, "glob", unreachable)
    with pytest.raises(UsageError, match="HF_TOKEN") as caught:
        parquet._shards("google/fleurs", "fr_fr", "train")
    assert code(caught) == "hub_unreachable"


def test_clips_without_a_name_and_two_of_one_name(tmp_path: Path) -> None:
    path = files.keep_clip(tmp_path, {"bytes": b"one", "path": None})
    assert path.suffix == ".wav" and path != files.keep_clip(tmp_path, {"bytes": b"two", "path": None})
    assert files.keep_clip(tmp_path, {"bytes": b"one", "path": "../up/a.wav"}) == tmp_path / "a.wav"
    assert files.keep_clip(tmp_path, {"bytes": b"one", "path": "a.wav"}).read_bytes() == b"one"
    with pytest.raises(UsageError, match="another clip") as caught:
        files.keep_clip(tmp_path, {"bytes": b"another", "path": "a.wav"})
    assert code(caught) == "clip_differs" and not list(tmp_path.glob("*.part"))


def speech(folder: Path, **texts: str) -> Path:
    corpora.wav(folder / "a.wav")
    for name, text in texts.items():
        (folder / f"{name.replace('_', '.')}.txt").write_text(text, encoding="utf-8")
    return folder


def test_a_speech_folder(tmp_path: Path) -> None:
    speech(
        tmp_path / "day one",
        a="\ufeffGuten\nMorgen. ",
        a_eng="Good morning.",
        a_fr="Bonjour.",
        a_b="Mit Punkt.",
        notes="x",
    )
    corpora.wav(tmp_path / "day one/a.b.WAV")
    (tmp_path / "README.md").touch()
    rows = list(speech_folder.rows(tmp_path, "deu"))
    assert [(row.id, row.tgt, row.asr, row.s2tt) for row in rows] == [
        ("day one/a.b", "", "Mit Punkt.", ""),
        ("day one/a", "", "Guten Morgen.", ""),
        ("day one/a", "eng", "Guten Morgen.", "Good morning."),
        ("day one/a", "fra", "Guten Morgen.", "Bonjour."),
    ]
    assert rows[1].audio == str(tmp_path / "day one/a.wav")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({}, "wrong_layout"),
        ({"a": " "}, "text_not_readable"),
        ({"a": "Hall\0."}, "text_not_readable"),
        ({"a": "Hallo.", "a_klingon": "x"}, "unknown_language"),
        ({"a": "Hallo.", "a_de": "x"}, "wrong_layout"),
        ({"a": "Hallo.", "a_en": "x", "a_eng": "y"}, "wrong_layout"),
    ],
)
def test_a_speech_folder_with_something_wrong(tmp_path: Path, texts: dict[str, str], expected: str) -> None:
    named = tmp_path / f"{list(texts or 'a')[-1].replace('_', '.')}.txt"
    with pytest.raises(UsageError, match=re.escape(str(named))) as caught:
        list(speech_folder.rows(speech(tmp_path, **texts), "deu"))
    assert code(caught) == expected


def test_two_recordings_cannot_share_a_text(tmp_path: Path) -> None:
    (speech(tmp_path, a="Hallo.") / "a.flac").write_bytes(b"")
    with pytest.raises(UsageError, match=r"a\.flac and a\.wav") as caught:
        list(speech_folder.rows(tmp_path, "deu"))
    assert code(caught) == "wrong_layout"


def test_a_speech_folder_without_speech(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError) as caught:
            list(speech_folder.rows(folder, "deu"))
        assert code(caught) == "wrong_layout"
    (speech(tmp_path) / "a.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(UsageError, match="UTF-8"):
        list(speech_folder.rows(tmp_path, "deu"))


def test_tables_may_begin_with_a_mark_and_ids_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("\ufeffpath\tsentence\na.mp3\tOui.\n", encoding="utf-8")
    assert list(files.table(tmp_path / "t.tsv", ("path",))) == [{"path": "a.mp3", "sentence": "Oui."}]
    with pytest.raises(UsageError, match="'x' is no number") as caught:
        fleurs._number({"id": "x"}, "copy")
    assert code(caught) == "wrong_layout"


@pytest.mark.parametrize("damage", [b"\xe9\t\t\n", b"a" * 140_000 + b"\t\t\n"])
def test_a_table_that_is_no_text(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(b"path\tsentence\nclip.mp3\tOui.\n" + damage)
    with pytest.raises(UsageError, match=r"train\.tsv, after line \d") as caught:
        list(files.table(path, ("path", "sentence")))
    assert code(caught) == "wrong_layout"
