"""Seconds a clip: the whole device's half, from samples to the bytes of a frame, beside Whisper's encoder alone."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from tqdm import tqdm

from esrt.audio.samples import Samples
from esrt.bench.edge import whisper
from esrt.bench.edge.floats import float_graph
from esrt.bench.edge.sounds import speech
from esrt.bench.page import machine, table
from esrt.edge.encoder import Encoder, Timing
from esrt.model.mel import LogMel
from esrt.translator import prepare
from esrt.wire import codecs

MEL_BINS = 80  # of Whisper base
SHORT, WINDOW = 5, 30  # seconds
MODES: tuple[Timing, ...] = ("constant", "fast")
TARGETS = {("constant", SHORT): 1.2, ("constant", WINDOW): 1.2, ("fast", SHORT): 0.35}

Key = TypeVar("Key")


class Case(NamedTuple):
    """One row: the graph's weights (`int8` or `float32`), the encoder's timing, the clip's seconds."""

    weights: str
    timing: Timing
    seconds: int


class Turn(NamedTuple):
    """Seconds by the clock, and by the processor over all threads: what else the machine does is not in these."""

    clock: float
    processor: float


def take_turns(work: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, list[Turn]]:
    """Seconds of each piece of work in each round, one after the other, so that a busy moment meets them all.

    A round before the first warms up and is not counted.
    """
    found: dict[Key, list[Turn]] = {key: [] for key in work}
    for number in tqdm(range(rounds + 1), desc="rounds", disable=None):
        for key, run in work.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            if number:
                found[key].append(Turn(time.perf_counter() - clock, time.process_time() - processor))
    return found


def frame_maker(encoder: Encoder, samples: Samples) -> Callable[[], bytes]:
    """All that a device does with a clip: mel, encoder, Q-Former, int8 codec, bytes."""

    def make() -> bytes:
        return codecs.encode(encoder.encode(samples), "int8", encoder.tables, encoder.fingerprint).to_bytes()

    return make


def summary(turns: Sequence[Turn]) -> tuple[float, float, float]:
    """Seconds: the clock's median and minimum, the processor's median."""
    clock = [turn.clock for turn in turns]
    return statistics.median(clock), min(clock), statistics.median(turn.processor for turn in turns)


def report(ours: Mapping[Case, Sequence[Turn]], theirs: Sequence[Turn]) -> str:
    """The table: seconds of each case beside those of Whisper's encoder."""
    whole = summary(theirs)

    def row(name: str, clip: str, turns: Sequence[Turn], target: str) -> list[str]:
        found = summary(turns)
        ratios = [f"{one / other:.2f}" for one, other in zip(found, whole, strict=True)]
        return [name, clip, *(f"{seconds:.3f}" for seconds in found), *ratios, target]

    rows = [row("Whisper's encoder alone", "any", theirs, "")]
    for case, turns in ours.items():
        target = TARGETS.get((case.timing, case.seconds)) if case.weights == "int8" else None
        name = f"ESRT, {case.timing}" + ("" if case.weights == "int8" else f", {case.weights}")
        rows.append(row(name, f"{case.seconds} s", turns, f"<= {target}" if target else ""))
    head = ["median, s", "minimum, s", "processor, s"]
    beside = ["median / Whisper's", "minimum / Whisper's", "processor / Whisper's"]
    return table(["", "clip", *head, *beside, "target"], rows)


def run(model: str, ctranslate2: Path | None, rounds: int, threads: int) -> str:
    """The section: every case and Whisper's encoder, by turns."""
    version = whisper.engine().__version__
    folder = prepare(model)
    with tempfile.TemporaryDirectory() as scratch, whisper.model_folder(ctranslate2) as their_folder:
        paths = {"int8": folder / "edge.onnx", "float32": float_graph(folder, Path(scratch) / "float.onnx")}
        cases = [Case(weights, timing, seconds) for weights in paths for timing in MODES for seconds in (SHORT, WINDOW)]
        encoders = {(case.weights, case.timing): Encoder(paths[case.weights], threads, case.timing) for case in cases}
        with torch.no_grad():
            mel = LogMel(MEL_BINS)(torch.from_numpy(speech(WINDOW))[None]).contiguous().numpy()
        their_model, features = whisper.load(their_folder, threads), whisper.engine().StorageView.from_array(mel)
        work: dict[Case | None, Callable[[], object]] = {None: lambda: their_model.encode(features)}
        for case in cases:
            work[case] = frame_maker(encoders[case.weights, case.timing], speech(case.seconds))
        found = take_turns(work, rounds)
    return "\n\n".join(
        [
            report({case: found[case] for case in cases}, found[None]),
            "Ours is all that a device does with one frame: mel, encoder, Q-Former, int8 codec, the frame's bytes. "
            "Whisper's is the encoder of Whisper base alone on a mel that is ready, always 30 s, in CTranslate2 "
            f"{version}, int8: it has yet to make the mel and to decode. The processor's seconds are those of all "
            f"threads together (median), which a busy machine hardly changes. {threads} thread(s) each, {rounds} "
            f"rounds by turns. On {machine()}.",
        ]
    )
