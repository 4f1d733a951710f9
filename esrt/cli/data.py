"""`esrt data`: manifests to train from, out of corpora, packages, your own speech, or text that is spoken."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from esrt import languages
from esrt.cli import common
from esrt.errors import UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    from esrt.cli.common import Verbs
    from esrt.train.manifest import Row

    # What is added to the manifest's name ("", "-test"), and its rows.
    Manifests: TypeAlias = Iterable[tuple[str, Iterable[Row]]]

_SPEAKERS = ("espeak-ng", "pico", "festival")
UNPACKED = "folder that the Debian packages were unpacked into (dpkg -x)"


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "data",
        "Make manifests to train from; docs/data.md tells of each source.",
        """
esrt data fleurs --source fra,deu --target eng,spa --out data
esrt data speech-folder recordings --source deu --out data
esrt data synth texts.jsonl --source eng,fra --target deu --out data
esrt data check data/fleurs.jsonl
""",
    )
    verb = parser.add_subparsers(metavar="VERB", required=True)

    fleurs = _verb(verb, "fleurs", "Read sentences of FLEURS, from any of 102 languages into any.", _FLEURS, _fleurs)
    _where(fleurs, "google/fleurs")
    _languages(fleurs, target="")

    covost2 = _verb(verb, "covost2", "Read sentences of CoVoST 2, into English and out of it.", _COVOST2, _covost2)
    _where(covost2, "fixie-ai/covost2")
    _languages(covost2, target="eng")

    voices = _verb(verb, "commonvoice", "Read sentences of Common Voice, not translated.", _COMMONVOICE, _commonvoice)
    _where(voices)
    _languages(voices)

    folder = _verb(verb, "speech-folder", "Your own recordings, each with its text beside it.", _FOLDER, _speech_folder)
    folder.add_argument("folder", metavar="FOLDER", help="a.wav, its transcript a.txt, its translations a.deu.txt ...")
    folder.add_argument("--source", metavar="LANG", required=True, help="the language that is spoken")

    asterisk = _verb(verb, "asterisk", "Telephone prompts in eng spa fra ita rus.", _ASTERISK, _asterisk)
    asterisk.add_argument("--transcripts", metavar="F", help="JSONL {language, id, text} of what is not English")
    fillets = _verb(verb, "fillets", "Acted dialogue of a game in ces nld.", _FILLETS, _fillets)
    drascula = _verb(verb, "drascula", "Acted dialogue of a game in spa eng.", _DRASCULA, _drascula)
    tuxpaint = _verb(verb, "tuxpaint", "Spoken captions in fra rus ron cat bul spa ell dan bel nld.", _TUX, _tuxpaint)
    for package in (asterisk, fillets, drascula, tuxpaint):
        package.add_argument("unpacked", metavar="UNPACKED", help=UNPACKED)
        _languages(package, source="all", target="all")

    synth = _verb(verb, "synth", "Parallel texts, spoken by programs in many voices and rooms.", _SYNTH, _synth)
    synth.add_argument("texts", metavar="TEXTS", help="JSONL {language: text}, a manifest, or folder of game packages")
    _languages(synth, target="all")
    synth.add_argument(
        "--speaker", choices=_SPEAKERS, default=_SPEAKERS[0], help=f"who speaks (default {_SPEAKERS[0]})"
    )
    synth.add_argument(
        "--each", metavar="N", type=common.count, help="clips of each language (default: each text once)"
    )
    synth.add_argument("--seed", metavar="N", type=int, default=0, help="other voices, rooms and choices (default 0)")
    synth.add_argument("--on-the-fly", action="store_true", help="store no sound: training speaks what it needs")

    revoice = _verb(verb, "revoice", "A manifest's recordings as if others had spoken them.", _REVOICE, _revoice)
    revoice.add_argument("manifest", metavar="MANIFEST", help="what to speak anew")
    revoice.add_argument(
        "--each", metavar="N", type=common.count, default=1, help="copies of each recording (default 1)"
    )
    revoice.add_argument("--seed", metavar="N", type=int, default=0, help="other voices and rooms (default 0)")

    prosody = _verb(verb, "prosody", "Sentences spoken in set manners, with captions of them.", _PROSODY, _prosody)
    prosody.add_argument("texts", metavar="TEXTS", help="JSONL {language: text}, a manifest, or game packages")
    _languages(prosody)
    prosody.add_argument(
        "--each", metavar="N", type=common.count, default=1000, help="clips of each language (default 1000)"
    )
    prosody.add_argument("--seed", metavar="N", type=int, default=0, help="other manners and choices (default 0)")

    mer2024 = _verb(verb, "mer2024", "MER2024 with EMER's captions of emotions.", _MER2024, _mer2024)
    mer2024.add_argument("folder", metavar="FOLDER", help="where its CSV files and its audio folder are")
    mer2024.add_argument("--target", metavar="LANGS", type=_codes, default=["eng"], help="eng, cmn (default eng)")

    check = common.verb(
        verb, "check", "Check manifests: their fields, and that the sound is there.", "esrt data check data/*.jsonl"
    )
    check.add_argument("manifests", nargs="+", metavar="MANIFEST")
    check.set_defaults(run=_check)


def _verb(
    verbs: Verbs, name: str, summary: str, examples: str, build: Callable[[argparse.Namespace], Manifests]
) -> argparse.ArgumentParser:
    parser = common.verb(verbs, name, summary, examples)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write the manifest into")
    parser.add_argument("--name", metavar="NAME", default=name, help=f"name of the manifest (default {name})")
    parser.set_defaults(run=_write, build=build)
    return parser


def _where(parser: argparse.ArgumentParser, hub: str | None = None) -> None:
    """The place of a corpus and the split."""
    text = "folder, or data set of the Hub" + (f" (default {hub})" if hub else "")
    parser.add_argument("where", metavar="WHERE", nargs="?" if hub else None, default=hub, help=text)
    parser.add_argument("--split", choices=("train", "validation", "test"), default="train", help="(default train)")


def _languages(parser: argparse.ArgumentParser, source: str = "", target: str | None = None) -> None:
    """`--source`, required where it has no default, and `--target`, unless there are no translations."""
    note = f" (default {source})" if source else ""
    parser.add_argument(
        "--source", metavar="LANGS", type=_codes, required=not source, default=source, help=f"spoken languages{note}"
    )
    if target is not None:
        note = target or "none: transcripts only"
        parser.add_argument(
            "--target", metavar="LANGS", type=_codes, default=target, help=f"languages of translations (default {note})"
        )


def _codes(text: str) -> list[str]:
    if not text:
        return []
    return list(languages.LANGUAGES) if text == "all" else languages.parse_list(text)


def _write(args: argparse.Namespace) -> int:
    from esrt.train.manifest import write_manifest

    for suffix, rows in args.build(args):
        path = Path(args.out) / f"{args.name}{suffix}.jsonl"
        print(f"{path}: {write_manifest(path, rows):,} rows")
    return 0


def _check(args: argparse.Namespace) -> int:
    from esrt.train.manifest import check

    for path in args.manifests:
        rows = check(Path(path))
        print(f"{path}: {len(rows):,} rows, {len({row.audio for row in rows}):,} clips")
        for (source, target), count in sorted(Counter((row.src, row.tgt) for row in rows).items()):
            print(f"  {source} {f'-> {target}' if target else '':<8}{count:>9,}")
    return 0


def _corpus(args: argparse.Namespace) -> tuple[str, str, Path]:
    """Where a corpus is, what its split adds to the manifest's name, and where clips go."""
    suffix = "" if args.split == "train" else f"-{args.split}"
    where = str(Path(args.where).resolve()) if Path(args.where).is_dir() else args.where
    return where, suffix, Path(args.out).resolve() / f"{args.name}{suffix}"


def _fleurs(args: argparse.Namespace) -> Manifests:
    from esrt.train.sources import fleurs

    where, suffix, clips = _corpus(args)
    return [(suffix, fleurs.rows(where, args.source, args.target, args.split, clips))]


def _covost2(args: argparse.Namespace) -> Manifests:
    from esrt.train.sources import covost2

    where, suffix, clips = _corpus(args)
    return [(suffix, covost2.rows(where, args.source, args.target, args.split, clips))]


def _commonvoice(args: argparse.Namespace) -> Manifests:
    from esrt.train.sources import commonvoice

    where, suffix, clips = _corpus(args)
    return [(suffix, commonvoice.rows(where, args.source, args.split, clips))]


def _speech_folder(args: argparse.Namespace) -> Manifests:
    from esrt.train.sources import speech_folder

    return [("", speech_folder.rows(Path(args.folder).resolve(), languages.get(args.source).code))]


def _asterisk(args: argparse.Namespace) -> Manifests:
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


def _fillets(args: argparse.Namespace) -> Manifests:
    from esrt.train.sources import fillets

    return _held_out(args, fillets.rows)


def _drascula(args: argparse.Namespace) -> Manifests:
    from esrt.train.sources import drascula

    clips = Path(args.out).resolve() / args.name
    return _held_out(args, lambda root, test: drascula.rows(root, clips, test))


def _tuxpaint(args: argparse.Namespace) -> Manifests:
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


def _synth(args: argparse.Namespace) -> Manifests:
    from esrt.train.sources import synth, texts

    clips = _anew(args, args.texts)
    known = texts.read(Path(args.texts), {*args.source, *args.target})
    where = None if args.on_the_fly else clips
    return [("", synth.rows(args.name, known, args.source, args.target, args.each, where, args.seed, args.speaker))]


def _revoice(args: argparse.Namespace) -> Manifests:
    from esrt.train import manifest
    from esrt.train.sources import revoice

    clips = _anew(args, args.manifest)
    return [("", revoice.rows(args.name, manifest.check(Path(args.manifest)), args.each, clips, args.seed))]


def _prosody(args: argparse.Namespace) -> Manifests:
    from esrt.train.sources import prosody, texts

    clips = _anew(args, args.texts)
    known = texts.read(Path(args.texts), set(args.source))
    return [("", prosody.rows(args.name, known, args.source, args.each, clips, args.seed))]


def _mer2024(args: argparse.Namespace) -> Manifests:
    from esrt.train.sources import mer2024

    return [("", mer2024.rows(Path(args.folder).resolve(), args.target))]


_REVOICE = """
esrt data revoice data/asterisk.jsonl --each 4 --name asterisk-revoiced --out data
"""
_PROSODY = """
esrt data prosody data/human.jsonl --source eng,spa --each 1000 --out data
esrt data prosody data/test.jsonl --source eng,spa --each 50 --seed 1 --name prosody-test --out data
"""
_MER2024 = """
esrt data mer2024 mer2024 --target eng,cmn --out data
"""
_FLEURS = """
esrt data fleurs --source fra,deu --target eng,spa --out data
esrt data fleurs --source all --target all --out data                 every language into every other
esrt data fleurs copy-of-fleurs --source fra --split test --out data
"""
_COVOST2 = """
esrt data covost2 --source fra,deu --out data
esrt data covost2 --source eng --target deu,jpn --out data
esrt data covost2 common-voice-4 --source fra --split test --out data
"""
_COMMONVOICE = """
esrt data commonvoice cv-corpus-24.0-2025-12-05 --source fra,deu --out data
esrt data commonvoice fixie-ai/common_voice_17_0 --source eng --out data
"""
_FOLDER = """
esrt data speech-folder recordings --source deu --out data
"""
_ASTERISK = """
esrt data asterisk unpacked --out data
esrt data asterisk unpacked --transcripts recipes/asterisk-transcripts.jsonl --out data
"""
_FILLETS = """
esrt data fillets unpacked --target eng,deu --out data
"""
_DRASCULA = """
esrt data drascula unpacked --source spa --target eng,fra --out data
"""
_TUX = """
esrt data tuxpaint unpacked --source fra,ron --target eng,deu --out data
"""
_SYNTH = """
esrt data synth texts.jsonl --source eng,fra --target deu --out data
esrt data synth unpacked --source eng,fra --each 1000 --out data     sentences of games
esrt data synth data/asterisk.jsonl --source eng --name prompts --out data
esrt data synth unpacked --source fra,ita --speaker pico --name pico --out data
esrt data synth texts.jsonl --source eng --on-the-fly --out data
"""
