"""The rows of `esrt data`'s verbs: out of corpora, packages, your own speech, or text that is spoken."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from esrt import languages
from esrt.errors import UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    from esrt.train.manifest import Row

    # What is added to the manifest's name ("", "-test"), and its rows.
    Manifests: TypeAlias = Iterable[tuple[str, Iterable[Row]]]


def _corpus(args: argparse.Namespace) -> tuple[str, str, Path]:
    """Where a corpus is, what its split adds to the manifest's name, and where clips go."""
    suffix = "" if args.split == "train" else f"-{args.split}"
    where = str(Path(args.where).resolve()) if Path(args.where).is_dir() else args.where
    return where, suffix, Path(args.out).resolve() / f"{args.name}{suffix}"


def fleurs(args: argparse.Namespace) -> Manifests:
    """Read sentences of FLEURS, from any of 102 languages into any."""
    from esrt.train.sources import fleurs

    where, suffix, clips = _corpus(args)
    return [(suffix, fleurs.rows(where, args.source, args.target, args.split, clips))]


def covost2(args: argparse.Namespace) -> Manifests:
    """Read sentences of CoVoST 2, into English and out of it."""
    from esrt.train.sources import covost2

    where, suffix, clips = _corpus(args)
    return [(suffix, covost2.rows(where, args.source, args.target, args.split, clips))]


def commonvoice(args: argparse.Namespace) -> Manifests:
    """Read sentences of Common Voice, not translated."""
    from esrt.train.sources import commonvoice

    where, suffix, clips = _corpus(args)
    return [(suffix, commonvoice.rows(where, args.source, args.split, clips))]


def speech_folder(args: argparse.Namespace) -> Manifests:
    """Your own recordings, each with its text beside it."""
    from esrt.train.sources import speech_folder

    return [("", speech_folder.rows(Path(args.folder).resolve(), languages.get(args.source).code))]


def asterisk(args: argparse.Namespace) -> Manifests:
    """Telephone prompts in eng spa fra ita rus."""
    from esrt.train.sources import asterisk

    transcripts = asterisk.read_transcripts(Path(args.transcripts)) if args.transcripts else {}
    if not transcripts:
        text = "Without --transcripts, of the prompts only the English ones have a text."
        if "eng" not in args.source:
            raise UsageError("usage", text)
        print(text, file=sys.stderr)
    yield from _held_out(args, lambda root, test: asterisk.rows(root, transcripts, test))
    if others := list(_asked(args, asterisk.other_voices(Path(args.unpacked).resolve(), transcripts))):
        yield "-voices", others


def fillets(args: argparse.Namespace) -> Manifests:
    """Acted dialogue of a game in ces nld."""
    from esrt.train.sources import fillets

    return _held_out(args, fillets.rows)


def drascula(args: argparse.Namespace) -> Manifests:
    """Acted dialogue of a game in spa eng."""
    from esrt.train.sources import drascula

    clips = Path(args.out).resolve() / args.name
    return _held_out(args, lambda root, test: drascula.rows(root, clips, test, args.source))


def tuxpaint(args: argparse.Namespace) -> Manifests:
    """Spoken captions in fra rus ron cat bul spa ell dan bel nld."""
    from esrt.train.sources import tuxpaint

    return _held_out(args, tuxpaint.rows)


def _held_out(args: argparse.Namespace, rows: Callable[[Path, bool], Iterable[Row]]) -> Manifests:
    """What to train on, and beside it what is held out, unless nothing is."""
    root = Path(args.unpacked).resolve()
    yield "", _asked(args, rows(root, False))
    if test := list(_asked(args, rows(root, True))):
        yield "-test", test


def _asked(args: argparse.Namespace, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows in the languages that were asked for."""
    return (row for row in rows if row.src in args.source and row.tgt in ("", *args.target))


def _anew(args: argparse.Namespace, read: str) -> Path:
    """Where sounds go, in the places of those of an earlier run: no manifest of these may stand beside them.

    Raises UsageError `would_overwrite` where one does, or where the manifest is what is read.
    """
    clips: Path = Path(args.out).resolve() / args.name
    path = clips.with_name(f"{args.name}.jsonl")
    same = path.exists() and Path(read).exists() and path.samefile(read)
    if same or (path.exists() and not getattr(args, "on_the_fly", False)):
        what = "is what is read" if same else "is there, and would have other sounds"
        raise UsageError("would_overwrite", f"{path} {what}: take it away, or choose another --name.")
    return clips


def synth(args: argparse.Namespace) -> Manifests:
    """Parallel texts, spoken by programs in many voices and rooms."""
    from esrt.train.sources import synth, texts

    clips = _anew(args, args.texts)
    known = texts.read(Path(args.texts), {*args.source, *args.target})
    where = None if args.on_the_fly else clips
    return [("", synth.rows(args.name, known, args.source, args.target, args.each, where, args.seed, args.speaker))]


def revoice(args: argparse.Namespace) -> Manifests:
    """A manifest's recordings as if others had spoken them."""
    from esrt.train import manifest
    from esrt.train.sources import revoice

    clips = _anew(args, args.manifest)
    return [("", revoice.rows(args.name, manifest.check(Path(args.manifest)), args.each, clips, args.seed))]


def prosody(args: argparse.Namespace) -> Manifests:
    """Sentences spoken in set manners, with captions of them."""
    from esrt.train.sources import prosody, texts

    clips = _anew(args, args.texts)
    known = texts.read(Path(args.texts), set(args.source))
    return [("", prosody.rows(args.name, known, args.source, args.each, clips, args.seed))]


def mer2024(args: argparse.Namespace) -> Manifests:
    """Clips of MER2024 with EMER's captions of emotions."""
    from esrt.train.sources import mer2024

    return [("", mer2024.rows(Path(args.folder).resolve(), args.target))]
