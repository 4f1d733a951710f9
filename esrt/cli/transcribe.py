"""`esrt transcribe`: speech files -> transcripts, on this machine or through a cloud."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from esrt.cli import common, speech

if TYPE_CHECKING:
    from esrt.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "transcribe",
        "Write down what is said, and in which language.",
        """
esrt transcribe clip.flac
esrt transcribe *.wav --format json
esrt transcribe meeting.mp3 --format vtt --out subtitles
esrt transcribe clip.wav --cloud http://127.0.0.1:8080
""",
    )
    common.speech(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Transcribe each file; 0 if all went well, 2 if a file was not readable speech."""
    return speech.each_file(args, to=[])
