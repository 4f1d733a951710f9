"""What measures training: pages, charts, the small loop, comparisons; and Whisper, which must know what is said."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from esrt.audio.io import load
from esrt.bench import page
from esrt.bench.chart import line_chart
from esrt.bench.training import ablation, arms, beams, score, speakers, starts, throughput
from esrt.bench.training.__main__ import PAGE, SECTIONS, main
from esrt.bench.training.memory import Watched
from esrt.config import PRESETS
from esrt.errors import UsageError
from esrt.evaluate.baselines.whisper import Whisper
from esrt.train.loop import Trainer
from esrt.train.manifest import Row, write_manifest
from tests.train.conftest import RECIPE, make_features, tiny_trainer

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    make_features(tmp_path)
    return tiny_trainer(tmp_path, tmp_path)


def test_a_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("# Title\n<!-- one -->\nold\n<!-- /one -->\ntext\n<!-- two -->\n<!-- /two -->\n", encoding="utf-8")
    page.replace_section(file, "one", r"new \1 | text")
    page.replace_section(file, "one", r"new \1 | text")
    assert file.read_text(encoding="utf-8") == (
        "# Title\n<!-- one -->\n\nnew \\1 | text\n\n<!-- /one -->\ntext\n<!-- two -->\n<!-- /two -->\n"
    )
    for wrong, name, code in ((file, "three", "section_missing"), (tmp_path / "no.md", "one", "page_missing")):
        with pytest.raises(UsageError) as caught:
            page.replace_section(wrong, name, "text")
        assert caught.value.code == code


def test_the_page_has_every_section() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for section in SECTIONS:
        assert f"<!-- {section.__name__} -->\n" in text and f"<!-- /{section.__name__} -->" in text
        assert f"python -m esrt.bench.training {section.__name__}" in text


def test_whisper_hears_pico_rather_than_espeak(tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    write_manifest(file, [Row("a", "a.wav", "ita", "", "La riunione comincia domani mattina alle nove.", "")])
    lines = [line.split(" | ") for line in speakers.run(file, 1).splitlines() if line.startswith("| ita")]
    wrong = {line[1]: int(line[5].rstrip("%")) for line in lines}
    assert wrong["pico"] < wrong["espeak-ng"], lines
    assert lines[1][:4] == ["| ita", "pico", "1", "100%"]


def test_a_chart_is_well_formed() -> None:
    drawn = line_chart({"a & b": [(0, 1.5), (100, 3.2)], "flat": [(0, 2.0), (90, 2.0)]}, "steps", "MB")
    root = ET.fromstring(drawn)
    lines = [line.attrib["points"] for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(lines) == 2
    heights = [float(point.split(",")[1]) for point in lines[1].split()]
    assert heights[0] == heights[1], "a flat line is drawn flat"
    rising = [float(point.split(",")[1]) for point in lines[0].split()]
    assert rising[1] < rising[0], "larger is higher up"


def test_a_watched_loop_is_the_loop(trainer: Trainer, tmp_path: Path) -> None:
    stage = replace(RECIPE.stages[-1], steps=20)
    recipe = replace(RECIPE, stages=(stage,))
    watched = Watched(recipe, trainer.network, trainer.batches, trainer.accelerator, tmp_path)
    watched.every = 5
    watched.run()
    assert [step for step, _ in watched.seen] == [5, 10, 15, 20]
    assert all(size > 10 for _, size in watched.seen)
    assert (tmp_path / "log.jsonl").exists() and (tmp_path / "state.safetensors").exists()


def test_held_back_clips_are_measured_the_same_way_twice(trainer: Trainer) -> None:
    before = arms.measure(trainer, "srt", 2)
    assert before == arms.measure(trainer, "srt", 2)
    arms.train(trainer, [replace(RECIPE.stages[-1], steps=30, warmup=3)])
    after = arms.measure(trainer, "srt", 2)
    assert after[0] < before[0] and 0 <= after[1] <= 1
    assert arms.measure(trainer, "srt", 2, exchanged=True) != after


def test_the_plain_loop_learns_the_same_tokens(trainer: Trainer) -> None:
    stage = RECIPE.stages[-1]
    plain = throughput.Plain.__new__(throughput.Plain)
    plain.trainer, plain.network = trainer, trainer.network
    samples = trainer.batches.samples(stage, 0)
    audio = trainer.network.projector(trainer.network.adapter(*trainer.batches.frames([s.clip for s in samples])))
    rows, real, labels = plain.rows(samples, audio)
    assert rows.shape[:2] == real.shape == labels.shape
    # These clips have one translation each, so that nothing branches more than once and all tokens are there.
    learned = [
        token for s in samples if s.example for token, yes in zip(s.example.ids, s.example.learned, strict=True) if yes
    ]
    assert labels[labels >= 0].tolist() == learned
    assert throughput.answers(samples) == len(samples)


def test_what_is_left_out() -> None:
    after = [stage for stage in RECIPE.stages if stage.objective == "llm"]
    found = ablation.variants(after)
    assert found["no stage III"] == []
    assert [stage.lora_rate for stage in found["no LoRA"]] == [0.0]
    assert ablation.shortened(after, 0.01)[0].steps == 1


def test_variants_are_trained_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_features(tmp_path)
    monkeypatch.setattr(arms, "build", lambda recipe, _: tiny_trainer(tmp_path, tmp_path, recipe))
    monkeypatch.setattr(ablation, "BATCHES", 1)
    text = ablation.run(RECIPE, tmp_path, 0.5)
    cells = {line.split("|")[1].strip(): line.split("|")[2:] for line in text.splitlines() if line.startswith("|")}
    assert {"all stages", "no stage III", "no LoRA", "no stage 0"} <= set(cells)
    assert cells["no stage III"][0].strip() == "0"
    # LoRA starts as nothing: what it learns is what tells the two apart.
    assert cells["all stages"][1:] != cells["no LoRA"][1:]


def test_every_start_has_the_same_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_features(tmp_path)
    monkeypatch.setattr(arms, "build", lambda recipe, _: tiny_trainer(tmp_path, tmp_path, recipe))
    monkeypatch.setattr(starts, "BATCHES", 1)
    recipe = replace(RECIPE, stages=(*RECIPE.stages[:2], replace(RECIPE.stages[2], name="I")))
    text = starts.run(recipe, tmp_path, 0.6, tmp_path / "starts.svg")
    rows = [line.split("|") for line in text.splitlines() if ", from " in line and line.startswith("|")]
    assert len(rows) == len(starts.STARTS) * len(starts.LOSSES)
    assert (tmp_path / "starts.svg").read_text(encoding="utf-8").count("<polyline") == len(rows)
    before = {row[1].split("from")[1].strip(): row[3] for row in rows}
    assert before["noise"] != before["decoder"]


def test_scores_of_a_manifest() -> None:
    rows = [
        Row("1", "a.wav", "fra", "", "bonjour à tous les amis", ""),
        Row("1", "a.wav", "fra", "eng", "bonjour à tous les amis", "good morning to all friends"),
        Row("2", "b.wav", "fra", "eng", "oui", "yes"),
    ]
    chosen = score.choose(rows, 10)
    [clip] = chosen["fra"]
    assert clip.references == {"eng": "good morning to all friends"}
    right = score.Answer("fra", "Bonjour, à tous les amis!", {"eng": "good morning to all friends"})
    wrong = score.Answer("ita", "", {"eng": "no"})
    assert score.quality([clip, clip], [right, right], "eng") == "100.0 / 100.0"
    assert score.quality([clip], [right], "deu") == "-"
    assert score.found([clip, clip], [right, wrong]) == "50.0%"
    assert score.errors([clip], [right]) == ["0.00", "0.00"]


def test_clips_without_a_transcript_are_scored_by_their_translations() -> None:
    rows = [
        Row("1", "a.wav", "fra", "eng", "", "good morning to all friends"),
        Row("1", "a.wav", "fra", "ita", "", "buongiorno a tutti gli amici"),
        Row("2", "b.wav", "fra", "eng", "", "yes"),
        Row("2", "b.wav", "fra", "ita", "", "sì e di nuovo sì"),
    ]
    [clip] = score.choose(rows, 10)["fra"]
    assert clip.audio == "a.wav" and set(clip.references) == {"eng", "ita"}
    heard = score.Answer("fra", "Bonjour", {"eng": "good morning to all friends"})
    known = score.Clip("c.wav", "fra", "bonjour", {})
    assert score.errors([clip], [heard]) == ["-", "-"]
    assert score.errors([clip, known], [heard, heard]) == ["0.00", "0.00"]


def test_beams_are_measured_on_the_same_clips(examples: Path, tmp_path: Path) -> None:
    said, meant = "por favor inténtelo de nuevo", "please try again"
    row = {"id": "1", "audio": str(examples / "spanish.flac"), "src": "spa", "tgt": "eng", "asr": said, "s2tt": meant}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    lines = beams.run("ESRT-270M", tmp_path / "test.jsonl", 1, "int8").splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:] == ["greedy", "beam 5"]
    assert "spa -> eng" in lines[0]


def test_whisper_translates(examples: Path) -> None:
    whisper = Whisper(PRESETS["ESRT-270M"].encoder.weights)
    heard = whisper.hear([load(examples / "spanish.flac"), load(examples / "french.flac")])
    assert [one.source for one in heard] == ["spa", "fra"]
    assert all(one.text for one in heard)
    assert len(whisper.never) > 80


def test_a_wrong_page_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ablation, "run", lambda *_: "text")
    page_missing = main(["ablation", "--data", str(tmp_path), "--page", str(tmp_path / "none.md")])
    assert page_missing == 2
    assert "[page_missing]" in capsys.readouterr().err
