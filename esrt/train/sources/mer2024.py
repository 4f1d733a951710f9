"""MER2024 with the captions of EMER (332 clips, in English and Chinese), which its licence lets nobody pass on.

As it is handed out, in one folder: `final-EMER-reason.csv` (name, chinese, english: the captions),
`label-transcription.csv` (name, chinese, english: what is said, which is Chinese), and `audio/NAME.wav`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from esrt.errors import UsageError
from esrt.train.manifest import Row
from esrt.train.sources import files

CAPTIONS, TRANSCRIPTS, SOUND = "final-EMER-reason.csv", "label-transcription.csv", ("audio", "audio_16k_mono")
COLUMNS = {"eng": "english", "cmn": "chinese"}


def rows(folder: Path, targets: Sequence[str]) -> Iterator[Row]:
    """A row for each clip and language of its caption, in the order of the captions; `targets` eng, cmn or both.

    Clips without sound are left out, those without a transcript have an empty one. Raises UsageError wrong_layout,
    not_in_mer2024.
    """
    if unknown := [code for code in targets if code not in COLUMNS]:
        raise UsageError("not_in_mer2024", f"MER2024 has captions in eng and cmn, not in {unknown[0]}.")
    hint = "ask the authors of MER2024 for it, and put its CSV files and its audio folder into one"
    spoken = {entry["name"]: entry["chinese"] for entry in _read(files.need(folder / TRANSCRIPTS, hint))}
    sound = next((folder / name for name in SOUND if (folder / name).is_dir()), folder / SOUND[0])
    files.need(sound, hint)
    for entry in _read(files.need(folder / CAPTIONS, hint)):
        audio = sound / f"{entry['name']}.wav"
        if not audio.is_file():
            continue
        transcript = " ".join(spoken.get(entry["name"], "").split())
        for code in targets:
            if caption := " ".join(entry[COLUMNS[code]].split()):
                yield Row(f"mer2024-{entry['name']}", str(audio), "cmn", code, transcript, "", (caption,))


def _read(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from files.lines(path, csv.DictReader(file), ("name", *COLUMNS.values()))
