"""The tables of reports: from the scores of one or more systems to rows of text. Missing scores are a dash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from esrt.evaluate.scores import TITLES, Score
from esrt.languages import CORE, LANGUAGES

Directions = Mapping[tuple[str, str], float]
Systems = Mapping[str, Directions]
"""By a system's name: one metric of each direction."""

REPRESENTATIVES = ("ara", "cmn", "eng", "hun", "ind", "jpn", "kor", "tam", "tha", "tur", "vie")
"""One language of each of the paper's eleven families (its Table VI)."""
BANDS = ((90, 1e9, ">= 90"), (80, 90, "80-90"), (70, 80, "70-80"), (60, 70, "60-70"), (-1e9, 60, "< 60"))
TIERS = ("high", "medium", "low")


@dataclass(frozen=True)
class Table:
    """`name` is its file's, `title` stands above it. All cells are text."""

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The first column to the left, the others to the right."""
        lines = [self.head, ["---"] + ["---:"] * (len(self.head) - 1), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def directions(scores: Iterable[Score], metric: str) -> dict[tuple[str, str], float]:
    """One metric of all directions that have it, within the 45 languages and out of the spoken one."""
    core = set(CORE)
    return {
        (one.src, one.tgt): one.values[metric]
        for one in scores
        if metric in one.values and one.tgt and one.src != one.tgt and {one.src, one.tgt} <= core
    }


def average(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    found = list(values)
    return mean(found) if found else None


def cell(value: float | None) -> str:
    """A score with one digit after the point."""
    return "-" if value is None else f"{value:.1f}"


def from_source(scores: Directions, code: str) -> float | None:
    """The average of all directions out of a language: code -> all."""
    return average(value for (src, _), value in scores.items() if src == code)


def into(scores: Directions, code: str) -> float | None:
    """The average of all directions into a language: all -> code."""
    return average(value for (_, tgt), value in scores.items() if tgt == code)


def many_to_many(systems: Systems, metric: str) -> list[Table]:
    """The paper's Table VI: averages out of and into its eleven languages, and of these."""
    found = []
    sides: tuple[tuple[str, str, Callable[[Directions, str], float | None]], ...] = (
        ("x-to-all", "X -> all", from_source),
        ("all-to-x", "all -> X", into),
    )
    for name, title, side in sides:
        rows = []
        for system, scores in systems.items():
            values = [side(scores, code) for code in REPRESENTATIVES]
            every = average(value for value in values if value is not None)
            rows.append([system, *map(cell, values), cell(every), str(len(scores))])
        head = ["system", *REPRESENTATIVES, "average", "directions"]
        found.append(Table(name, f"{title}, {TITLES[metric]} (as Table VI)", head, rows))
    return found


def from_english(systems: Systems, metric: str) -> Table:
    """The paper's Table VII, a language a row: English into the 44 others."""
    rows = [
        [f"{LANGUAGES[code].name} ({code})", *(cell(scores.get(("eng", code))) for scores in systems.values())]
        for code in CORE
        if code != "eng"
    ]
    rows.append(["average", *(cell(from_source(scores, "eng")) for scores in systems.values())])
    return Table("eng-to-x", f"English -> X, {TITLES[metric]} (as Table VII)", ["target", *systems], rows)


def bands(systems: Systems, metric: str) -> Table:
    """The paper's Table VIII: how many directions lie where."""
    rows = [
        [
            system,
            *(str(sum(low <= value < high for value in scores.values())) for low, high, _ in BANDS),
            str(len(scores)),
        ]
        for system, scores in systems.items()
    ]
    head = ["system", *(name for _, _, name in BANDS), "directions"]
    return Table("bands", f"Directions by {TITLES[metric]} (as Table VIII)", head, rows)


def groups() -> dict[str, list[str]]:
    """The 45 languages by family, then by tier of resources (Table IV)."""
    families: dict[str, list[str]] = {}
    for code in CORE:
        families.setdefault(LANGUAGES[code].family or "", []).append(code)
    tiers = {f"{tier} resource": [code for code in CORE if LANGUAGES[code].tier == tier] for tier in TIERS}
    return {**dict(sorted(families.items())), **tiers}


def by_group(systems: Systems, metric: str) -> list[Table]:
    """The numbers of the paper's Figure 5: averages out of and into the languages of a family or tier."""
    found = []
    for name, title, side in (("groups-spoken", "Out of", 0), ("groups-targets", "Into", 1)):
        rows = [
            [
                group,
                str(len(codes)),
                *(cell(average(v for pair, v in scores.items() if pair[side] in codes)) for scores in systems.values()),
            ]
            for group, codes in groups().items()
        ]
        head = ["group", "languages", *systems]
        found.append(Table(name, f"{title} a family or tier, {TITLES[metric]} (as Figure 5)", head, rows))
    return found


def text_beside_speech(speech: Directions, text: Directions) -> dict[str, tuple[float, float]]:
    """Averages out of each spoken language, from its transcripts and from speech, over the directions both have."""
    both = [pair for pair in speech if pair in text]
    found = {}
    for code in CORE:
        own = [pair for pair in both if pair[0] == code]
        if own:
            found[code] = (mean(text[pair] for pair in own), mean(speech[pair] for pair in own))
    return found


def text_against_speech(speech: Directions, text: Directions, metric: str) -> Table:
    """The numbers of the paper's Figure 9: the same language model with and without sound."""
    rows = [
        [f"{LANGUAGES[code].name} ({code})", cell(written), cell(spoken), cell(written - spoken)]
        for code, (written, spoken) in text_beside_speech(speech, text).items()
    ]
    title = f"out of a language from text and from speech, {TITLES[metric]} (as Figure 9)"
    return Table("text-and-speech", title, ["spoken", "from text", "from speech", "lost"], rows)


def transcripts(systems: Mapping[str, Sequence[Score]]) -> Table:
    """Error rates of transcripts, and how often the spoken language was found."""
    heard = {name: {one.src: one.values for one in scores if not one.tgt} for name, scores in systems.items()}
    codes = [code for code in LANGUAGES if any(code in one for one in heard.values())]
    rows = []
    for code in codes:
        cells = []
        for own in heard.values():
            values = own.get(code, {})
            cells += [cell(values.get("wer", values.get("cer"))), cell(values.get("found"))]
        unit = "CER" if any("cer" in own.get(code, {}) for own in heard.values()) else "WER"
        rows.append([f"{LANGUAGES[code].name} ({code})", unit, *cells])
    head = ["spoken", "rate", *(f"{name}: {what}" for name in systems for what in ("%", "language found, %"))]
    return Table("transcripts", "Transcripts: word or character error rate, and the language found", head, rows)
