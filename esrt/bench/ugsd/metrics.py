"""Scores of captions against several references: BLEU-1, BLEU-4, METEOR and ROUGE-L, all 0 to 100.

METEOR asks WordNet for synonyms: Debian's package `wordnet-base` has it, installed, or unpacked by `make test`; WORDNET
names another folder.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nltk
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from nltk.translate.meteor_score import meteor_score

from esrt.errors import UsageError

DEBIAN = "usr/share/wordnet"
ROUGE_BETA = 1.2
"""What recall counts beside precision, as in the captioning challenges' ROUGE-L."""


@dataclass(frozen=True)
class Scores:
    """Of all captions together; METEOR and ROUGE-L are means."""

    bleu1: float
    bleu4: float
    meteor: float
    rouge_l: float


def words(text: str) -> list[str]:
    """Lower case, punctuation apart; each Chinese character is a word."""
    return re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+|[^\w\s]", text.lower())


def wordnet(folder: Path | None = None) -> WordNetCorpusReader:
    """WordNet's data in `folder`, WORDNET's, or Debian's. Raises UsageError `no_wordnet`."""
    own = folder or os.environ.get("WORDNET")
    places = [Path(own)] if own else [Path("/") / DEBIAN, Path(sys.prefix) / "wordnet" / DEBIAN]
    place = next((place for place in places if (place / "data.noun").is_file()), None)
    if place is None:
        raise UsageError(
            "no_wordnet", f"METEOR needs WordNet, which is not in {places[0]}: type `apt-get install wordnet-base`."
        )
    nltk.data.path.append(str(place))  # NLTK reads nowhere else
    return _Debian(str(place), None)


class _Debian(WordNetCorpusReader):  # type: ignore[misc]
    """NLTK's reader without what METEOR has no use for: the names of WordNet's 45 groups of words, which Debian leaves
    out, and the way from this WordNet's numbers to those of NLTK's own copy.
    """

    def open(self, file: str) -> Any:
        """A file of the corpus, or names where that of the names is missing."""
        if file == "lexnames" and not (Path(str(self.root)) / file).is_file():
            return io.StringIO("".join(f"{group:02d}\tgroup{group}\t1\n" for group in range(45)))
        return super().open(file)

    def map_wn(self, version: str = "wordnet") -> None:
        """No way to another version."""


def scores(texts: Sequence[str], references: Sequence[Sequence[str]], lexicon: WordNetCorpusReader) -> Scores:
    """Scores of `texts`, each against its own references. Raises UsageError `nothing_to_score`."""
    if not texts or len(texts) != len(references) or not all(references):
        raise UsageError("nothing_to_score", "Scores need captions, and at least one reference of each.")
    said, wanted = [words(text) for text in texts], [[words(text) for text in found] for found in references]
    smooth = SmoothingFunction().method1
    pairs = list(zip(said, wanted, strict=True))
    return Scores(
        100 * float(corpus_bleu(wanted, said, weights=(1.0,), smoothing_function=smooth)),
        100 * float(corpus_bleu(wanted, said, smoothing_function=smooth)),
        100 * sum(meteor_score(refs, one, wordnet=lexicon) for one, refs in pairs) / len(pairs),
        100 * sum(max(rouge_l(one, ref) for ref in refs) for one, refs in pairs) / len(pairs),
    )


def rouge_l(said: Sequence[str], wanted: Sequence[str]) -> float:
    """F of the longest common subsequence (Lin 2004), 0 to 1, recall weighing ROUGE_BETA."""
    row = [0] * (len(wanted) + 1)
    for word in said:
        last = 0
        for place, other in enumerate(wanted, 1):
            last, row[place] = row[place], last + 1 if word == other else max(row[place], row[place - 1])
    common = row[-1]
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(wanted)
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)
