"""Your own speech: a.wav with its transcript in a.txt beside it, and translations in a.deu.txt, a.fra.txt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from esrt import languages
from esrt.errors import UsageError
from esrt.train.manifest import Row, is_text
from esrt.train.sources import files

SOUND = {
    ".aac", ".aiff", ".amr", ".flac", ".g722", ".m4a", ".mka", ".mkv", ".mov", ".mp3", ".mp4", ".oga", ".ogg", ".opus",
    ".wav", ".webm", ".wma",
}  # fmt: skip


def rows(folder: Path, source: str) -> Iterator[Row]:
    """One row per recording and translation, in the order of the names; folders in it are looked into too.

    Raises UsageError: wrong_layout (no folder, a recording without its text or with two in a language, no recording),
    text_not_readable, unknown_language.
    """
    if not folder.is_dir():
        raise UsageError("wrong_layout", f"{folder} is no folder.")
    clips: dict[Path, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SOUND and (other := clips.setdefault(path.with_suffix(""), path)) != path:
            raise UsageError("wrong_layout", f"{other} and {path.name} would share one text: rename one of them.")
    if not clips:
        raise UsageError("wrong_layout", f"{folder} has no recordings: put a.wav and its text a.txt there.")
    translations: dict[Path, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*.txt")):
        clip = path.with_suffix("").with_suffix("")
        if clip in clips and path.with_suffix("") not in clips:
            target, found = _language(path), translations.setdefault(clip, {})
            if target == source or target in found:
                other = found.get(target, clip.with_suffix(".txt"))
                raise UsageError("wrong_layout", f"{path} and {other.name} are both in {target}: take one away.")
            found[target] = path
    for clip, audio in clips.items():
        transcript = _text(files.need(audio.with_suffix(".txt"), f"write what {audio.name} says into it"))
        name = clip.relative_to(folder).as_posix()
        yield Row(name, str(audio), source, "", transcript, "")
        for target, path in translations.get(clip, {}).items():
            yield Row(name, str(audio), source, target, transcript, _text(path))


def _language(path: Path) -> str:
    """Of a.deu.txt: deu."""
    try:
        return languages.get(path.with_suffix("").suffix[1:]).code
    except UsageError as error:
        raise UsageError(error.code, f"{path}: {error}") from error


def _text(path: Path) -> str:
    try:
        text = " ".join(path.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise UsageError("text_not_readable", f"{path} is not UTF-8: save it as UTF-8.") from error
    if not is_text(text):
        raise UsageError("text_not_readable", f"{path} has a NUL character: save it as plain text.")
    if not text:
        raise UsageError("text_not_readable", f"{path} is empty: write the text into it, or take the file away.")
    return text
