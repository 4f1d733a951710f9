"""A manifest through a system: each clip once, however many targets it has; what is done already is not done again."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from esrt.errors import AudioError, UsageError
from esrt.evaluate import results
from esrt.train.manifest import Row, check

RUN = ".run.json"  # beside the results: what made them


@dataclass(frozen=True)
class Clip:
    """What a system is asked: to transcribe `audio` (a path) and to translate it into `targets`.

    `source` is told to the system where `named`; `transcript` is the reference, for systems that translate text.
    """

    audio: str
    source: str
    transcript: str
    targets: tuple[str, ...]
    named: bool

    @property
    def told(self) -> str | None:
        """The spoken language, where the system may know it."""
        return self.source if self.named else None


@dataclass(frozen=True)
class Answer:
    """What a system made of a clip. `source` is the language it found, or was told; None where it names none.

    `error` says why a clip could not be read; then there is nothing else.
    """

    source: str | None
    transcript: str
    translations: Mapping[str, str]
    error: AudioError | None = None


def not_read(clip: Clip, error: AudioError) -> Answer:
    """The answer to a clip that cannot be read."""
    return Answer(None, "", {}, AudioError(error.code, f"{clip.audio}: {error}"))


System = Callable[[Sequence[Clip]], Iterator[Answer]]
"""Answers clips in their order, each as soon as it can."""


@dataclass(frozen=True)
class Done:
    """What a run did: results that were there before, new ones, clips answered, and the seconds that took."""

    before: int
    results: int
    clips: int
    seconds: float


def run(
    manifest: Path,
    out: Path,
    system: Callable[[], System],
    made_by: Mapping[str, object],
    *,
    named: bool = False,
    each: int | None = None,
    sources: Collection[str] | None = None,
    targets: Collection[str] | None = None,
) -> Done:
    """Answers what `out` lacks of the manifest's rows and adds it there, clip by clip.

    `system` is built only if there is something to answer; `made_by` says in words what it is, and results of another
    are not mixed with these. Of the rows: those of the languages `sources` and `targets` that are no captions, and of
    them at most `each` recordings a spoken language, drawn with a fixed seed.

    Raises UsageError: those of `manifest.check`, `no_rows`, `resume_mismatch`, `not_saved`; whatever the system raises,
    after the results before it are written; and AudioError of the first clip that cannot be read, after all others.
    """
    rows = [
        row
        for row in check(manifest)
        if (sources is None or row.src in sources) and (targets is None or row.tgt in targets) and not row.captioned
    ]
    if not rows:
        raise UsageError("no_rows", f"{manifest} has no transcript or translation in these languages: choose others.")
    rows = chosen(rows, each)
    _same(out, {**made_by, "named": named})
    results.repair(out)
    done = {one.key for one in results.read(out)} if out.is_file() and out.stat().st_size else set()
    todo = [row for row in rows if (row.id, row.src, row.tgt) not in done]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in todo:
        groups.setdefault((row.audio, row.src), []).append(row)
    clips = [
        Clip(audio, source, own[0].asr, tuple(dict.fromkeys(row.tgt for row in own if row.tgt)), named)
        for (audio, source), own in groups.items()
    ]
    asked, folder = system() if clips else None, manifest.parent.resolve()
    unread: list[AudioError] = []
    began = time.perf_counter()  # loading a model is not what its speed is
    if asked is not None:
        with out.open("ab") as file, closing(_shown(asked(clips), len(clips))) as shown:
            for (audio, _), own, answer in zip(groups, groups.values(), shown, strict=True):
                if answer.error is not None:
                    unread.append(answer.error)
                    continue
                named_so = str(Path(audio).relative_to(folder)) if Path(audio).is_relative_to(folder) else audio
                results.append(file, [_result(row, named_so, named, answer) for row in own])
    if unread:
        rest = f" (and {len(unread) - 1} more)" if unread[1:] else ""
        raise AudioError(unread[0].code, f"All but what cannot be read is done: {unread[0]}{rest}")
    return Done(len(rows) - len(todo), len(todo), len(clips), time.perf_counter() - began)


def _shown(answers: Iterator[Answer], total: int) -> Generator[Answer, None, None]:
    """The answers, with a bar on a terminal; closing it closes them too."""
    from tqdm import tqdm

    try:
        yield from tqdm(answers, total=total, unit="clip", disable=None)
    finally:
        if hasattr(answers, "close"):
            answers.close()


def _result(row: Row, audio: str, named: bool, answer: Answer) -> results.Result:
    translation = answer.translations.get(row.tgt, "") if row.tgt else ""
    return results.result(row, audio, named, answer.source, answer.transcript, translation)


def chosen(rows: Sequence[Row], each: int | None) -> list[Row]:
    """The rows of at most `each` recordings of every spoken language; the same ones each time."""
    if each is None:
        return list(rows)
    by_source: dict[str, dict[str, None]] = {}
    for row in rows:
        by_source.setdefault(row.src, {})[row.audio] = None
    kept = {
        audio
        for audios in by_source.values()
        for audio in random.Random(0).sample(list(audios), min(each, len(audios)))
    }
    return [row for row in rows if row.audio in kept]


def _same(out: Path, made_by: Mapping[str, object]) -> None:
    """Writes down what makes the results, or compares it with what made those that are there.

    A file that no run began is somebody's, and stays as it is.
    """
    beside, said = out.with_name(out.name + RUN), json.dumps(made_by, sort_keys=True) + "\n"
    try:
        begun = out.is_file() and out.stat().st_size > 0
        if begun and not beside.is_file():
            raise UsageError("resume_mismatch", f"{out} was not begun by this command: name another --out.")
        if begun and beside.read_text(encoding="utf-8") != said:
            raise UsageError(
                "resume_mismatch",
                f"{out} holds results of {beside.read_text(encoding='utf-8').strip()}, and this would be "
                f"{said.strip()}: name another --out.",
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(said, encoding="utf-8")
        out.open("ab").close()
    except OSError as error:
        raise UsageError("not_saved", f"Results cannot be written to {out}: {error.strerror or error}.") from error
