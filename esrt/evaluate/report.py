"""A folder with one report: report.md, a CSV file a table, a PNG file a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from esrt.errors import UsageError
from esrt.evaluate import tables
from esrt.evaluate.scores import TITLES, Score
from esrt.evaluate.tables import Table


def write(
    folder: Path, systems: Mapping[str, Sequence[Score]], metric: str, text: Mapping[str, Sequence[Score]] | None = None
) -> Path:
    """Writes the report of one metric over systems by their names; returns the path of report.md.

    `text`: scores of the same language models without sound, by the names of the systems that they belong to.
    Raises UsageError `metric_missing`, `not_saved`.
    """
    from esrt.evaluate import plots

    chosen = {name: tables.directions(scores, metric) for name, scores in systems.items()}
    for name, directions in chosen.items():
        if not directions:
            raise UsageError("metric_missing", f"{name} has no {TITLES[metric]}: score its results with it first.")
    made = [
        *tables.many_to_many(chosen, metric),
        tables.from_english(chosen, metric),
        tables.bands(chosen, metric),
        *tables.by_group(chosen, metric),
        tables.transcripts(systems),
    ]
    every = [score for directions in chosen.values() for score in directions.values()]
    pictures = {"groups.png": "Averages by family and tier (as Figure 5)"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plots.group_bars(folder / "groups.png", chosen, metric)
        for name, directions in chosen.items():
            file = f"directions-{name}.png"
            plots.heat_map(folder / file, directions, metric, name, (min(every), max(every)))
            pictures[file] = f"{name}: every direction (as Figure 8)"
        for name, scores in (text or {}).items():
            written = tables.directions(scores, metric)
            table = tables.text_against_speech(chosen[name], written, metric)
            made.append(Table(f"{table.name}-{name}", f"{name}: {table.title}", table.head, table.rows))
            file = f"text-and-speech-{name}.png"
            plots.text_and_speech(folder / file, chosen[name], written, metric)
            pictures[file] = f"{name}: from text and from speech (as Figure 9)"
        for table in made:
            _csv(folder / f"{table.name}.csv", table)
        report = folder / "report.md"
        sections = [f"# {', '.join(systems)}: {TITLES[metric]}"]
        if len({frozenset(directions) for directions in chosen.values()}) > 1:
            sections.append("These systems were run on different directions: their averages do not compare.")
        sections += [f"## {table.title}\n\n{table.markdown()}" for table in made]
        sections += [f"## {title}\n\n![{title}]({file})" for file, title in pictures.items()]
        report.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError("not_saved", f"The report does not go to {folder}: {error.strerror or error}.") from error
    return report


def _csv(path: Path, table: Table) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        written = csv.writer(file, lineterminator="\n")
        written.writerow(table.head)
        written.writerows(["" if cell == "-" else cell for cell in row] for row in table.rows)
