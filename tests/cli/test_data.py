"""`esrt data`: each verb writes a manifest that training reads; what is wrong is one line, and leaves no file."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from esrt.cli.main import main, parser
from esrt.train.manifest import check, held_out, read_manifest
from esrt.train.sound import sound
from esrt.train.sources import asterisk
from tests.train import corpora
from tests.train.test_captions import mer

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
Esrt = Callable[..., str]


@pytest.fixture
def esrt(capsys: pytest.CaptureFixture[str]) -> Esrt:
    """Runs `esrt data ...` and returns what it printed."""

    def esrt(*arguments: str | Path) -> str:
        code = main(["data", *map(str, arguments)])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return esrt


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Esrt:
    """Runs `esrt data ...`, which must fail with one line, and returns that."""

    def refused(*arguments: str | Path) -> str:
        code = main(["data", *map(str, arguments)])
        said = capsys.readouterr()
        (line,) = [line for line in said.err.splitlines() if line.startswith("esrt: ")]
        assert code == 2 and said.out == "" and "Traceback" not in said.err
        return line

    return refused


@pytest.mark.parametrize(
    "verb",
    [
        "fleurs",
        "covost2",
        "commonvoice",
        "speech-folder",
        "asterisk",
        "fillets",
        "drascula",
        "tuxpaint",
        "synth",
        "check",
    ],
)
def test_help_has_examples_that_parse(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", verb, "--help"])
    examples = capsys.readouterr().out.split("\nexamples:\n")[1].strip().splitlines()
    assert examples
    for example in examples:
        command = shlex.split(re.split(r"\s{3,}", example.strip())[0])
        assert command[:3] == ["esrt", "data", verb]
        assert parser().parse_args(command[1:]).run


def test_the_documents_commands_parse() -> None:
    commands = re.findall(r"^esrt data .*$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert {command.split()[2] for command in commands} >= {"fleurs", "speech-folder", "synth", "check"}
    for command in commands:
        assert parser().parse_args(shlex.split(command, comments=True)[1:]).run


def test_fleurs(tmp_path: Path, esrt: Esrt) -> None:
    where, out = corpora.fleurs_parquet(tmp_path / "hub"), tmp_path / "data"
    assert (
        esrt("fleurs", where, "--source", "en,fr", "--target", "cmn", "--out", out) == f"{out}/fleurs.jsonl: 9 rows\n"
    )
    rows = check(out / "fleurs.jsonl")
    assert {(row.src, row.tgt) for row in rows} == {("eng", ""), ("eng", "cmn"), ("fra", ""), ("fra", "cmn")}
    assert rows[0].audio.startswith(f"{out}/fleurs/")
    esrt("fleurs", where, "--source", "eng", "--split", "test", "--out", out)
    assert [row.asr for row in check(out / "fleurs-test.jsonl")] == ["Nobody came."]


def test_commonvoice_and_covost2(tmp_path: Path, esrt: Esrt) -> None:
    where = corpora.covost2_published(tmp_path / "cv")
    esrt("commonvoice", where, "--source", "fra", "--out", tmp_path)
    esrt("covost2", where, "--source", "fra", "--out", tmp_path, "--name", "read")
    assert len(check(tmp_path / "commonvoice.jsonl")) == 1 and len(check(tmp_path / "read.jsonl")) == 4


def test_a_speech_folder_and_the_check(
    tmp_path: Path, esrt: Esrt, refused: Esrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        corpora.wav(tmp_path / f"mine/{name}.wav")
        (tmp_path / f"mine/{name}.txt").write_text("Guten Morgen.", encoding="utf-8")
        (tmp_path / f"mine/{name}.eng.txt").write_text("Good morning.", encoding="utf-8")
    esrt("speech-folder", "mine", "--source", "de", "--out", "data/deep")
    said = esrt("check", "data/deep/speech-folder.jsonl").split()
    assert said == ["data/deep/speech-folder.jsonl:", "4", "rows,", "2", "clips", "deu", "2", "deu", "->", "eng", "2"]
    (tmp_path / "mine/b.wav").unlink()
    assert "speech-folder.jsonl, line 3: there is no file" in refused("check", "data/deep/speech-folder.jsonl")


def test_mer2024_in_a_relative_folder(tmp_path: Path, esrt: Esrt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    mer(tmp_path / "theirs")
    esrt("mer2024", "theirs", "--out", "data")
    assert len(check(tmp_path / "data/mer2024.jsonl")) == 2


def packages(root: Path) -> Path:
    """Twenty prompts in English and Italian."""
    prompts = [f"prompt-{n}" for n in range(20)]
    path = root / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("\n".join(f"{name}: This is {name}." for name in prompts).encode()))
    for language in ("eng", "ita"):
        for name in prompts:
            audio = asterisk.audio_path(root, language, name)
            audio.parent.mkdir(parents=True, exist_ok=True)
            audio.write_bytes(bytes(asterisk.SHORTEST))
    entries = [{"language": "ita", "id": name, "text": f"Questo è {name}."} for name in prompts]
    (root / "transcripts.jsonl").write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    return root


def test_packages_keep_a_fifth_apart(tmp_path: Path, esrt: Esrt) -> None:
    root = packages(tmp_path / "unpacked")
    esrt("asterisk", root, "--transcripts", root / "transcripts.jsonl", "--target", "eng", "--out", tmp_path / "data")
    train, test = (check(tmp_path / f"data/asterisk{suffix}.jsonl") for suffix in ("", "-test"))
    assert {(row.src, row.tgt) for row in train} == {("eng", ""), ("ita", ""), ("ita", "eng")}
    for rows, held in ((train, False), (test, True)):
        assert {held_out("prompt-" + row.id.rpartition("-")[2]) for row in rows} == {held}
    esrt("asterisk", root, "--source", "eng", "--out", tmp_path / "english")
    assert {row.src for row in read_manifest(tmp_path / "english/asterisk.jsonl")} == {"eng"}


def test_other_voices_are_in_a_manifest_of_their_own(tmp_path: Path, esrt: Esrt) -> None:
    root = packages(tmp_path / "unpacked")
    folder, ending = asterisk.OTHER_VOICES["spa"]
    (root / asterisk.SOUNDS / folder).mkdir()
    for number in range(20):
        (root / asterisk.SOUNDS / folder / f"prompt-{number}.{ending}").touch()
    esrt("asterisk", root, "--target", "eng", "--out", tmp_path / "data")
    kept = {row.id.rpartition("-")[2] for row in check(tmp_path / "data/asterisk-test.jsonl")}
    others = check(tmp_path / "data/asterisk-voices.jsonl")
    assert {(row.src, row.tgt, row.asr) for row in others} == {("spa", "eng", "")}
    assert {row.id.rpartition("-")[2] for row in others} == kept


def test_recordings_are_revoiced(tmp_path: Path, esrt: Esrt, examples: Path) -> None:
    (tmp_path / "own.jsonl").write_text(
        json.dumps(
            {"id": "a", "audio": str(examples / "spanish.flac"), "src": "spa", "tgt": "", "asr": "¿Sí?", "s2tt": ""}
        )
        + "\n",
        encoding="utf-8",
    )
    esrt("revoice", tmp_path / "own.jsonl", "--each", "3", "--name", "again", "--out", tmp_path / "data")
    rows = check(tmp_path / "data/again.jsonl")
    assert len({row.audio for row in rows}) == 3 and {row.asr for row in rows} == {"¿Sí?"}


def test_synth_stores_speech_or_recipes(tmp_path: Path, esrt: Esrt) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"eng": "Good morning.", "deu": "Guten Morgen."}\n{"eng": "Where are we?"}\n', encoding="utf-8")
    esrt("synth", texts, "--source", "eng", "--target", "deu", "--each", "3", "--out", tmp_path / "data")
    stored = check(tmp_path / "data/synth.jsonl")
    assert len({row.audio for row in stored}) == 3 and Path(stored[0].audio).parent == tmp_path / "data/synth"
    options = ("--source", "eng", "--each", "3", "--on-the-fly", "--name", "live", "--out", tmp_path / "data")
    esrt("synth", texts, *options)
    live = check(tmp_path / "data/live.jsonl")
    assert [row.asr for row in live] == [row.asr for row in stored] and not (tmp_path / "data/live").exists()
    assert abs(sound(live[0].audio) - sound(stored[0].audio)).max() < 1e-3, "training hears the same"
    esrt("synth", tmp_path / "data/synth.jsonl", "--source", "deu", "--name", "again", "--out", tmp_path / "data")
    assert [row.asr for row in check(tmp_path / "data/again.jsonl") if not row.tgt] == ["Guten Morgen."]


def test_sounds_of_a_manifest_that_stands_are_not_written_over(tmp_path: Path, esrt: Esrt, refused: Esrt) -> None:
    texts, out = tmp_path / "texts.jsonl", ("--source", "eng", "--out", tmp_path)
    texts.write_text('{"eng": "Good morning."}\n', encoding="utf-8")
    esrt("synth", texts, *out)
    (spoken,) = (tmp_path / "synth").iterdir()
    before = spoken.read_bytes()
    esrt("synth", texts, *out, "--name", "live", "--on-the-fly")
    esrt("synth", texts, *out, "--name", "live", "--on-the-fly", "--seed", "1")
    for command, hint in (
        (("synth", texts, *out, "--seed", "1"), "is there"),
        (("synth", tmp_path / "live.jsonl", *out, "--name", "live", "--on-the-fly"), "is what is read"),
        (("revoice", tmp_path / "synth.jsonl", "--name", "synth", "--out", tmp_path), "is what is read"),
        (("prosody", texts, *out, "--name", "synth"), "is there"),
    ):
        line = refused(*command)
        assert hint in line and line.endswith("[would_overwrite]")
    assert spoken.read_bytes() == before and len(check(tmp_path / "synth.jsonl")) == 1


@pytest.mark.parametrize(
    ("command", "code", "hint"),
    [
        ("", "usage", "--help"),
        ("fleurs --out OUT", "usage", "--source"),
        ("fleurs --source fra", "usage", "--out"),
        ("fleurs --source germn --out OUT", "unknown_language", "deu"),
        ("fleurs --source fra --target , --out OUT", "no_language", "commas"),
        ("fleurs --source fra --split dev --out OUT", "usage", "dev"),
        ("fleurs HUB --source deu --out OUT", "wrong_layout", "de_de"),
        ("fleurs no/where --source deu --out OUT", "hub_unreachable", "local folder"),
        ("covost2 HUB --source fra --target deu --out OUT", "not_in_covost2", "eng"),
        ("commonvoice HUB --source fra --out OUT", "wrong_layout", "fr/train"),
        ("speech-folder NONE --source deu --out OUT", "wrong_layout", "no folder"),
        ("speech-folder HUB --source deu --out OUT", "wrong_layout", "a.wav"),
        ("asterisk NONE --out OUT", "wrong_layout", "unpack"),
        ("asterisk NONE --source fra --out OUT", "usage", "--transcripts"),
        ("asterisk NONE --transcripts NONE --out OUT", "manifest_not_readable", "No such file"),
        ("fillets NONE --out OUT", "wrong_layout", "unpack"),
        ("drascula NONE --out OUT", "wrong_layout", "unpack"),
        ("tuxpaint HUB --out OUT", "wrong_layout", "unpack"),
        ("synth NONE --source eng --out OUT", "manifest_not_readable", "No such file"),
        ("synth HUB --source eng --out OUT", "no_texts", "unpack"),
        ("synth TEXTS --source khm --out OUT", "no_voice", "Khmer"),
        ("synth TEXTS --source ita --out OUT", "no_texts", "Italian"),
        ("synth TEXTS --source eng --each 0 --out OUT", "usage", "'0'"),
        ("synth TEXTS --source eng --each 10000000000 --out OUT", "usage", "'10000000000'"),
        ("synth TEXTS --source eng,tgl --out OUT", "no_voice", "Tagalog"),
        ("synth TEXTS --source eng --speaker parrot --out OUT", "usage", "festival"),
        ("synth TEXTS --source eng --speaker festival --out OUT", "no_voice", "English"),
        ("synth TEXTS --source eng --speaker pico --on-the-fly --out OUT", "not_repeatable", "folder"),
        ("check NONE", "manifest_not_readable", "No such file"),
        ("check TEXTS", "manifest_bad_row", "line 1"),
    ],
)
def test_what_is_wrong_is_said_and_leaves_no_file(
    command: str, code: str, hint: str, tmp_path: Path, refused: Esrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "texts.jsonl").write_text('{"eng": "Good morning."}\n', encoding="utf-8")
    places = {"OUT": "out", "HUB": "hub", "NONE": "none", "TEXTS": "texts.jsonl"}
    if "HUB" in command:
        corpora.fleurs_parquet(tmp_path / "hub")
    arguments = [str(tmp_path / places[word]) if word in places else word for word in shlex.split(command)]
    line = refused(*arguments)
    assert line.endswith(f" [{code}]") and hint in line, line
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, refused: Esrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = corpora.fleurs_parquet(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'esrt[train]'" in refused("fleurs", where, "--source", "fra", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
