"""`esrt data`: manifests to train from. What each verb reads is in `corpora`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from esrt import languages
from esrt.cli import common, corpora

if TYPE_CHECKING:
    from esrt.cli.common import Verbs
    from esrt.cli.corpora import Manifests

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

    fleurs = _verb(verb, "fleurs", _FLEURS, corpora.fleurs)
    _where(fleurs, "google/fleurs")
    _languages(fleurs, target="")

    covost2 = _verb(verb, "covost2", _COVOST2, corpora.covost2)
    _where(covost2, "fixie-ai/covost2")
    _languages(covost2, target="eng")

    voices = _verb(verb, "commonvoice", _COMMONVOICE, corpora.commonvoice)
    _where(voices)
    _languages(voices)

    folder = _verb(verb, "speech-folder", _FOLDER, corpora.speech_folder)
    folder.add_argument("folder", metavar="FOLDER", help="a.wav, its transcript a.txt, its translations a.deu.txt ...")
    folder.add_argument("--source", metavar="LANG", required=True, help="the language that is spoken")

    asterisk = _verb(verb, "asterisk", _ASTERISK, corpora.asterisk)
    asterisk.add_argument("--transcripts", metavar="F", help="JSONL {language, id, text} of what is not English")
    fillets = _verb(verb, "fillets", _FILLETS, corpora.fillets)
    drascula = _verb(verb, "drascula", _DRASCULA, corpora.drascula)
    tuxpaint = _verb(verb, "tuxpaint", _TUX, corpora.tuxpaint)
    for package in (asterisk, fillets, drascula, tuxpaint):
        package.add_argument("unpacked", metavar="UNPACKED", help=UNPACKED)
        _languages(package, source="all", target="all")

    synth = _verb(verb, "synth", _SYNTH, corpora.synth)
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

    revoice = _verb(verb, "revoice", _REVOICE, corpora.revoice)
    revoice.add_argument("manifest", metavar="MANIFEST", help="what to speak anew")
    revoice.add_argument(
        "--each", metavar="N", type=common.count, default=1, help="copies of each recording (default 1)"
    )
    revoice.add_argument("--seed", metavar="N", type=int, default=0, help="other voices and rooms (default 0)")

    prosody = _verb(verb, "prosody", _PROSODY, corpora.prosody)
    prosody.add_argument("texts", metavar="TEXTS", help="JSONL {language: text}, a manifest, or game packages")
    _languages(prosody)
    prosody.add_argument(
        "--each", metavar="N", type=common.count, default=1000, help="clips of each language (default 1000)"
    )
    prosody.add_argument("--seed", metavar="N", type=int, default=0, help="other manners and choices (default 0)")

    mer2024 = _verb(verb, "mer2024", _MER2024, corpora.mer2024)
    mer2024.add_argument("folder", metavar="FOLDER", help="where its CSV files and its audio folder are")
    mer2024.add_argument("--target", metavar="LANGS", type=_codes, default=["eng"], help="eng, cmn (default eng)")

    check = common.verb(
        verb, "check", "Check manifests: their fields, and that the sound is there.", "esrt data check data/*.jsonl"
    )
    check.add_argument("manifests", nargs="+", metavar="MANIFEST")
    check.set_defaults(run=_check)


def _verb(
    verbs: Verbs, name: str, examples: str, build: Callable[[argparse.Namespace], Manifests]
) -> argparse.ArgumentParser:
    """A verb that writes what `build` reads, which says of itself what that is."""
    parser = common.verb(verbs, name, build.__doc__ or "", examples)
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
