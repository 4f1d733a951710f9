"""The audit as a page: a table for each question, with chance level and interval, and a plain sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from esrt.privacy.figures import Figure
from esrt.privacy.run import Findings

Say = Callable[[Figure], str]


@dataclass(frozen=True)
class Table:
    """A question of the audit: the figures that answer it by their column's title, and what one figure says."""

    title: str
    about: str
    columns: Mapping[str, str]
    main: tuple[str, ...]  # what the sentence is about: of errors the smallest, which is the best attacker's
    say: Say


def _verifies(figure: Figure) -> str:
    if math.isnan(figure.value):
        return "not measured"
    error = 100 * figure.value
    if error >= 40:
        return f"wrong {error:.0f} % of the time: this attacker does little better than guess"
    if error >= 20:
        return f"wrong {error:.0f} % of the time: a voice can be suspected, not proved"
    return f"right {100 - error:.0f} % of the time: the voice is recognised"


def _tells(figure: Figure) -> str:
    if math.isnan(figure.value):
        return "not measured"
    above = (figure.value - figure.chance) / max(1e-9, 1 - figure.chance)
    if not figure.low > figure.chance and above < 0.2:
        return "not told from a guess"
    if above < 0.25:
        return "told a little better than by a guess"
    return "told in part" if above < 0.7 else "told"


def _alike(figure: Figure) -> str:
    if math.isnan(figure.value):
        return "not measured"
    if figure.low > figure.chance:
        return "more like its speaker than another voice is"
    return "no more like its speaker than another voice is"


TABLES = (
    Table(
        "Who: speaker verification",
        "Equal error rate in %; 50 is chance, low is bad. Synthetic voices of one language and sex against each other. "
        "The attackers are VoicePrivacy's: *ignorant* knows neither codec nor defence (trained and enrolled on plain "
        "bf16 frames; for sound, the speaker encoder itself), *lazy-informed* enrols what the same codec and defence "
        "made, *semi-informed* is trained on that too.",
        {"ignorant": "ignorant", "lazy": "lazy-informed", "semi": "semi-informed"},
        ("ignorant", "lazy", "semi"), _verifies,
    ),
    Table(
        "Who: real voices",
        "The same for real voices that no attacker was trained on. Within a language there are few voices, mostly a "
        "man and a woman, so this is easy; *across* means that a voice is enrolled in one language and met in another, "
        "among voices of one sex and corpus. Of so few voices the intervals are rough.",
        {"ignorant, real": "ignorant", "lazy, real": "lazy-informed", "semi, real": "semi-informed",
         "semi, across": "semi-informed, across languages"},
        ("ignorant, real", "lazy, real", "semi, real"), _verifies,
    ),
    Table(
        "Who: closed-set identification",
        "% of clips given to the right one of the enrolled voices of their language.",
        {"identified": "synthetic voices", "identified, real": "real voices"},
        ("identified",), _tells,
    ),
    Table(
        "Voice: sex and pitch",
        "Sex: % right. Pitch: R2 of the median fundamental frequency in semitones.",
        {"sex": "sex", "pitch": "pitch"},
        ("sex",), _tells,
    ),
    Table(
        "How long",
        "R2 of a regressor of the logarithm of the seconds, beside one that sees the transcript alone, as whoever "
        "decodes the frame does anyway.",
        {"duration": "duration"},
        ("duration",), _tells,
    ),
    Table(
        "Which language",
        "% right. Of sound so few clips teach a probe little; rows come from an encoder that has learned languages.",
        {"language": "language"},
        ("language",),
        _tells,
    ),
    Table(
        "Level and channel",
        "Synthetic clips, turned down by 0 to 30 dB and sent through a telephone, a room or nothing. Level: R2 of the "
        "dB; channel: % right.",
        {"level": "level", "channel": "channel"},
        ("channel",), _tells,
    ),
    Table(
        "The sound",
        "A network turns rows back to a mel spectrogram, Griffin-Lim makes it heard. *Likeness*: cosine of the "
        "voiceprints of this sound and of the real one; its chance is another voice of that language and sex. *CER*: "
        "of Whisper on it, in %, at most 100. The attacker is told how long the clip was.",
        {"likeness": "likeness", "cer": "CER"},
        ("likeness",), _alike,
    ),
)  # fmt: skip


def render(findings: Findings, names: Mapping[str, str]) -> str:
    """Markdown. `names` are the views' names in words."""
    parts = [_about(findings)]
    for table in TABLES:
        shown = {view: found for view, found in findings.figures.items() if set(table.columns) & set(found)}
        if shown:
            parts.append(f"### {table.title}\n\n{table.about}\n\n{_table(table, shown, names)}")
    return "\n\n".join(parts)


def _table(table: Table, shown: Mapping[str, Mapping[str, Figure]], names: Mapping[str, str]) -> str:
    chances = {
        key: next((found[key].chance for found in shown.values() if key in found), float("nan"))
        for key in table.columns
    }
    head = ["what is held", *table.columns.values(), "in words"]
    rows = [["*chance*", *(_number(key, chances[key]) for key in table.columns), ""]]
    for view, found in shown.items():
        cells = [_cell(key, found.get(key)) for key in table.columns]
        named = [found[key] for key in table.main if key in found and not math.isnan(found[key].value)]
        said = table.say(min(named, key=lambda figure: figure.value)) if named else "not measured"
        rows.append([names.get(view, view), *cells, said])
    lines = [head, ["---"] + ["---:"] * len(table.columns) + ["---"], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(key: str, figure: Figure | None) -> str:
    if figure is None or math.isnan(figure.value):
        return "-"
    value = _number(key, figure.value)
    return value if math.isnan(figure.low) else f"{value} ({_number(key, figure.low)} to {_number(key, figure.high)})"


def _number(key: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if key in ("pitch", "duration", "level", "likeness") else f"{100 * value:.1f}"


def _about(findings: Findings) -> str:
    said = []
    for name in ("synthetic, trained", "synthetic, scored", "real, trained", "real, scored"):
        part: Mapping[str, int] = findings.data[name]
        said.append(f"{name}: {part['clips']} clips by {part['voices']} voices in {part['languages']} languages")
    return (
        "; ".join(said).capitalize() + f". Mean length {findings.data['seconds']} s. No speaker and no sentence of the "
        "score was trained on. Brackets: 95 % intervals of a bootstrap over voices."
    )
