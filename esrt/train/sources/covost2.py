"""CoVoST 2 (CC BY-NC 4.0; sound: Common Voice 4, CC0): 21 languages into English, English into 15."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from esrt.errors import UsageError
from esrt.train.manifest import Row
from esrt.train.sources import files, parquet
from esrt.train.sources.commonvoice import UNPACK, locale

# How covost_v2.*.tsv calls its splits: to train on, Common Voice's own clips and those CoVoST found beyond.
_SPLITS = {"train": ("train", "train_covost"), "validation": ("dev",), "test": ("test",)}


def rows(where: str, sources: Sequence[str], targets: Sequence[str], split: str, clips: Path) -> Iterator[Row]:
    """One row per recording and language of `targets`, for each of `sources`.

    `where` is a folder that holds fr_en/train-*.parquet, or Common Voice 4 (fr/validated.tsv, fr/clips) with
    covost_v2.fr_en.tsv beside the languages' folders, or the name of a data set on the Hub in Parquet, whose sound goes
    below `clips`. Raises UsageError not_in_covost2, wrong_layout, hub_unreachable.
    """
    pairs = [(source, target) for source in sources for target in targets if source != target]
    for pair in pairs:
        if "eng" not in pair:
            raise UsageError("not_in_covost2", f"CoVoST 2 has no {' -> '.join(pair)}: one of the two must be eng.")
    # All are opened first: what is missing shows before hours of download.
    spoken = [(pair, _clips(where, *pair, split, clips / pair[0])) for pair in pairs]
    transcribed = set()
    for (source, target), recordings in spoken:
        for path, sentence, translation in recordings:
            # A note of the translators where there is nothing to translate.
            if not translation or "REMOVE" in translation:
                continue
            name = f"covost2-{source}-{path.stem}"
            if name not in transcribed:
                transcribed.add(name)
                yield Row(name, str(path), source, "", sentence, "")
            yield Row(name, str(path), source, target, sentence, translation)


def _clips(where: str, source: str, target: str, split: str, clips: Path) -> Iterator[tuple[Path, str, str]]:
    """Sound file, sentence, translation."""
    pair, folder = f"{locale(source)}_{locale(target)}", Path(where) / locale(source)
    if (folder / "clips").is_dir():
        listed = files.need(Path(where) / f"covost_v2.{pair}.tsv", "fetch it from the CoVoST project")
        return _joined(listed, files.need(folder / "validated.tsv", UNPACK), _SPLITS[split])
    return (
        (files.keep_clip(clips, entry["audio"]), entry["sentence"].strip(), entry["translation"].strip())
        for entry in parquet.rows(where, pair, split, ["audio", "sentence", "translation"])
    )


def _joined(listed: Path, validated: Path, splits: Sequence[str]) -> Iterator[tuple[Path, str, str]]:
    """CoVoST's table has the translations, Common Voice's the sentences."""
    said = {entry["path"]: entry["sentence"].strip() for entry in files.table(validated, ("path", "sentence"))}
    for entry in files.table(listed, ("path", "translation", "split")):
        if entry["split"] in splits and entry["path"] in said:
            path = files.need(validated.parent / "clips" / entry["path"], UNPACK)
            yield path, said[entry["path"]], entry["translation"].strip()
