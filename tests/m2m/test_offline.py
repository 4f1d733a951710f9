"""`esrt translate --offline`, `esrt m2m` and the measurements, with a tiny model and real clips."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from esrt.audio.io import load as sound
from esrt.bench.kvspn import __main__ as bench
from esrt.bench.kvspn import drafting, quality
from esrt.cli.main import main
from esrt.errors import UsageError
from esrt.evaluate.baselines.whisper import Heard
from esrt.m2m import recipes, score
from esrt.m2m.model import M2M, load, save
from esrt.m2m.offline import Ears, Offline
from esrt.m2m.prune import Size, prune
from esrt.m2m.recipes import Stage, Weights
from esrt.translator import OfflineTranslator
from tests.m2m.conftest import tiny

ROOT = Path(__file__).parents[2]
CLIPS = sorted((ROOT / "tests" / "data" / "held_out").glob("*.flac"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tiny(1), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    row = {"src": "eng", "asr": "you are now in line", "tgt": "", "s2tt": ""}
    lines = []
    for clip in CLIPS:
        row |= {"id": clip.stem, "audio": str(clip)}
        lines += [json.dumps(row), json.dumps(row | {"tgt": "fra", "s2tt": "vous etes en ligne"})]
    for name in ("test", "m"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_translates_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", str(CLIPS[0]), "--to", "fra,deu", "--offline", str(folder), "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    model = Offline(str(folder))
    assert answer["source"] in model.model.config.languages
    frames = model.ears.frames(sound(CLIPS[0]))
    assert frames.shape[0] == 1 and torch.isfinite(frames).all()
    assert set(answer["translations"]) == {"fra", "deu"}
    assert main(["transcribe", str(CLIPS[0]), "--offline", str(folder), "--from", "eng"]) == 0


def test_an_unreachable_cloud_is_no_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:  # bound, and never listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        code = main(["translate", str(CLIPS[0]), "--to", "fra", "--offline", str(folder), "--cloud", url])
    said = capsys.readouterr()
    assert code == 0
    assert "cannot be reached" in said.err and "Translating here" in said.err


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--to", "fra", "--offline", "no-such-model"], "offline_model_missing"),
        (["--to", "swe", "--offline", "MODEL"], "offline_language"),
        (["--to", "fra", "--offline", "MODEL", "--model", "ESRT-270M"], "usage"),
    ],
)
def test_what_cannot_be_is_said(folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: str) -> None:
    arguments = [str(folder) if part == "MODEL" else part for part in more]
    assert main(["translate", str(CLIPS[0]), *arguments]) == 2
    assert f"[{code}]" in capsys.readouterr().err


def test_a_model_in_the_cache_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path))
    save(tiny(1), tmp_path / "m2m" / "mine")
    first = OfflineTranslator("mine")
    assert len(first.fingerprint) == 8
    results = list(first.segments(sound(CLIPS[0]), ["fra"], "eng"))
    assert results and results[0].source == "eng" and set(results[0].translations) == {"fra"}
    assert list(first.segments(sound(CLIPS[0]), ["fra"], "eng", done=results)) == []


def test_the_command_trains_and_prunes(
    data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`esrt m2m prune` from manifests to a smaller model and a table of what it cost."""
    stages = (
        Stage("distil", "all", 9, 2, 1e-3, 1, 1, Weights(1.0, 0.0, 1.0, 0.0)),
        Stage("drafters", "drafters", 9, 2, 1e-3, 1),
    )
    small = recipes.Recipe("small", tiny(1).config, stages, {"m": 1.0}, "frozen", bf16=False)
    monkeypatch.setattr(recipes, "pruned", lambda model: small)
    arguments = ["--data", str(data), "--run", str(data / "run"), "--steps", "2,2"]
    shape = ["--layers", "2", "--heads", "1", "--units", "16"]
    assert main(["m2m", "prune", str(folder), *arguments, *shape, "--clips", "2"]) == 0
    said = capsys.readouterr().out
    assert "tiny-pruned + KVSPN" in said and "2 layers, 1 heads, 16 units, int8" in said
    assert load(data / "run" / "model").config.trimmed
    assert main(["m2m", "bench", str(folder), "--data", str(data), "--clips", "1"]) == 0
    assert "tiny + KVSPN" in capsys.readouterr().out
    assert main(["m2m", "train", "m2m-base", *arguments[:-1], "2,x"]) == 2
    assert main(["m2m", "train", "no-recipe", *arguments]) == 2


def test_scores(make: Callable[..., M2M], data: Path) -> None:
    items = score.choose(data / "test.jsonl", ("eng", "fra"), 2)
    assert {(item.source, item.target) for item in items} == {("eng", "eng"), ("eng", "fra")}
    assert len({item.audio for item in items}) == 2
    exact = [item.reference for item in items]
    assert score.bleu(items, exact) == pytest.approx(100) and score.cer(items, exact) == 0
    assert score.bleu(items[:0], []) is None and score.shown(None) == "-"
    with pytest.raises(UsageError) as refused:
        score.choose(data / "test.jsonl", ("deu",), 2)
    assert refused.value.code == "no_rows"


class FakeWhisper:
    """In place of a download: it says the same of every clip."""

    def __init__(self, weights: str) -> None:
        assert weights == "openai/whisper-tiny"

    def hear(self, clips: Sequence[object]) -> list[Heard]:
        return [Heard("eng", "you are now in line") for _ in clips]


def test_the_page(data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command writes every section; drafting with top 1 says what greedy says."""
    model = load(folder)
    save(prune(model, Size(2, 2, 32), []), data / "small")
    monkeypatch.setattr(quality, "Whisper", FakeWhisper)
    monkeypatch.setattr("esrt.bench.kvspn.products.SHAPES", {"small": (32, 16)})
    monkeypatch.setattr("esrt.bench.kvspn.products.REPEATS", 2)
    for module in (score, drafting, quality):
        monkeypatch.setattr(module, "LIMIT", 9)
    threads = torch.get_num_threads()
    page = data / "page.md"
    names = [section.__name__ for section in bench.SECTIONS]
    page.write_text("".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in names), encoding="utf-8")
    arguments = ["--data", str(data), "--model", str(folder), "--small", str(data / "small")]
    try:
        code = bench.main(["all", "--page", str(page), *arguments, "--clips", "2", "--rounds", "1", "--each", "2"])
    finally:
        torch.set_num_threads(threads)
    assert code == 0
    written = page.read_text(encoding="utf-8")
    for name in ("KVSPN, top 1", "KVSPN, top 1, up to 3 drafted", "Medusa, top 1"):
        assert f"| {name} | 4 / 4 |" in written
    assert "259%" in written and "137 %" in written and "| eng | 2 |" in written


def test_the_shipped_page_has_every_section() -> None:
    text = (ROOT / bench.PAGE).read_text(encoding="utf-8")
    for section in bench.SECTIONS:
        assert f"<!-- {section.__name__} -->\n" in text and f"<!-- /{section.__name__} -->" in text


def test_ears_hear_what_training_cached(make: Callable[..., M2M]) -> None:
    model = make()
    frames = Ears(model).frames(sound(CLIPS[0]))
    assert frames.shape[1] == (-(-len(sound(CLIPS[0])) // 8000) + 1) * 25
    with pytest.raises(UsageError):
        Offline.check(_Model(model), ["xho"])  # type: ignore[arg-type]


class _Model:
    def __init__(self, model: M2M) -> None:
        self.model = model
