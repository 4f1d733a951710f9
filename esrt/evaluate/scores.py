"""Scores of each direction, from results; kept as a CSV file, from which every report is made."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from esrt.errors import UsageError
from esrt.evaluate import metrics
from esrt.evaluate.results import Result, pairs
from esrt.languages import LANGUAGES

COLUMNS = ("spbleu", "bleu", "chrf", "comet", "wer", "cer", "found")
HIGHER = ("spbleu", "bleu", "chrf", "comet")  # what reports are made of: translation, and more is better
TITLES = {
    "spbleu": "spBLEU", "bleu": "BLEU", "chrf": "chrF++", "comet": "COMET", "wer": "WER", "cer": "CER",
    "found": "language found",
}  # fmt: skip

Texts = Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Score:
    """One direction, or with an empty `tgt` the transcripts of one language. `values`: column -> 0 to 100."""

    src: str
    tgt: str
    rows: int
    values: dict[str, float] = field(default_factory=dict)


def of(
    results: Sequence[Result], names: Collection[str], comet: Callable[[Texts], list[float]] | None = None
) -> list[Score]:
    """The scores of all directions: `names` of metrics.TEXT_METRICS, COMET if there is something that gives it, and of
    each spoken language's clips the error rate of the transcripts and how often the language was found.
    """
    from tqdm import tqdm

    directions = [(src, tgt, own) for (src, tgt), own in pairs(results) if tgt]
    # All texts in one go: a model is loaded once.
    texts = [(one.asr, one.s2tt_r, one.s2tt) for _, _, own in directions for one in own]
    by_text = iter(comet(texts)) if comet is not None and texts else iter(())
    found = []
    for src, tgt, own in tqdm(directions, desc="scoring", unit="direction", disable=None, leave=False):
        said, wanted = [one.s2tt_r for one in own], [one.s2tt for one in own]
        values = {name: metrics.score(name, said, wanted, tgt) for name in metrics.TEXT_METRICS if name in names}
        if comet is not None:
            values["comet"] = sum(next(by_text) for _ in own) / len(own)
        found.append(Score(src, tgt, len(own), values))
    return found + _transcripts(results)


def _transcripts(results: Sequence[Result]) -> list[Score]:
    """One score a spoken language; a clip that was translated into many languages counts once.

    A system that transcribes nothing has no error rate, and one that names no language did not fail to find it.
    """
    clips: dict[str, dict[str, Result]] = {}
    for one in results:
        clips.setdefault(one.src, {}).setdefault(one.audio, one)
    scores = []
    for src, by_audio in sorted(clips.items()):
        own = list(by_audio.values())
        values = {}
        rate = metrics.error_rate([one.asr_r for one in own], [one.asr for one in own], src)
        if rate is not None and any(one.asr_r for one in own):
            values["cer" if src in metrics.BY_CHARACTER else "wer"] = rate
        asked = [one for one in own if not one.named]
        if any(one.found for one in asked):
            values["found"] = 100 * sum(one.found == src for one in asked) / len(asked)
        scores.append(Score(src, "", len(own), values))
    return scores


def write(path: Path, scores: Sequence[Score]) -> None:
    """`src,tgt,rows` and a column a metric, empty where it was not taken; beside, then renamed. Raises `not_saved`."""
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["src", "tgt", "rows", *COLUMNS])
            for one in scores:
                cells = [f"{one.values[name]:.4f}" if name in one.values else "" for name in COLUMNS]
                table.writerow([one.src, one.tgt, one.rows, *cells])
        beside.replace(path)
    except OSError as error:
        raise UsageError("not_saved", f"Scores cannot be written to {path}: {error.strerror or error}.") from error


def read(path: Path) -> list[Score]:
    """What `write` wrote. Raises UsageError `scores_not_readable`."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            scores = []
            for row in csv.DictReader(file):
                values = {name: float(row[name]) for name in COLUMNS if row[name]}
                if row["src"] not in LANGUAGES or (row["tgt"] and row["tgt"] not in LANGUAGES):
                    raise ValueError(f"{row['src']!r} to {row['tgt']!r} is no direction")
                scores.append(Score(row["src"], row["tgt"], int(row["rows"]), values))
        if not scores:
            raise ValueError("it has no rows")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            "scores_not_readable", f"{path} is no file of `esrt evaluate score` ({reason}): score the results first."
        ) from error
    return scores
