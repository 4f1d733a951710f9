"""How alike texts are: BLEU, spBLEU and chrF++ by sacreBLEU, WER and CER by jiwer, over one language's texts at once.

Scores run from 0 to 100. Texts are kept as they are for translations; transcripts go through Whisper's normaliser, as
in the Whisper paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

TEXT_METRICS = ("spbleu", "bleu", "chrf")
BY_CHARACTER = frozenset({"jpn", "kor", "tha", "cmn", "yue", "khm", "lao", "mya"})
"""Languages whose transcripts are scored by character: words are not what spaces part in them."""

RESAMPLES = 1000


def tokenizer(target: str) -> str:
    """SacreBLEU's tokenizer for BLEU in a language.

    Words of Japanese and Korean need MeCab (`pip install 'sacrebleu[ja,ko]'`): without it these two are split into
    characters, as are the other languages without spaces. Scores of different tokenizers do not compare.
    """
    if target in ("cmn", "yue"):
        return "zh"
    if target == "jpn" and find_spec("MeCab") and find_spec("ipadic"):
        return "ja-mecab"
    if target == "kor" and find_spec("mecab_ko"):
        return "ko-mecab"
    return "char" if target in BY_CHARACTER else "13a"


@cache
def metric(name: str, target: str) -> Metric:
    """SacreBLEU's metric of a name in TEXT_METRICS for texts in the language `target`.

    spBLEU needs its tokenizer's file: `spm.fetch` first.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    if name == "chrf":
        return CHRF(word_order=2)
    return BLEU(tokenize="flores200" if name == "spbleu" else tokenizer(target))


def score(name: str, said: Sequence[str], wanted: Sequence[str], target: str) -> float:
    """One metric of TEXT_METRICS over all texts of a direction; texts and references in the same order."""
    return float(metric(name, target).corpus_score(list(said), [list(wanted)]).score)


@cache
def normaliser(language: str) -> Callable[[str], str]:
    """Whisper's: of English, also numbers, contractions and British spellings; of others, case, marks and signs."""
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    made: Callable[[str], str] = EnglishTextNormalizer() if language == "eng" else BasicTextNormalizer()
    return made


def pooled_bleu(said: Sequence[str], wanted: Sequence[str], targets: Sequence[str]) -> float:
    """BLEU over texts of several languages at once, each cut into words as its own language is."""
    from sacrebleu.metrics.bleu import BLEU

    cutters = {code: BLEU(tokenize=tokenizer(code)).tokenizer for code in set(targets)}

    def cut(texts: Sequence[str]) -> list[str]:
        return [cutters[code](text) for text, code in zip(texts, targets, strict=True)]

    return float(BLEU(tokenize="none", force=True).corpus_score(cut(said), [cut(wanted)]).score)


def error_rate(said: Sequence[str], wanted: Sequence[str], language: str) -> float | None:
    """Word error rate, or character error rate (without spaces) for languages of BY_CHARACTER, in percent.

    Of all transcripts together. References with nothing left in them are not counted; None where no other is there.
    """
    import jiwer

    plain = normaliser(language)
    both = [(plain(one).strip(), plain(other).strip()) for one, other in zip(said, wanted, strict=True)]
    both = [(one, other) for one, other in both if other]
    if not both:
        return None
    heard, spoken = [one for one, _ in both], [other for _, other in both]
    if language not in BY_CHARACTER:
        return 100 * float(jiwer.wer(spoken, heard))
    return 100 * float(jiwer.cer(_without_spaces(spoken), _without_spaces(heard)))


def _without_spaces(texts: Sequence[str]) -> list[str]:
    return ["".join(text.split()) for text in texts]


@dataclass(frozen=True)
class Compared:
    """Two systems on one direction: each score, the half width of its 95 % interval, and the p-value of the pair."""

    first: float
    first_half: float
    second: float
    second_half: float
    p: float


def compare(name: str, first: Sequence[str], second: Sequence[str], wanted: Sequence[str], target: str) -> Compared:
    """SacreBLEU's paired bootstrap: the same resampled texts for both systems. The p-value is two-sided."""
    from sacrebleu.significance import PairedTest

    systems: list[tuple[str, Sequence[str]]] = [("first", list(first)), ("second", list(second))]
    made: Mapping[str, Metric] = {name: metric(name, target)}
    _, scores = PairedTest(systems, made, [list(wanted)], test_type="bs", n_samples=RESAMPLES)()
    found: list[Any] = next(results for key, results in scores.items() if key != "System")
    one, other = found
    # Of two equal systems sacreBLEU says the smallest p that there is: no resample differs by more than nothing.
    p = 1.0 if one.score == other.score else float(other.p_value)
    return Compared(float(one.score), float(one.ci), float(other.score), float(other.ci), p)
