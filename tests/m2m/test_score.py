"""Which items of a manifest are scored."""

from __future__ import annotations

from pathlib import Path

from esrt.m2m import score
from esrt.train.manifest import Row, write_manifest


def test_captions_are_neither_transcripts_nor_translations(tmp_path: Path) -> None:
    audio, said = str(tmp_path / "a.wav"), "It is fine weather."
    rows = [
        Row("a", audio, "eng", "", said, ""),
        Row("a", audio, "eng", "eng", said, "", ("Low.",)),
        Row("a", audio, "eng", "deu", said, "", ("Tief.",)),
        Row("a", audio, "eng", "fra", said, "Il fait beau."),
        Row("b", str(tmp_path / "b.wav"), "deu", "eng", "Das Wetter ist schön.", "", ("High.",)),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    found = score.choose(tmp_path / "m.jsonl", ("eng", "deu", "fra"), 5)
    assert [(item.target, item.reference) for item in found] == [("eng", said), ("fra", "Il fait beau.")]
