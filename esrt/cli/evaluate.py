"""`esrt evaluate`: how good a system is: its results on a manifest, their scores, comparisons and reports."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from esrt import languages
from esrt.cli import common, speech
from esrt.errors import UsageError
from esrt.model.manifest import identity
from esrt.wire.codecs import CODECS
from esrt.wire.schemas import EDGE_MODEL

if TYPE_CHECKING:
    from esrt.cli.common import Verbs
    from esrt.evaluate.run import System

KEY = "OPENAI_API_KEY"
METRICS = ("spbleu", "bleu", "chrf")
REPORTED = (*METRICS, "comet")


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "evaluate",
        "Measure how good a system is: run it on a manifest, score what it said, compare and report.",
        """
esrt evaluate run data/fleurs-test.jsonl --out esrt.jsonl --model ESRT-270M
esrt evaluate run data/fleurs-test.jsonl --out cloud.jsonl --cloud https://esrt.example.org --key-file laptop.key
esrt evaluate run data/fleurs-test.jsonl --out nllb.jsonl --whisper openai/whisper-large-v3 --mt facebook/nllb-200-3.3B
esrt evaluate run data/fleurs-test.jsonl --out text.jsonl --text ESRT-270M      the LLM alone, from transcripts
esrt evaluate score esrt.jsonl nllb.jsonl                      esrt.scores.csv, nllb.scores.csv
esrt evaluate score esrt.jsonl --comet --comet-python comet/bin/python
esrt evaluate compare esrt.jsonl nllb.jsonl --metric chrf      paired bootstrap, each direction
esrt evaluate report esrt.scores.csv nllb.scores.csv --metric comet --out report
""",
    )
    parts = parser.add_subparsers(metavar="run|score|compare|report", required=True)
    _add_run(parts)
    _add_score(parts)
    compare = parts.add_parser("compare", help="paired bootstrap between two systems' results", allow_abbrev=False)
    compare.add_argument("first", metavar="RESULTS", type=Path)
    compare.add_argument("second", metavar="RESULTS", type=Path)
    compare.add_argument("--metric", choices=METRICS, default="chrf", help="default chrf (chrF++)")
    compare.set_defaults(run=_compare)
    report = parts.add_parser("report", help="tables and pictures of one metric, from scores", allow_abbrev=False)
    report.add_argument("scores", metavar="SCORES", nargs="+", type=Path, help="files of `esrt evaluate score`")
    report.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder for its files")
    report.add_argument("--metric", choices=REPORTED, default="comet", help="default comet, as the paper has it")
    report.add_argument("--text", metavar="SCORES", type=Path, help="the first system's LLM from text (Figure 9)")
    report.set_defaults(run=_report)


def _add_run(parts: Verbs) -> None:
    run = parts.add_parser(
        "run", help="a system's results on a manifest; a run that stopped goes on", allow_abbrev=False
    )
    run.add_argument("manifest", metavar="MANIFEST", type=Path, help="JSON lines, see docs/data.md")
    run.add_argument("--out", metavar="RESULTS", required=True, type=Path, help="JSON lines with the answers added")
    which = run.add_mutually_exclusive_group()
    which.add_argument("--model", metavar="NAME", help=f"ESRT, both halves here (default {common.DEFAULT_MODEL})")
    which.add_argument("--cloud", metavar="URL", help="ESRT, the cloud's half at this address")
    which.add_argument("--text", metavar="NAME", help="ESRT's language model alone, from the reference transcripts")
    which.add_argument("--whisper", metavar="NAME", help="baseline: Whisper, alone (into English) or with --mt")
    which.add_argument("--seamless", metavar="NAME", help="baseline: SeamlessM4T-v2")
    which.add_argument("--openai", metavar="URL", help=f"baseline: a server with OpenAI's audio API; its key in {KEY}")
    run.add_argument("--mt", metavar="NAME", help="with --whisper: a text translation model of transformers")
    run.add_argument("--openai-model", metavar="NAME", default="whisper-1", help="with --openai (default whisper-1)")
    run.add_argument("--key-file", metavar="F", help="with --cloud: file with the key, and nothing else")
    run.add_argument("--codec", choices=tuple(CODECS), default="int8", help="packing of the tensor (default int8)")
    run.add_argument("--name-source", action="store_true", help="tell the system which language is spoken")
    run.add_argument("--from", dest="sources", metavar="LANGS", help="only clips in these languages")
    run.add_argument("--to", dest="targets", metavar="LANGS", help="only translations into these languages")
    run.add_argument("--clips", type=common.count, metavar="N", help="at most N clips a spoken language")
    run.set_defaults(run=_run)


def _add_score(parts: Verbs) -> None:
    score = parts.add_parser("score", help="scores of each direction, from results", allow_abbrev=False)
    score.add_argument("results", metavar="RESULTS", nargs="+", type=Path)
    score.add_argument("--metrics", metavar="NAMES", help=f"of {','.join(METRICS)} (default all that can be had)")
    score.add_argument("--comet", nargs="?", const="", metavar="MODEL", help="COMET too (Unbabel/wmt22-comet-da)")
    score.add_argument("--comet-python", metavar="PATH", help="the Python that has unbabel-comet")
    score.set_defaults(run=_score)


def _run(args: argparse.Namespace) -> int:
    from esrt.evaluate import run
    from esrt.translator import prepare

    if args.mt and not args.whisper:
        raise UsageError("usage", "--mt goes with --whisper: name the model that hears.")
    if args.key_file and not args.cloud:
        raise UsageError("usage", "--key-file goes with --cloud: give the cloud's address or leave the key out.")
    kinds = ("cloud", "text", "whisper", "seamless", "openai")
    kind = next((kind for kind in kinds if getattr(args, kind)), "model")
    made_by = {kind: getattr(args, kind) or common.DEFAULT_MODEL}
    used = {"whisper": ["mt"], "openai": ["openai_model"], "cloud": ["codec"], "model": ["codec"]}.get(kind, [])
    made_by.update({name: getattr(args, name) for name in used if getattr(args, name)})
    if kind in ("model", "text"):  # what is trained anew in the same folder is another model
        made_by["manifest"] = identity(prepare(made_by[kind]))
    if kind == "cloud":
        from esrt.edge.client import Client

        speech.warn_if_plain(args.cloud)
        with Client(args.cloud, speech.read_key(args.key_file)) as client:
            card = client.models()[0]
        made_by["model"] = card.name
        made_by["edge"] = next((file.sha256 for file in card.edge if file.file == EDGE_MODEL), "")
    try:
        with ExitStack() as opened:
            done = run.run(
                args.manifest, args.out, lambda: _system(kind, args, opened), made_by,
                named=args.name_source or kind == "text",
                each=args.clips, sources=_codes(args.sources), targets=_codes(args.targets),
            )  # fmt: skip
    except KeyboardInterrupt:
        common.fail("interrupted", f"Interrupted: the same command goes on from what is in {args.out}.")
        raise
    speed = f", {done.results / done.seconds:.2f} results/s" if done.results else ""
    before = f"; {done.before} were there before" if done.before else ""
    print(f"{done.results} results of {done.clips} clips in {done.seconds:.0f} s{speed}{before}: {args.out}")
    return 0


def _codes(text: str | None) -> list[str] | None:
    return None if text is None else languages.parse_list(text)


def _system(kind: str, args: argparse.Namespace, opened: ExitStack) -> System:
    """The system that is asked; what it holds open is closed with `opened`."""
    from esrt.evaluate import systems
    from esrt.translator import Translator, prepare

    if kind == "whisper":
        from esrt.evaluate.baselines import cascade

        return cascade.system(args.whisper, args.mt)
    if kind == "seamless":
        from esrt.evaluate.baselines import seamless

        return seamless.system(args.seamless)
    if kind == "openai":
        from esrt.evaluate.baselines import openai

        return openai.system(args.openai, args.openai_model, os.environ.get(KEY))
    if kind == "text":
        from esrt.cloud.text import circles

        return systems.text_alone(prepare(args.text), circles)
    if kind == "cloud":
        return systems.through(
            opened.enter_context(Translator.remote(args.cloud, speech.read_key(args.key_file), args.codec))
        )
    return systems.through(opened.enter_context(Translator(args.model or common.DEFAULT_MODEL, args.codec)))


def _score(args: argparse.Namespace) -> int:
    from esrt.evaluate import comet, results, scores, spm
    from esrt.evaluate.tables import transcripts

    names = set((args.metrics or ",".join(METRICS)).split(","))
    if unknown := sorted(names - set(METRICS)):
        raise UsageError("usage", f"Unknown metric {unknown[0]!r}: choose from {', '.join(METRICS)}; COMET is --comet.")
    everything = {path: results.read(path) for path in args.results}
    if "spbleu" in names:
        try:
            spm.fetch()
        except UsageError as error:
            if args.metrics:  # it was asked for by name
                raise
            names.discard("spbleu")
            print(f"esrt: without spBLEU: {error} [{error.code}]", file=sys.stderr)

    def by_comet(texts: scores.Texts) -> list[float]:
        return comet.scores(texts, args.comet or comet.MODEL, args.comet_python)

    for path, own in everything.items():
        made = scores.of(own, names, None if args.comet is None else by_comet)
        out = path.with_suffix(".scores.csv")
        scores.write(out, made)
        columns = [name for name in scores.HIGHER if any(name in one.values for one in made)]
        rows = [
            [f"{one.src} -> {one.tgt}", str(one.rows), *(f"{one.values[name]:.1f}" for name in columns)]
            for one in made
            if one.tgt
        ]
        print(f"{path}: scores in {out}\n")
        if rows:
            print(_aligned([["direction", "clips", *(scores.TITLES[name] for name in columns)], *rows]), end="\n\n")
        heard = transcripts({path.stem: made})
        print(_aligned([["spoken", "rate", "%", "language found, %"], *map(list, heard.rows)]), end="\n\n")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from esrt.evaluate import metrics, results, spm

    if args.metric == "spbleu":
        spm.fetch()
    one, other = ({found.key: found for found in results.read(path)} for path in (args.first, args.second))
    shared = [one[key] for key in one if key in other]
    rows = [["direction", "clips", args.first.stem, "95 %", args.second.stem, "95 %", "difference", "p"]]
    for (src, tgt), own in results.pairs(shared):
        if tgt:
            said = ([found.s2tt_r for found in own], [other[found.key].s2tt_r for found in own])
            made = metrics.compare(args.metric, *said, [found.s2tt for found in own], tgt)
            ends = [f"{made.first:.1f}", f"+-{made.first_half:.1f}", f"{made.second:.1f}", f"+-{made.second_half:.1f}"]
            rows.append([f"{src} -> {tgt}", str(len(own)), *ends, f"{made.second - made.first:+.1f}", f"{made.p:.3f}"])
    if len(rows) == 1:
        raise UsageError("nothing_shared", f"{args.first} and {args.second} have no translation of the same rows.")
    print(_aligned(rows))
    return 0


def _report(args: argparse.Namespace) -> int:
    from esrt.evaluate import report, scores

    names = [path.name.removesuffix(".csv").removesuffix(".scores") for path in args.scores]
    if len(set(names)) < len(names):
        raise UsageError("usage", "Two of the scores have the same name: rename one, for it names its column.")
    systems = {name: scores.read(path) for name, path in zip(names, args.scores, strict=True)}
    text = {names[0]: scores.read(args.text)} if args.text else None
    print(report.write(args.out, systems, args.metric, text))
    return 0


def _aligned(rows: list[list[str]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in pairs)
        for row in rows
        for pairs in [list(enumerate(zip(row, widths, strict=True)))]
    )
