"""The `esrt` command: reads the arguments, runs one verb, and turns every error into one line and an exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from esrt import __version__
from esrt.cli import (
    audit,
    bench,
    codebooks,
    data,
    doctor,
    draft,
    evaluate,
    finder,
    keys,
    languages,
    m2m,
    models,
    serve,
    sidecar,
    train,
    transcribe,
    translate,
    ugsd,
)
from esrt.cli.common import fail, help_format
from esrt.errors import ESRTError, UsageError

EXAMPLES = """\
examples:
  esrt translate clip.flac --to eng,deu               both halves on this machine
  esrt serve --no-auth                                the cloud's half, for this machine only
  esrt translate clip.flac --to deu --cloud http://127.0.0.1:8080
  esrt sidecar --cloud http://127.0.0.1:8080          OpenAI's audio API on this device
  esrt transcribe clip.flac --format json
  esrt doctor                                         what is installed, what is missing, what to type

exit codes: 0 done, 2 an error that the one line on stderr explains, 130 interrupted
"""

VERBS = (
    translate,
    transcribe,
    serve,
    keys,
    sidecar,
    models,
    languages,
    doctor,
    data,
    train,
    codebooks,
    finder,
    draft,
    ugsd,
    m2m,
    evaluate,
    audit,
    bench,
)
"""In the order of `esrt --help`."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError("usage", f"{message[:1].upper()}{message[1:]}: see `{self.prog} --help`.")


def parser() -> argparse.ArgumentParser:
    """All verbs and options."""
    top = _Parser(
        prog="esrt",
        description="Speech translation split between a device and a cloud LLM: only one small tensor crosses the "
        "network.",
        epilog=EXAMPLES,
        formatter_class=help_format,
    )
    top.add_argument("--version", action="version", version=f"esrt {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add(verbs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; `arguments` is `sys.argv[1:]` where not given."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Texts are of any script, whatever the locale; names of files that are no text leave as they came.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        args = parser().parse_args(arguments)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except ESRTError as error:
        return fail(error.code, str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough (`esrt languages | head`). Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        extra = doctor.extra_of(error.name or "")
        if extra is None:
            return _bug(error)
        return fail("not_installed", f"{error.name} is not installed: type `pip install 'esrt[{extra}]'`.")
    except Exception as error:
        return _bug(error)


def _bug(error: Exception) -> int:
    if sys.flags.dev_mode:
        raise error
    said = f"{type(error).__name__}: {error}"
    return fail("internal", f"Unexpected error, {said[:300]} (`python -X dev -m esrt ...` shows where).")


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())
