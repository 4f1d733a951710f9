"""Common Voice (Mozilla, CC0): read sentences with their text, as its archives unpack or in Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from esrt.languages import LANGUAGES
from esrt.train.manifest import Row
from esrt.train.sources import files, parquet

UNPACK = "unpack the whole archive of the language"
_LOCALES = {
    "cmn": "zh-CN", "gle": "ga-IE", "hye": "hy-AM", "nob": "nb-NO", "npi": "ne-NP", "pan": "pa-IN", "swe": "sv-SE",
}  # fmt: skip


def locale(language: str) -> str:
    """Common Voice's own name of a language, which CoVoST 2 uses too: `fra` -> `fr`, `cmn` -> `zh-CN`."""
    return _LOCALES.get(language, LANGUAGES[language].bcp47)


def rows(where: str, sources: Sequence[str], split: str, clips: Path) -> Iterator[Row]:
    """One row a recording; there are no translations.

    `where` is a folder that holds fr/train.tsv and fr/clips, or fr/train-*.parquet, or the name of a data set on the
    Hub in Parquet, whose sound goes below `clips`. Raises UsageError wrong_layout, hub_unreachable.
    """
    # All are opened first: what is missing shows before hours of download.
    spoken = [(source, _clips(where, locale(source), split, clips / source)) for source in sources]
    for source, recordings in spoken:
        for path, sentence in recordings:
            yield Row(f"commonvoice-{source}-{path.stem}", str(path), source, "", sentence, "")


def _clips(where: str, name: str, split: str, clips: Path) -> Iterator[tuple[Path, str]]:
    """Sound file and sentence."""
    folder = Path(where) / name
    if not (folder / "clips").is_dir():
        found = parquet.rows(where, name, split, ["audio", "sentence"])
        return ((files.keep_clip(clips, entry["audio"]), entry["sentence"].strip()) for entry in found)
    split = {"validation": "dev"}.get(split, split)
    listed = files.table(files.need(folder / f"{split}.tsv", UNPACK), ("path", "sentence"))
    return ((files.need(folder / "clips" / entry["path"], UNPACK), entry["sentence"].strip()) for entry in listed)
