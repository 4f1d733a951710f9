"""`esrt ugsd tune`: the gamma that fits a budget, and a calibrated gate, for a drafter, a cloud and a manifest."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from esrt import languages
from esrt.cli import common, speech
from esrt.errors import UsageError

if TYPE_CHECKING:
    from esrt.cli.common import Verbs
    from esrt.decoding.tune import Point
    from esrt.decoding.ugsd import Settings


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "ugsd",
        "Find the gamma of speculative decoding that fits a budget.",
        """
esrt ugsd tune dev.jsonl --to eng --draft drafter --cloud http://127.0.0.1:8080 --escalated 0.1
esrt ugsd tune dev.jsonl --to eng --draft drafter --cloud http://127.0.0.1:8080 --bytes 20000
esrt ugsd tune dev.jsonl --to eng --draft drafter --cloud http://127.0.0.1:8080 --seconds 1.5 --calibrate
""",
    )
    verb = parser.add_subparsers(metavar="tune", required=True)
    tune = verb.add_parser("tune", help="draft and check a manifest's clips at one gamma after another")
    tune.add_argument("manifest", metavar="MANIFEST", help="JSONL with the clips")
    tune.add_argument("--to", required=True, metavar="LANGS", help="target languages")
    tune.add_argument("--draft", required=True, metavar="MODEL", help="the drafter's folder")
    tune.add_argument("--cloud", required=True, metavar="URL", help="address of `esrt serve`")
    tune.add_argument("--key-file", metavar="F", help="file with the key for --cloud")
    tune.add_argument("--clips", type=common.count, default=20, help="of the manifest, evenly taken (default 20)")
    budget = tune.add_mutually_exclusive_group(required=True)
    budget.add_argument("--escalated", type=float, metavar="SHARE", help="of the drafted tokens, sent at most")
    budget.add_argument("--bytes", type=float, metavar="N", help="sent for a clip at most, on average")
    budget.add_argument("--seconds", type=float, metavar="S", help="for a clip at most, on average")
    tune.add_argument("--calibrate", action="store_true", help="fit the calibrated gate first, and keep it with MODEL")
    common.settings(tune)
    tune.set_defaults(run=run, gamma=0.0)  # one after another is tried


def run(args: argparse.Namespace) -> int:
    """Print a JSON line for each gamma tried, and last the one to take."""
    from esrt.audio.io import load
    from esrt.config import SAMPLE_RATE
    from esrt.decoding import drafter as drafters
    from esrt.decoding import gates
    from esrt.decoding.speech import Speculative
    from esrt.decoding.tune import calibrate, measure, tune
    from esrt.edge.client import Client
    from esrt.edge.encoder import Encoder
    from esrt.train.manifest import check
    from esrt.translator import prepare
    from esrt.wire import codecs

    to = languages.parse_list(args.to)
    audios = list(dict.fromkeys(row.audio for row in check(Path(args.manifest))))
    audios = audios[:: max(1, len(audios) // args.clips)][: args.clips]
    folder = prepare(args.draft)
    args.draft = str(folder)
    encoder, drafter = Encoder(folder / "edge.onnx"), drafters.load(folder)
    frames = []
    for audio in audios:
        rows = encoder.encode(load(audio)[: int(encoder.info.longest * SAMPLE_RATE)])
        frames.append(codecs.encode(rows, "int8", encoder.tables, encoder.fingerprint).to_bytes())
    speech.warn_if_plain(args.cloud)
    key = speech.read_key(args.key_file)

    def at(gamma: float, settings: Settings) -> Point:
        # A client of its own: the frames count as often as they would be sent.
        with Client(args.cloud, key) as client:
            return measure(Speculative(drafter, client, replace(settings, gamma=gamma)), gamma, frames, to)

    if args.calibrate:
        plain = speech.settings(argparse.Namespace(**{**vars(args), "gate": "entropy"}))
        calibrate(at(0.0, plain).checked).save(folder / gates.FILE)
        args.gate = "calibrated"
    settings = speech.settings(args)
    everything = at(0.0, settings)
    gate = settings.gate()
    doubts = [gate([token]) for token, _ in everything.checked]
    fits = _budget(args)
    points = tune(lambda gamma: everything if gamma == 0 else at(gamma, settings), doubts, fits)
    for point in points:
        print(json.dumps(_line(point)))
    best = next((point for point in points if fits(point)), None)
    if best is None:
        raise UsageError("budget_too_small", "Not even the drafter alone keeps within this budget: give it more.")
    print(json.dumps({"gate": args.gate, "gamma": best.gamma}))
    return 0


def _budget(args: argparse.Namespace) -> Callable[[Point], bool]:
    if args.escalated is not None:
        return lambda point: bool(point.escalated <= args.escalated)
    if args.bytes is not None:
        return lambda point: bool(point.bytes <= args.bytes)
    return lambda point: bool(point.latency <= args.seconds)


def _line(point: Point) -> dict[str, float]:
    return {
        "gamma": point.gamma,
        "escalated": round(point.escalated, 4),
        "bytes": round(point.bytes),
        "seconds": round(point.latency, 3),
        "round_trips": round(point.drafting.round_trips / point.clips, 2),
    }
