"""FLEURS (google/fleurs, CC BY 4.0): read sentences in 102 languages. A sentence's id is the same in all of them."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from esrt.errors import UsageError
from esrt.languages import LANGUAGES
from esrt.train.manifest import Row
from esrt.train.sources import files, parquet

_COLUMNS = ("id", "file_name", "raw_transcription", "transcription", "letters", "num_samples", "gender")


def rows(where: str, sources: Sequence[str], targets: Sequence[str], split: str, clips: Path) -> Iterator[Row]:
    """One row per recording in `sources` and language of `targets` that has its sentence; sound goes below `clips`.

    `where` is a folder, in Parquet or as google/fleurs has it (data/fr_fr/train.tsv and audio/train.tar.gz, packed or
    unpacked), or the name of a data set on the Hub. Raises UsageError wrong_layout, hub_unreachable.
    """
    texts = {
        target: {
            _number(entry, where): entry["raw_transcription"].strip() for entry in _entries(where, target, split, None)
        }
        for target in targets
    }
    # All are opened first: what is missing shows before hours of download.
    spoken = [(source, _entries(where, source, split, clips / source)) for source in sources]
    for source, entries in spoken:
        for entry in entries:
            transcript, sentence = entry["raw_transcription"].strip(), _number(entry, where)
            name, audio = f"fleurs-{source}-{sentence}-{entry['path'].stem}", str(entry["path"])
            yield Row(name, audio, source, "", transcript, "")
            for target in targets:
                if target != source and texts[target].get(sentence):
                    yield Row(name, audio, source, target, transcript, texts[target][sentence])


def _number(entry: dict[str, Any], where: str) -> int:
    """A sentence's number, the same in all languages."""
    try:
        return int(entry["id"])
    except ValueError as error:
        text = f"{where}: {entry['id'][:80]!r} is no number of a sentence: fetch the folder again."
        raise UsageError("wrong_layout", text) from error


def _entries(where: str, language: str, split: str, clips: Path | None) -> Iterator[dict[str, Any]]:
    """`id`, `raw_transcription` and, if `clips` is where sound goes, `path`, of each recording of a language."""
    config = LANGUAGES[language].fleurs
    folder = Path(where) / "data" / config
    if not folder.is_dir():
        found = parquet.rows(where, config, split, ["id", "raw_transcription", *(["audio"] if clips else [])])
        return _kept(found, clips) if clips else found
    split = {"validation": "dev"}.get(split, split)
    listed = files.need(folder / f"{split}.tsv", "fetch the whole folder of the language")
    found = files.table(listed, ("id", "file_name", "raw_transcription"), _COLUMNS)
    return _unpacked(found, folder / "audio" / split, clips) if clips else found


def _kept(entries: Iterator[dict[str, Any]], clips: Path) -> Iterator[dict[str, Any]]:
    for entry in entries:
        yield {**entry, "path": files.keep_clip(clips, entry["audio"])}


def _unpacked(entries: Iterator[dict[str, Any]], folder: Path, clips: Path) -> Iterator[dict[str, Any]]:
    """Sound as FLEURS was published: in a folder, or packed beside it and then unpacked below `clips`."""
    if not folder.is_dir():
        packed, folder = folder.with_name(f"{folder.name}.tar.gz"), clips
        try:
            with tarfile.open(files.need(packed, "fetch the sound of the language too")) as archive:
                for member in tqdm(archive, desc=f"unpacking {packed.name}", unit="clip", disable=None):
                    content = archive.extractfile(member) if member.isfile() else None
                    if content is not None:
                        files.keep(clips / Path(member.name).name, content.read())
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UsageError("wrong_layout", f"{packed} is damaged, or not all of it came: fetch it again.") from error
    for entry in entries:
        yield {**entry, "path": files.need(folder / entry["file_name"], "fetch the sound of the language again")}
