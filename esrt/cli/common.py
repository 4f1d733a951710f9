"""What more than one verb needs: shared options, how values are read, how an error is said."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from esrt.audio.subtitles import SUFFIXES
from esrt.wire.codecs import CODECS

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_MODEL = "ESRT-270M"
MANIFESTS = "training manifests with commas between them, never those held out"
GATES = ("entropy", "probability", "margin", "calibrated")


def help_format(prog: str) -> argparse.HelpFormatter:
    """Examples stay as they are written, and options stand on one line with their help."""
    formatter = argparse.RawDescriptionHelpFormatter(prog, max_help_position=26)
    # Left to itself, argparse forgets to count the verbs' indent and breaks every line of their list in two.
    formatter._action_max_length = 24
    return formatter


def verb(verbs: Verbs, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """A new verb whose `--help` ends with `examples`, one command a line."""
    lines = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    return verbs.add_parser(
        name,
        help=summary[:1].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog=f"examples:\n{lines}",
        formatter_class=help_format,
        allow_abbrev=False,
    )


def speech(parser: argparse.ArgumentParser) -> None:
    """The options of everything that takes speech: the files, the model, the cloud, the format of the answer."""
    parser.add_argument("audio", nargs="+", metavar="AUDIO", help="sound files, in any format that FFmpeg reads")
    parser.add_argument("--from", dest="source", metavar="LANG", help="spoken language; left out, the model finds it")
    parser.add_argument("--model", metavar="NAME", help=f"model name or folder (default {DEFAULT_MODEL})")
    parser.add_argument("--cloud", metavar="URL", help="address of `esrt serve`; left out, both halves run here")
    parser.add_argument("--key-file", metavar="F", help="file with the key for --cloud, and nothing else")
    edge(parser)
    parser.add_argument("--offline", metavar="MODEL", help="whisperM2M that is used where no cloud is in reach")
    codec(parser)
    timing(parser)
    parser.add_argument(
        "--protect", action="store_true", help="shift each clip and change its level at random before it is encoded"
    )
    parser.add_argument(
        "--format",
        choices=tuple(SUFFIXES),
        default="text",
        help="text (default), json or verbose_json (an object a line and file), srt, vtt or tsv (always into files)",
    )
    parser.add_argument("--out", metavar="DIR", help="write files there, one a language: clip.deu.srt")
    drafting = parser.add_argument_group("drafting here (UGSD), with --cloud for what the drafter is unsure of")
    drafting.add_argument("--draft", metavar="MODEL", help="drafter: a folder that `esrt draft make` wrote")
    drafting.add_argument(
        "--gamma",
        action=_WithDraft,
        type=float,
        default=3.0,
        metavar="G",
        help="doubt from which a block is checked; 0: all, inf: none",
    )
    settings(drafting)
    drafting.add_argument(
        "--patience",
        action=_WithDraft,
        type=count,
        default=10,
        metavar="SECONDS",
        help="for a check, until the draft stands (default 10)",
    )
    parser.set_defaults(with_draft=None)
    parser.add_argument("--resume", action="store_true", help="go on with what a run before this one left unfinished")


def settings(parser: argparse._ActionsContainer) -> None:
    """The options of everything that drafts."""
    parser.add_argument(
        "--gate",
        action=_WithDraft,
        choices=GATES,
        default="entropy",
        help="what doubt is (default entropy, in nats; the others 0 to 1)",
    )
    parser.add_argument(
        "--rank",
        action=_WithDraft,
        type=count,
        default=20,
        help="a token stands among the cloud's first N (default 20)",
    )
    parser.add_argument(
        "--block", action=_WithDraft, type=count, default=5, help="tokens drafted at once, at first (default 5)"
    )
    parser.add_argument(
        "--ahead", action=_WithDraft, type=int, default=0, help="blocks drafted on while one is checked (default 0)"
    )


class _WithDraft(argparse.Action):
    """Also remembers, as `with_draft`, that the option was given: without --draft nothing would heed it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.with_draft = option_string


def trained(parser: argparse.ArgumentParser, gets: str) -> None:
    """The arguments of everything that is fitted on training clips; `gets` is what the folder gets."""
    parser.add_argument("model", metavar="FOLDER", help=f"model folder that training made; it gets the {gets}")
    parser.add_argument("--data", metavar="DIR", required=True, help="folder of the manifests and cached features")
    parser.add_argument("--manifest", metavar="NAMES", required=True, help=MANIFESTS)


def codec(parser: argparse.ArgumentParser) -> None:
    """The option of everything that sends frames."""
    parser.add_argument(
        "--codec",
        choices=tuple(CODECS),
        default="int8",
        help="packing of the tensor, if the model has its tables (default int8); `esrt models info NAME` tells sizes",
    )


def edge(parser: argparse.ArgumentParser) -> None:
    """The option of everything that would run what a cloud hands out."""
    parser.add_argument(
        "--edge", metavar="FILE", help="with --cloud: the device's half, an ONNX file you trust, not what the cloud has"
    )


def timing(parser: argparse.ArgumentParser) -> None:
    """The option of everything that encodes."""
    parser.add_argument(
        "--timing",
        choices=("fast", "constant"),
        default="fast",
        help="constant: every segment takes the time of the longest, so that a watcher learns nothing of its length",
    )


def size(text: str) -> int:
    """`"262144"`, `"256k"`, `"64M"` or `"2G"` -> bytes (binary multiples). For argparse's `type=`."""
    match = re.fullmatch(r"(\d+)([kKmMgG]?)", text.strip())
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 262144, 256k or 64M")
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()]


def count(text: str) -> int:
    """A whole number of at least 1. For argparse's `type=`."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def fail(code: str, sentence: str) -> int:
    """Print the one line of an error on stderr; returns the exit code 2."""
    line = " ".join(sentence.split())
    print(f"esrt: {line} [{code}]", file=sys.stderr)
    return 2
