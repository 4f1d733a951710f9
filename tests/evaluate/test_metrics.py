"""Scores: sacreBLEU's own numbers with the right tokenizers, error rates by hand, intervals, spBLEU's file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import sacrebleu
import sentencepiece

from esrt import languages
from esrt.errors import UsageError
from esrt.evaluate import metrics, scores, spm
from tests.evaluate.conftest import made

SAID = ["The cat sits on the mat.", "A dog runs through the old garden.", "It rains today."]
WANTED = ["The cat sat on the mat.", "A dog runs through the garden.", "It is raining today."]


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    assert metrics.score("bleu", SAID, WANTED, "eng") == sacrebleu.corpus_bleu(SAID, [WANTED]).score
    assert metrics.score("chrf", SAID, WANTED, "eng") == sacrebleu.corpus_chrf(SAID, [WANTED], word_order=2).score
    assert metrics.score("chrf", WANTED, WANTED, "eng") == pytest.approx(100)


def test_each_language_has_its_tokenizer() -> None:
    assert [metrics.tokenizer(code) for code in ("deu", "cmn", "yue", "tha", "khm", "lao", "mya")] == [
        "13a", "zh", "zh", "char", "char", "char", "char",
    ]  # fmt: skip
    assert metrics.tokenizer("jpn") in ("ja-mecab", "char") and metrics.tokenizer("kor") in ("ko-mecab", "char")
    chinese = ["今天天气很好我们去公园"], ["今天天气很好我们去学校"]
    assert metrics.score("bleu", *chinese, "cmn") > 50 > metrics.score("bleu", *chinese, "deu")


def test_several_languages_at_once_are_cut_each_in_its_way() -> None:
    """One language alone has the BLEU of sacreBLEU; Chinese is no single long word."""
    said, wanted = ["It is late, my friend.", "The cat is on the mat."], ["It is late, friend.", "A cat is on the mat."]
    assert metrics.pooled_bleu(said, wanted, ["eng", "eng"]) == pytest.approx(
        metrics.score("bleu", said, wanted, "eng")
    )
    said, wanted = ["今天天气很好", "我们明天去北京"], ["今天天气真好", "我们后天去北京"]
    assert metrics.pooled_bleu(said, wanted, ["cmn", "cmn"]) == pytest.approx(
        metrics.score("bleu", said, wanted, "cmn")
    )
    assert metrics.pooled_bleu(said, wanted, ["cmn", "cmn"]) > 20 > metrics.score("bleu", said, wanted, "eng")
    assert [languages.words(*each) for each in (("今天天气很好", "cmn"), ("It is late.", "eng"), ("", "jpn"))] == [
        3,
        3,
        0,
    ]


def test_error_rates_by_hand() -> None:
    # Case, marks, contractions and British spellings are no errors; one word of five is.
    assert metrics.error_rate(["It's the grey COLOUR, no."], ["It is the gray color yes"], "eng") == pytest.approx(
        100 / 6
    )
    assert metrics.error_rate(["Bonjour à tous"], ["bonjour, à vous !"], "fra") == pytest.approx(100 / 3)
    # By character, and spaces do not count.
    assert metrics.error_rate(["今天 天气好"], ["今天天气很好。"], "cmn") == pytest.approx(100 / 6)
    # All texts together, not their average; a reference of marks alone is left out.
    assert metrics.error_rate(["a b c", "x", "y"], ["a b c", "z", "..."], "deu") == pytest.approx(25)
    assert metrics.error_rate(["x"], ["?"], "deu") is None


def test_two_systems_and_their_intervals() -> None:
    wanted = [f"{text} {number}" for number in range(10) for text in WANTED]
    near = [f"{text} {number}" for number in range(10) for text in SAID]
    far = ["nothing of the kind"] * 30
    same = metrics.compare("chrf", near, near, wanted, "eng")
    assert same.first == same.second and same.p == 1
    apart = metrics.compare("chrf", far, near, wanted, "eng")
    assert apart.second > 60 > 30 > apart.first and apart.p < 0.01
    assert 0 < apart.second_half < 10
    assert apart == metrics.compare("chrf", far, near, wanted, "eng")


def test_scores_of_results(tmp_path: Path) -> None:
    texts = [("un chat", "un chat", "a cat here now", "a cat here now"), ("deux chiens", "deux", "two dogs", "no")]
    own = [
        made(number, "fra", tgt, said, heard, wanted, translated, found=found)
        for number, (said, heard, wanted, translated) in enumerate(texts)
        for tgt, found in (("eng", "fra"), ("deu", "fra" if number else "ita"))
    ]
    given: list[tuple[str, str, str]] = []

    def comet(asked: scores.Texts) -> list[float]:
        given.extend(asked)
        return [float(number) for number in range(len(asked))]

    found = scores.of(own, {"chrf"}, comet)
    assert [(one.src, one.tgt, one.rows) for one in found] == [("fra", "deu", 2), ("fra", "eng", 2), ("fra", "", 2)]
    assert given[1] == ("deux chiens", "no", "two dogs")
    assert [one.values.get("comet") for one in found] == [0.5, 2.5, None]
    assert set(found[0].values) == {"chrf", "comet"}
    # A clip counts once, however many targets it has; the first of its results says which language was found.
    assert found[2].values == {"wer": 25.0, "found": 100.0}
    scores.write(tmp_path / "own.scores.csv", found)
    again = scores.read(tmp_path / "own.scores.csv")
    assert [(one.src, one.tgt, one.rows) for one in again] == [(one.src, one.tgt, one.rows) for one in found]
    assert again[1].values["chrf"] == pytest.approx(found[1].values["chrf"], abs=1e-4)


def test_a_named_source_is_not_found() -> None:
    [direction, transcripts] = scores.of([made(1, "jpn", "eng", "猫", "犬", "cat", "dog", named=True)], {"bleu"})
    assert transcripts.values == {"cer": 100.0} and direction.tgt == "eng"


def test_what_a_system_never_says_is_not_scored() -> None:
    silent = made(1, "fra", "eng", "un chat", "", "a cat", "a cat", found=None)
    [_, transcripts] = scores.of([silent], {"bleu"})
    assert (transcripts.rows, transcripts.values) == (1, {})
    speaking = made(2, "fra", "eng", "un chat", "un chat", "a cat", "a cat")
    [_, transcripts] = scores.of([silent, speaking], {"bleu"})
    assert transcripts.values == {"wer": 50.0, "found": 50.0}


@pytest.mark.parametrize("content", ["", "src,tgt,rows\nfra,eng,many\n", "id,text\n1,2\n"])
def test_files_that_hold_no_scores(tmp_path: Path, content: str) -> None:
    (tmp_path / "scores.csv").write_text(content)
    with pytest.raises(UsageError) as refused:
        scores.read(tmp_path / "scores.csv")
    assert refused.value.code == "scores_not_readable"


@pytest.fixture
def tokenizer(tmp_path: Path) -> bytes:
    """A small SentencePiece model in the place of that of FLORES-200."""
    (tmp_path / "text.txt").write_text("\n".join([*SAID, *WANTED] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "spm"), vocab_size=30, minloglevel=2
    )
    return (tmp_path / "spm.model").read_bytes()


@pytest.fixture
def source(tmp_path: Path, tokenizer: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server that has the tokenizer, and the paths that it was asked for; sacreBLEU's folder is an empty one."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, form: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(spm, "URLS", (f"{url}/missing.model", f"{url}/spm.model"))
    monkeypatch.setattr(spm, "SHA256", hashlib.sha256(tokenizer).hexdigest())
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path / "sacrebleu"))
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", str(tmp_path / "sacrebleu"))
    yield asked
    server.shutdown()
    server.server_close()


def test_spbleu_fetches_its_tokenizer_once(source: list[str]) -> None:
    first = spm.fetch()
    asked = len(source)
    assert asked == 2 and spm.fetch() == first == spm.place() and len(source) == asked
    metrics.metric.cache_clear()
    assert metrics.score("spbleu", WANTED, WANTED, "tha") == pytest.approx(100)
    metrics.metric.cache_clear()


def test_another_file_is_not_taken(source: list[str], tmp_path: Path) -> None:
    (tmp_path / "spm.model").write_bytes(b"another")
    with pytest.raises(UsageError) as refused:
        spm.fetch()
    assert refused.value.code == "spm_missing" and str(spm.place()) in str(refused.value)
    assert not spm.place().exists()
    spm.place().parent.mkdir(parents=True, exist_ok=True)
    spm.place().write_bytes(b"damaged")
    with pytest.raises(UsageError) as damaged:
        spm.fetch()
    assert damaged.value.code == "spm_damaged"
