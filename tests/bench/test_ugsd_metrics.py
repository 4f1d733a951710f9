"""Scores of captions, by hand and over Debian's WordNet."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nltk", reason="captions are scored with NLTK: pip install nltk")

from nltk.corpus.reader.wordnet import WordNetCorpusReader

from esrt.bench.ugsd.metrics import rouge_l, scores, wordnet, words
from esrt.errors import UsageError


@pytest.fixture(scope="module")
def lexicon() -> WordNetCorpusReader:
    try:
        return wordnet()
    except UsageError as error:
        pytest.skip(str(error))


def test_words() -> None:
    assert words("A low voice, slowly.") == ["a", "low", "voice", ",", "slowly", "."]
    assert words("他很快 ok") == ["他", "很", "快", "ok"]


def test_rouge_l_by_hand() -> None:
    """Police killed the gunman / police kill the gunman: 3 of 4 words in common, both ways."""
    assert rouge_l(["police", "killed", "the", "gunman"], ["police", "kill", "the", "gunman"]) == pytest.approx(0.75)
    assert rouge_l(["the", "gunman", "kill", "police"], ["police", "kill", "the", "gunman"]) == pytest.approx(0.5)
    assert rouge_l([], ["a"]) == rouge_l(["b"], ["a"]) == 0
    # 2 of 2 said, 2 of 4 wanted: precision 1, recall 0.5, beta 1.2.
    assert rouge_l(["a", "b"], ["a", "b", "c", "d"]) == pytest.approx(2.44 * 0.5 / (0.5 + 1.44))


def test_the_same_is_the_best_and_nothing_the_worst(lexicon: WordNetCorpusReader) -> None:
    texts = ["A low voice speaks slowly and quietly.", "A high voice speaks quickly and loudly."]
    best = scores(texts, [["something else entirely", text] for text in texts], lexicon)
    assert best.bleu1 == best.bleu4 == best.rouge_l == pytest.approx(100)
    assert best.meteor > 99
    worst = scores(["zzz qqq", "xxx"], [[text] for text in texts], lexicon)
    assert worst.bleu1 < 5 and worst.meteor == worst.rouge_l == 0


def test_meteor_knows_synonyms_and_stems(lexicon: WordNetCorpusReader) -> None:
    """Which is why WordNet is needed."""
    near = scores(["the car stopped"], [["the auto stops"]], lexicon)
    far = scores(["the tree stopped"], [["the auto stops"]], lexicon)
    assert near.meteor > far.meteor + 20
    assert near.rouge_l == far.rouge_l


def test_what_cannot_be_scored(lexicon: WordNetCorpusReader) -> None:
    wrong: list[tuple[list[str], list[list[str]]]] = [([], []), (["a"], []), (["a"], [[]])]
    for texts, references in wrong:
        with pytest.raises(UsageError):
            scores(texts, references, lexicon)


def test_a_machine_without_wordnet_is_told_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="wordnet-base"):
        wordnet(tmp_path)
