"""`esrt translate`: speech files -> transcript and translations, on this machine or through a cloud."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from esrt import languages
from esrt.cli import common
from esrt.errors import AudioError, UsageError

if TYPE_CHECKING:
    from esrt.cli.common import Verbs
    from esrt.edge.pipeline import Result
    from esrt.translator import Translator


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "translate",
        "Transcribe speech and translate it into one or more languages.",
        """
esrt translate clip.flac --to eng,deu
esrt translate *.wav --to fra --from eng --format json
esrt translate clip.mp3 --to eng --cloud https://esrt.example.org --key-file laptop.key
""",
    )
    parser.add_argument("--to", required=True, metavar="LANGS", help="target languages, such as fra,deu or fr,pt-BR")
    common.speech(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Translate each file; 0 if all went well, 2 if a file was not readable speech."""
    return each_file(args, languages.parse_list(args.to))


def each_file(args: argparse.Namespace, to: list[str]) -> int:
    """Send each file through the model and print what comes back; no target language means a transcript only.

    A file that is not readable speech costs one line on stderr and the exit code, not the files after it. The model is
    loaded when the first good file is, so that a wrong path is said at once.
    """
    from tqdm import tqdm

    from esrt.audio import io

    source = languages.get(args.source).code if args.source else None
    if args.key_file and not args.cloud:
        raise UsageError("usage", "--key-file goes with --cloud: give the cloud's address or leave the key out.")
    translator: Translator | None = None
    code = 0
    try:
        # disable=None: a bar on a terminal only. leave=False: the bar goes when the results are all there.
        for path in tqdm(args.audio, unit="clip", disable=None if len(args.audio) > 1 else True, leave=False):
            try:
                samples = io.load(path)
            except AudioError as error:
                code = common.fail(error.code, str(error))
                continue
            if translator is None:
                translator = _translator(args)
            print_result(path, translator.translate(samples, to=to, source=source), args.format)
    finally:
        if translator is not None:
            translator.close()
    return code


def _translator(args: argparse.Namespace) -> Translator:
    from esrt.translator import Translator

    if not args.cloud:
        return Translator(args.model or common.DEFAULT_MODEL, codec=args.codec)
    if args.model:
        raise UsageError("usage", "--model goes without --cloud: a cloud has one model and hands out its edge half.")
    return Translator.remote(args.cloud, key=_read_key(args.key_file), codec=args.codec)


def _read_key(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("key_not_readable", f"{path} cannot be read as a key: {error}.") from error
    if not key or len(key.split()) != 1 or not key.isascii():
        raise UsageError("key_not_readable", f"{path} should hold one key and nothing else.")
    return key


def print_result(path: str, result: Result, format: str) -> None:
    """One result on stdout. `text`: the path, then a line a language; `json`: one object on one line."""
    from tqdm import tqdm

    if format == "json":
        text = json.dumps(as_json(path, result), ensure_ascii=False)
    else:
        lines = [(result.source or "---", result.transcript), *result.translations.items()]
        text = "\n".join([path, *(f"{code}  {line}" for code, line in lines)])
    # tqdm's own print leaves a bar that stands on the terminal whole.
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def as_json(path: str, result: Result) -> dict[str, object]:
    """What `--format json` prints for one file: texts, bytes that crossed the wire, seconds in each half."""
    return {
        "audio": path,
        "source": result.source,
        "transcript": result.transcript,
        "translations": result.translations,
        "bytes": result.wire_bytes,
        "seconds": {"edge": round(result.edge_seconds, 3), "cloud": round(result.cloud_seconds, 3)},
    }
