"""What `translate` and `transcribe` do: each file through the model, its texts out, nothing lost on the way."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from esrt import languages
from esrt.cli import common
from esrt.errors import AudioError, CloudError, ESRTError, UsageError

if TYPE_CHECKING:
    from esrt.audio.io import Sound
    from esrt.cli.journal import Journal
    from esrt.cli.outputs import Outputs
    from esrt.decoding.ugsd import Settings
    from esrt.edge.pipeline import SegmentResult
    from esrt.translator import OfflineTranslator, Translator
    from esrt.wire.schemas import Drafting


def each_file(args: argparse.Namespace, to: list[str]) -> int:
    """Send each file through the model and write what comes back; no target language means a transcript only.

    A file that is not readable speech costs one line on stderr and the exit code, not the files after it. The model is
    loaded when the first good file is open, so that a wrong path is said at once.
    """
    from esrt.audio.io import Sound
    from esrt.cli.outputs import Outputs

    _end_at_the_second_interrupt()
    args.source = languages.get(args.source).code if args.source else None
    if args.key_file and not args.cloud:
        raise UsageError("usage", "--key-file goes with --cloud: give the cloud's address or leave the key out.")
    if args.edge and (args.draft or not args.cloud):
        raise UsageError("usage", "--edge goes with --cloud, and without --draft: a drafter has its own device's half.")
    if args.with_draft and not args.draft:
        raise UsageError("usage", f"{args.with_draft} goes with --draft: name the drafter or leave it out.")
    outputs = Outputs(args.format, args.out)
    outputs.check(args.audio)
    translator: Translator | OfflineTranslator | None = None
    code = 0
    try:
        for number, path in enumerate(args.audio, 1):
            count = f"{number}/{len(args.audio)} " if len(args.audio) > 1 else ""
            try:
                with Sound(path) as sound:
                    run = _Run(args, path, to, outputs)
                    if args.resume and run.is_finished():
                        print(f"{path}: the results that are there are newer, and stay", file=sys.stderr)
                        continue
                    if translator is None:
                        translator = _translator(args)
                        if args.protect:
                            translator.protect()
                    run.translate(translator, sound, count + Path(path).name)
                    if sound.damage is not None:
                        raise sound.damage
            except AudioError as error:
                code = common.fail(error.code, str(error))
    finally:
        if translator is not None:
            translator.close()
    return code


class _Run:
    """One file of a command."""

    def __init__(self, args: argparse.Namespace, path: str, to: list[str], outputs: Outputs) -> None:
        self._args, self._path, self._to, self._outputs = args, path, to, outputs

    def is_finished(self) -> bool:
        """Whether a run before this one did the whole file."""
        return not self._journal_path().exists() and self._outputs.are_newer(self._path, self._to)

    def translate(self, translator: Translator | OfflineTranslator, sound: Sound, name: str) -> None:
        """Do the file. What is done when it breaks off is written, kept for `--resume`, and said."""
        from esrt.cli.outputs import not_saved
        from esrt.edge.pipeline import join

        journal = self._journal(translator)
        results = journal.read() if self._args.resume else []
        before = self._outputs.paths(self._path, join(results, self._to)) if results else []
        segments = translator.segments(sound, self._to, self._args.source, done=results[:])
        try:
            with closing(segments), _progress(name, sound.seconds, results) as show:
                for result in segments:
                    results.append(result)
                    # On stdout nothing is finished before the whole is: the journal is written if that fails.
                    if self._outputs.folder is not None:
                        try:
                            journal.add(results)
                        except OSError as error:
                            raise not_saved(journal.path, error) from error
                    show(result.end)
            whole = join(results, self._to)
            self._outputs.put(self._path, whole, sound.seconds)
            _say_drafting(whole.drafting)
        except (KeyboardInterrupt, ESRTError) as error:
            self._break_off(error, results, journal, sound)
        journal.remove()
        # A part of a file may have had another language spoken longest, which its transcript was named after.
        for path in set(before) - set(self._outputs.paths(self._path, whole)):
            path.unlink(missing_ok=True)

    def _break_off(
        self, error: KeyboardInterrupt | ESRTError, results: list[SegmentResult], journal: Journal, sound: Sound
    ) -> None:
        """Keep what is done, and say how to go on from there. Raises the error, which says so too."""
        from esrt.audio.subtitles import stamp
        from esrt.edge.pipeline import join

        if isinstance(error, ESRTError) and error.code == "resume_mismatch":
            raise error
        if results:
            with suppress(OSError):
                journal.keep(results)
            with suppress(ESRTError):
                self._outputs.put(self._path, join(results, self._to), sound.seconds)
        done = ""
        if journal.saved:
            at = stamp(results[journal.saved - 1].end).partition(".")[0]
            done = f"{self._path} is done up to {at}, and the same command with --resume goes on from there"
        if isinstance(error, KeyboardInterrupt):
            common.fail("interrupted", f"Interrupted: {done or 'nothing was finished'}.")
            raise error
        raise type(error)(error.code, f"{done}: {error}") if done else error

    def _journal_path(self) -> Path:
        from esrt.cli.journal import SUFFIX

        stem = Path(self._path).stem
        if self._outputs.folder is not None:
            return self._outputs.folder / f"{stem}{SUFFIX}"
        # Files of one name may all go to stdout: the digits say where one lies. Its name may be as long as names get.
        place = hashlib.sha256(os.fsencode(Path(self._path).resolve())).hexdigest()[:8]
        return Path(f"{stem[:40]}.{place}{SUFFIX}")

    def _journal(self, translator: Translator | OfflineTranslator) -> Journal:
        from esrt.cli.journal import Journal

        head = {
            "esrt": 1,
            "audio": Path(self._path).name,
            "bytes": Path(self._path).stat().st_size,
            "to": self._to,
            "from": self._args.source,
            "codec": self._args.codec,
            "draft": self._args.draft and [self._args.draft, self._args.gate, self._args.gamma, self._args.rank],
            "edge": translator.fingerprint.hex(),
        }
        return Journal(self._journal_path(), head)


@contextmanager
def _progress(name: str, seconds: float | None, done: list[SegmentResult]) -> Iterator[Callable[[float], None]]:
    """A bar with the time left: on stderr, on a terminal only. Tell it the second up to which the audio is done."""
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"
    if not seconds:
        form = "{desc}: {n:.0f} s of speech done in {elapsed}"
    begun = done[-1].end if done else 0.0
    with tqdm(total=seconds, initial=begun, desc=name, disable=None, delay=1, leave=False, bar_format=form) as bar:

        def show(end: float) -> None:
            # A container may have promised less than there is.
            bar.update(max(0.0, min(end, seconds or end) - bar.n))

        yield show


def _end_at_the_second_interrupt() -> None:
    """The first Ctrl-C is an exception as always, so that what is done is kept; the second ends the process at once."""

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        raise KeyboardInterrupt

    # A shell's background jobs are told to ignore Ctrl-C, and go on doing so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, first)


def _translator(args: argparse.Namespace) -> Translator | OfflineTranslator:
    from esrt.decoding.ugsd import is_cut
    from esrt.translator import OfflineTranslator, Translator

    if args.offline:
        if args.model or args.draft:
            raise UsageError("usage", "--offline goes with --cloud or alone, without --model and --draft.")
        offline = OfflineTranslator(args.offline)
        if not args.cloud:
            return offline
        try:
            return _remote(args)
        except CloudError as error:
            if not is_cut(error):
                raise
            print(f"esrt: {error} Translating here, by {args.offline}.", file=sys.stderr)
            return offline
    if args.draft:
        if not args.cloud or args.model:
            raise UsageError("usage", "--draft goes with --cloud and without --model: alone, a drafter is a --model.")
        warn_if_plain(args.cloud)
        key = read_key(args.key_file)
        return Translator.drafting(args.draft, args.cloud, settings(args), key, args.codec, args.timing, args.patience)
    if not args.cloud:
        return Translator(args.model or common.DEFAULT_MODEL, codec=args.codec, timing=args.timing)
    if args.model:
        raise UsageError("usage", "--model goes without --cloud: a cloud has one model and hands out its edge half.")
    return _remote(args)


def _remote(args: argparse.Namespace) -> Translator:
    from esrt.translator import Translator

    warn_if_plain(args.cloud)
    return Translator.remote(args.cloud, read_key(args.key_file), args.codec, args.timing, args.edge)


def warn_if_plain(url: str) -> None:
    """Says on stderr that an address elsewhere is asked without encryption."""
    from esrt.edge.http import is_plain

    if is_plain(url):
        print(
            f"esrt: warning: {url} is not encrypted: whoever is on the way can read and change the answers, and what "
            "the cloud hands out to run here. Use https.",
            file=sys.stderr,
        )


def settings(args: argparse.Namespace) -> Settings:
    """What the options of `common.settings` say. Raises UsageError."""
    from esrt.decoding import gates
    from esrt.decoding.ugsd import Settings
    from esrt.translator import prepare

    if args.gate == "calibrated":
        doubt = gates.Calibrated.load(prepare(args.draft) / gates.FILE)
        return Settings(args.gamma, args.rank, args.block, args.ahead, lambda: gates.Largest(doubt))
    return Settings(args.gamma, args.rank, args.block, args.ahead, lambda: gates.Largest(gates.GATES[args.gate]))


def _say_drafting(drafting: Drafting | None) -> None:
    if drafting is None:
        return
    shown = drafting.to_json()
    cut = f"; the cloud was out of reach [{drafting.cut}]" if drafting.cut else ""
    line = (
        f"esrt: {100 * shown['local_share']:.0f} % of {drafting.written} tokens as drafted here, {drafting.escalated} "
        f"checked in {drafting.round_trips} round trips, {drafting.bytes_sent} bytes sent{cut}"
    )
    print(line, file=sys.stderr)


def read_key(path: str | None) -> str | None:
    """The key in a `--key-file`; None without one. Raises UsageError `key_not_readable`."""
    if path is None:
        return None
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("key_not_readable", f"{path} cannot be read as a key: {error}.") from error
    if not key or len(key.split()) != 1 or not key.isascii():
        raise UsageError("key_not_readable", f"{path} should hold one key and nothing else.")
    return key
