"""Captions from manifest to example: prosody that was set, MER2024's layout, several references."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from esrt import prompts
from esrt.bench.training import score
from esrt.errors import UsageError
from esrt.prompts import Task
from esrt.train import parallel
from esrt.train.batches import Batches
from esrt.train.examples import example, one_caption
from esrt.train.features import Features
from esrt.train.loop import Trainer
from esrt.train.manifest import Row, read_manifest, write_manifest
from esrt.train.network import told_loss
from esrt.train.recipes import Stage
from esrt.train.sampler import Clip, Sampler, clips
from esrt.train.sources import mer2024, prosody, texts
from tests.train.conftest import END, FRAME_WIDTH, RECIPE, Letters, tiny_llm, tiny_network, vocabularies


class Words:
    """A tokenizer in which every character is a token, and a tag one."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def convert_tokens_to_ids(self, token: str) -> int:
        return 100_000 + sum(map(ord, token))


def test_the_fourth_task_as_text() -> None:
    assert prompts.prompt(Task.CAPTION, target="eng") == "<|caption|><|eng|>"
    assert prompts.answer(Task.CAPTION, translation="Low <|deu|> and slow.") == "Low   and slow."
    parsed = prompts.parse(Task.CAPTION, " Low and slow.\n", None, "eng")
    assert (parsed.transcript, parsed.target, parsed.translation) == ("", "eng", "Low and slow.")
    assert prompts.parse(Task.CAPTION, "", None, "eng").translation is None
    assert "<|caption|>" not in prompts.strip_tags("say <|caption|> now")  # no user's text asks for one
    with pytest.raises(UsageError):
        prompts.prompt(Task.CAPTION)


def test_a_manifest_keeps_captions(tmp_path: Path) -> None:
    rows = [
        Row("a", str(tmp_path / "a.wav"), "eng", "eng", "Hello.", "", ("Low.", "A low voice.")),
        Row("b", str(tmp_path / "b.wav"), "eng", "deu", "Hello.", "Hallo.", ("Tief.",)),
        Row("c", str(tmp_path / "c.wav"), "eng", "", "Hello.", ""),
    ]
    path = tmp_path / "m.jsonl"
    write_manifest(path, rows)
    assert read_manifest(path) == rows
    assert "caption" not in json.loads(path.read_text().splitlines()[2])
    found = {clip.audio[-5]: clip for clip in clips(rows, dict.fromkeys((row.audio for row in rows), 50))}
    assert found["a"].captions == (("eng", ("Low.", "A low voice.")),) and found["a"].translations == ()
    assert found["b"].translations == (("deu", "Hallo."),) and found["b"].captions == (("deu", ("Tief.",)),)


def test_captions_are_no_translations(tmp_path: Path) -> None:
    audio, said = str(tmp_path / "a.wav"), "It is fine weather."
    rows = [
        Row("a", audio, "eng", "deu", said, "Es ist schönes Wetter."),
        Row("a", audio, "eng", "eng", said, "", ("Low.",)),
        Row("a", audio, "eng", "cmn", said, "", ("低。",)),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert texts.read(tmp_path / "m.jsonl", {"eng"}) == [{"eng": said, "deu": "Es ist schönes Wetter."}]
    assert score.choose(rows, 1)["eng"][0].references == {"deu": "Es ist schönes Wetter."}


@pytest.mark.parametrize("caption", [7, [""], ["a", None], {"eng": "a"}, "a\0"])
def test_a_caption_that_is_no_text_is_refused(tmp_path: Path, caption: object) -> None:
    row = {"id": "a", "audio": "a.wav", "src": "eng", "tgt": "eng", "asr": "Hi.", "s2tt": "", "caption": caption}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    with pytest.raises(UsageError, match="caption"):
        read_manifest(tmp_path / "m.jsonl")


def test_an_example_learns_the_caption_alone() -> None:
    row = Row("a", "a.wav", "eng", "eng", "Hello.", "", ("Low.", "Deep."))
    (clip,) = clips([row], {"a.wav": 50})
    drawn = {one_caption(clip, random.Random(seed)).captions[0][1] for seed in range(20)}
    assert drawn == {("Low.",), ("Deep.",)}
    made = example(one_caption(clip, random.Random(0)), "caption", Words(), 1, unnamed=True)
    learned = [token for token, counts in zip(made.ids, made.learned, strict=True) if counts]
    assert learned[-1] == 1 and "".join(map(chr, learned[:-1])) in ("Low.", "Deep.")
    asked = [token for token, counts in zip(made.ids, made.learned, strict=True) if not counts]
    assert "".join(map(chr, asked[:-1])) == "<|caption|>" and asked[-1] == Words().convert_tokens_to_ids("<|eng|>")
    without = example(clips([Row("a", "a.wav", "eng", "", "Hi.", "")], {"a.wav": 9})[0], "caption", Words(), 1, True)
    assert "".join(map(chr, without.ids[:3])) == "Hi."  # it is written down instead


def test_a_clip_finds_its_captions_by_the_mean_of_its_rows() -> None:
    words = 8 * torch.eye(6)
    said = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0]]).bool()
    rows = 4 * torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    heard = rows - rows.mean(1, keepdim=True) + (said.float() @ words)[:, None]  # each its own, in the mean alone
    right = told_loss(heard, said, words)
    assert right[2] == 0  # nothing is said of it
    assert (right < 0.01).all()  # the second and the last are no mistake for one another
    wrong = told_loss(heard[[1, 0, 2, 0]], said, words)
    assert (wrong[[0, 1, 3]] > 10).all() and wrong[2] == 0
    assert told_loss(heard, torch.zeros_like(said), words).tolist() == [0, 0, 0, 0]


def test_rows_learn_to_tell_captions_apart(tmp_path: Path) -> None:
    """Two kinds of voices, and captions that say which; the words they speak have nothing to do with it."""
    features = Features(tmp_path / "features", FRAME_WIDTH)
    rng, members = np.random.default_rng(0), []
    for n in range(40):
        features.append(f"{n}.wav", rng.standard_normal((30, FRAME_WIDTH)) + (1 if n % 2 else -1))
        captions = ("bright", "so bright") if n % 2 else ("dim", "so dim")
        members.append(Clip(f"{n}.wav", "eng", "ab" + chr(97 + n % 26), (), 30, (("eng", captions),)))
    stage = Stage("tell", "ctc-llm", 120, 8, 3e-2, 3e-2, warmup=10, told_weight=10.0)
    recipe = replace(RECIPE, stages=(stage,), augment=False)
    batches = Batches(
        recipe, Sampler({"m": members}, recipe.weights, 0), features, Letters(), Letters(), vocabularies(), END
    )
    trainer = Trainer(recipe, tiny_network(tiny_llm(), 0.0), batches, parallel.start(recipe, tmp_path), tmp_path)
    found = [trainer.step(stage, step)["told"] for step in range(stage.steps)]
    assert sum(found[-5:]) < 0.5 * sum(found[:5])


def test_what_is_set_is_heard(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    text = "The weather will be fine tomorrow in the whole of the country."

    def speak(rate: str = "at an ordinary pace", loudness: str = "loudly", pitch: str = "medium") -> np.ndarray:
        return prosody.say(text, "en", (rate, pitch, "natural", loudness), random.Random(1))

    slow, fast = speak("slowly"), speak("quickly")
    assert len(slow) > 1.5 * len(fast)
    assert np.abs(speak(loudness="loudly")).max() > 5 * np.abs(speak(loudness="quietly")).max()

    def pitch(samples: np.ndarray) -> float:
        """The lag, 60 to 400 Hz, at which the loudest half second is most like itself."""
        middle = samples[len(samples) // 3 :][:8000].astype(np.float64)
        likeness = np.correlate(middle, middle, "full")[len(middle) - 1 :]
        return 16_000 / (40 + int(np.argmax(likeness[40:266])))

    assert pitch(speak(pitch="high")) > 1.2 * pitch(speak(pitch="low"))
    made = list(prosody.rows("p", [{"eng": text}], ["eng"], 4, tmp_path))
    assert len(made) == 4 and all(Path(row.audio).is_file() for row in made)
    for row in made:
        assert row.tgt == "eng" and row.s2tt == "" and len(row.caption) == len(prosody.TEMPLATES)
        assert sum(word in row.caption[0] for word in prosody.RATE) == 1
    assert {row.caption for row in made} <= {
        prosody.captions(rate, p, r, loud)
        for rate in prosody.RATE for p in prosody.PITCH for r in prosody.RANGE for loud in prosody.LOUDNESS
    }  # fmt: skip
    for sources in (["eng", "khm"], ["eng", "ita"]):
        with pytest.raises(UsageError):
            next(prosody.rows("p", [{"eng": text}], sources, 4, tmp_path))  # before any is spoken


def mer(folder: Path) -> Path:
    """A small folder of MER2024's layout."""
    (folder / "audio").mkdir()
    for name in ("sample_00000001", "sample_00000002"):
        (folder / "audio" / f"{name}.wav").write_bytes(b"")
    (folder / "final-EMER-reason.csv").write_text(
        "\ufeffname,chinese,english\n"
        'sample_00000001,"她说话很快, 很生气。","She speaks quickly, and is ""angry""."\n'
        "sample_00000002,他很平静。,He is calm.\n"
        "sample_00000003,没有声音。,Nobody is heard.\n",
        encoding="utf-8",
    )
    (folder / "label-transcription.csv").write_text(
        "name,chinese,english\nsample_00000001,你怎么了,What is it?\n", encoding="utf-8"
    )
    return folder


def test_mer2024(tmp_path: Path) -> None:
    found = list(mer2024.rows(mer(tmp_path), ["eng", "cmn"]))
    assert [(row.id, row.tgt, row.asr, row.caption) for row in found] == [
        ("mer2024-sample_00000001", "eng", "你怎么了", ('She speaks quickly, and is "angry".',)),
        ("mer2024-sample_00000001", "cmn", "你怎么了", ("她说话很快, 很生气。",)),
        ("mer2024-sample_00000002", "eng", "", ("He is calm.",)),
        ("mer2024-sample_00000002", "cmn", "", ("他很平静。",)),
    ]
    assert all(row.src == "cmn" and Path(row.audio).is_file() for row in found)
    for wrong, code in ((["deu"], "not_in_mer2024"), (["eng"], "wrong_layout")):
        if code == "wrong_layout":
            (tmp_path / "final-EMER-reason.csv").write_text("name,english\na,b\n")
        with pytest.raises(UsageError) as refused:
            list(mer2024.rows(tmp_path, wrong))
        assert refused.value.code == code
