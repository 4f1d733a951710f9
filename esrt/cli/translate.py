"""`esrt translate`: speech files -> transcript and translations, on this machine or through a cloud."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from esrt import languages
from esrt.cli import common, speech

if TYPE_CHECKING:
    from esrt.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "translate",
        "Transcribe speech and translate it into one or more languages.",
        """
esrt translate clip.flac --to eng,deu
esrt translate *.wav --to fra --from eng --format json
esrt translate talk.mp4 --to deu,fra --format srt --out subtitles    talk.deu.srt, talk.fra.srt, talk.eng.srt
esrt translate clip.mp3 --to eng --cloud https://esrt.example.org --key-file laptop.key
esrt translate clip.wav --to eng --draft drafter --cloud http://127.0.0.1:8080 --gamma 3
esrt translate clip.wav --to fra --offline whisperM2M-base --cloud https://esrt.example.org    here, if out of reach
""",
    )
    parser.add_argument("--to", required=True, metavar="LANGS", help="target languages, such as fra,deu or fr,pt-BR")
    common.speech(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Translate each file; 0 if all went well, 2 if a file was not readable speech."""
    return speech.each_file(args, languages.parse_list(args.to))
