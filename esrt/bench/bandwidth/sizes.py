"""How many bytes an utterance is in each format, with all that frames it, and how long links take to carry them."""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from esrt.audio import formats
from esrt.audio.io import load
from esrt.audio.samples import Samples
from esrt.audio.segments import segments
from esrt.bench.bandwidth.clips import rows_of
from esrt.bench.bandwidth.line import Device, cloud
from esrt.bench.edge.sounds import speech
from esrt.bench.page import table
from esrt.config import SAMPLE_RATE, WINDOW_SAMPLES
from esrt.edge.encoder import Encoder
from esrt.languages import CORE
from esrt.train.manifest import Row
from esrt.translator import prepare
from esrt.wire.codecs import check_codec
from esrt.wire.frame import OVERHEAD

MEDIA = {"wav": "audio/wav", "flac": "audio/flac"} | {f"opus{rate}": "audio/ogg" for rate in formats.OPUS}
BASE64, SMALLEST_OPUS, SMALL = "base64", f"opus{min(formats.OPUS)}", "rvq32"
TARGETS = (1, 5, 44)
MEGABITS = (0.1, 1, 10, 100)
STEP = 960  # samples: a frame of Opus
LENGTHS = (1, 2, 4.3, 10, 20, 30)  # seconds
BREAK_EVEN, TIMES = 4.3, 300  # what is to be shown: seconds, and how much smaller than Base64 WAV at 30 s

PAPER = {"Cloud API": (392, None, 521, 41.7), "ESRT": (None, 77, 102, 8.2), "ESRT-Lite": (None, 38, 51, 4.1)}
"""Table XIII of the ESRT paper: MB of audio, of tensors and sent for one language; seconds at 100 Mb/s."""
PAPER_CLIPS, PAPER_SECONDS = 647, 392e6 / 647 / (2 * SAMPLE_RATE)


@dataclass(frozen=True)
class Utterance:
    """One clip in all formats: sounds by name in MEDIA, and by codec the frames, one for each segment of speech."""

    source: str
    seconds: float
    sounds: Mapping[str, bytes]
    frames: Mapping[str, Sequence[bytes]]


def utterance(samples: Samples, encoder: Encoder, source: str, pieces: Iterable[Samples] | None = None) -> Utterance:
    """float32 [n], 16 kHz -> all formats. `pieces` are what is encoded; by itself the whole, at most 30 s."""
    samples = formats.rounded(samples)
    sounds = {"wav": formats.wav(samples), "flac": formats.flac(samples)}
    sounds |= {f"opus{rate}": formats.opus(samples, rate) for rate in formats.OPUS}
    spoken = [samples] if pieces is None else list(pieces)
    frames = {codec: [encoder.frame(piece, codec).to_bytes() for piece in spoken] for codec in encoder.codecs}
    return Utterance(source, len(samples) / SAMPLE_RATE, sounds, frames)


def sent(device: Device, clip: Utterance, targets: int) -> dict[str, int]:
    """Format -> bytes sent for one clip and this many target languages. The device has sent none of it before."""
    to = [code for code in sorted(CORE) if code != clip.source][:targets]
    found = {BASE64: device.base64(clip.sounds["wav"], to)}
    found |= {name: device.sound(data, MEDIA[name], to) for name, data in clip.sounds.items()}
    return found | {codec: device.frames(frames, to) for codec, frames in clip.frames.items()}


def title(name: str) -> str:
    """A format's name in words."""
    if name.startswith("opus"):
        return f"Opus, {name.removeprefix('opus')} kb/s"
    return {BASE64: "WAV in Base64", "wav": "WAV", "flac": "FLAC"}.get(name, f"ESRT {name}")


def edge(ready: Path) -> Encoder:
    """The device's half of a ready model. Raises UsageError `codec_not_in_model` where it has no tables for SMALL."""
    encoder = Encoder(ready / "edge.onnx")
    check_codec(SMALL, encoder.codecs)
    return encoder


def clips(encoder: Encoder, rows: Sequence[Row]) -> list[Utterance]:
    """The rows' clips as a device sends them."""
    return [as_cut(load(row.audio), encoder, row.src) for row in tqdm(rows, desc="formats", disable=None)]


def as_cut(samples: Samples, encoder: Encoder, source: str) -> Utterance:
    """A clip of any length as a device sends it: cut at pauses, where this model hears well."""
    pieces = (segment.samples for segment in segments(formats.rounded(samples), encoder.info.longest))
    return utterance(samples, encoder, source, pieces)


def average(found: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Format -> mean bytes of the clips."""
    return {name: statistics.fmean(one[name] for one in found) for name in found[0]}


def run(model: str, manifest: Path, each: int) -> str:
    """The section: at most `each` clips of every language of the manifest."""
    rows = rows_of(manifest, each)
    encoder = edge(prepare(model))
    spoken = clips(encoder, rows)
    with cloud(tls=False) as connect:
        device = connect()
        plain = average([sent(device, clip, 1) for clip in tqdm(spoken, desc="plain", disable=None)])
    with cloud(tls=True) as connect:
        # A client sends a frame once: each number of targets gets a client of its own.
        devices = {targets: connect() for targets in TARGETS}
        every = {
            targets: [sent(device, clip, targets) for clip in tqdm(spoken, desc=f"{targets} targets", disable=None)]
            for targets, device in devices.items()
        }
        device, handshake = connect(), devices[1].handshake
        long = {length: sent(device, _composed(length, encoder), 1) for length in LENGTHS}
        cut = {length: as_cut(speech(length), encoder, "spa") for length in LENGTHS}
        pieces = {length: sent(connect(), clip, 1) for length, clip in cut.items()}
        small, waves = long[LENGTHS[0]][SMALL], _speech_of(spoken)
        even = {code: break_even(device, wave, small, live=False) for code, wave in waves.items()}
        live = {code: break_even(device, wave, small, live=True) for code, wave in waves.items()}
        paper = _composed(PAPER_SECONDS, encoder)
        theirs = {targets: sent(connect(), paper, targets) for targets in (1, TARGETS[-1])}
    lengths = [clip.seconds for clip in spoken]
    return "\n\n".join(
        [
            f"{len(spoken)} clips of {manifest.stem} in {len({clip.source for clip in spoken})} languages, "
            f"{min(lengths):.1f} to {max(lengths):.1f} s long, {statistics.fmean(lengths):.1f} s in the mean, median "
            f"{statistics.median(lengths):.1f} s, {sum(len(clip.frames[SMALL]) for clip in spoken)} frames. Bytes that "
            "a device sends for one clip (mean), and the seconds that links take to carry those for one target over "
            "TLS (computed):",
            _means(plain, {targets: average(found) for targets, found in every.items()}),
            f"Opening a connection with TLS sends {handshake} bytes more, once. What TCP and IP add (some 40 bytes a "
            "packet) and the answer, which is the same for all, are not counted.",
            "One target, TLS: what 10, 50 and 90 % of the clips stay within, and speech composed to a length, in one "
            "frame:",
            _by_length(every[1], long),
            f"The same speech as a device cuts it for this model, {encoder.info.longest:g} s at most:",
            _pieces(cut, pieces),
            _goals(even, live, long[30], pieces[30]),
            _table_xiii(theirs, paper),
        ]
    )


def _composed(seconds: float, encoder: Encoder) -> Utterance:
    return utterance(speech(seconds), encoder, "spa")


def break_even(device: Device, wave: Samples, small: int, live: bool) -> float:
    """From how many seconds of `wave` on Opus at the least rate sends more than `small` bytes: to 60 ms, by halves."""
    fits, not_any_more = 0, len(wave) // STEP
    while not_any_more - fits > 1:
        half = (fits + not_any_more) // 2
        data = formats.opus(wave[: half * STEP], min(formats.OPUS), live)
        if device.sound(data, MEDIA[SMALLEST_OPUS], ["eng"]) <= small:
            fits = half
        else:
            not_any_more = half
    return not_any_more * STEP / SAMPLE_RATE


def _speech_of(spoken: Sequence[Utterance]) -> dict[str, Samples]:
    """By language, 30 s of its clips in a row."""
    found = {}
    for source in sorted({clip.source for clip in spoken}):
        waves = [load(io.BytesIO(clip.sounds["wav"])) for clip in spoken if clip.source == source]
        found[source] = np.resize(np.concatenate(waves), WINDOW_SAMPLES)
    return found


def _means(plain: Mapping[str, float], tls: Mapping[int, Mapping[str, float]]) -> str:
    head = ["format", "plain, 1 target", *(f"TLS, {n} target{'s'[: n > 1]}" for n in tls)]
    rows = []
    for name, without in plain.items():
        times = [f"{tls[1][name] * 8 / (1e6 * rate):.{3 if rate < 10 else 4}f}" for rate in MEGABITS]
        rows.append([title(name), f"{without:,.0f}", *(f"{found[name]:,.0f}" for found in tls.values()), *times])
    return table([*head, *(f"s at {rate:g} Mb/s" for rate in MEGABITS)], rows)


def _by_length(clips: Sequence[Mapping[str, int]], long: Mapping[float, Mapping[str, int]]) -> str:
    def cells(name: str) -> list[str]:
        sizes = sorted(one[name] for one in clips)
        shares = [sizes[min(len(sizes) * tenths // 10, len(sizes) - 1)] for tenths in (1, 5, 9)]
        return [f"{size:,}" for size in (*shares, *(found[name] for found in long.values()))]

    head = ["format", "10 %", "50 %", "90 %", *(f"{length:g} s" for length in long)]
    return table(head, ([title(name), *cells(name)] for name in clips[0]))


def _pieces(cut: Mapping[float, Utterance], found: Mapping[float, Mapping[str, int]]) -> str:
    frames = ["frames", *(f"{len(clip.frames[SMALL])}" for clip in cut.values())]
    codecs = next(iter(cut.values())).frames
    rows = [[title(codec), *(f"{one[codec]:,}" for one in found.values())] for codec in codecs]
    return table(["", *(f"{length:g} s" for length in cut)], [frames, *rows])


def _goals(
    even: Mapping[str, float], live: Mapping[str, float], at_30: Mapping[str, int], cut: Mapping[str, int]
) -> str:
    times, middle = at_30[BASE64] / at_30[SMALL], statistics.median(even.values())
    fits = sum(seconds <= BREAK_EVEN for seconds in even.values())
    each = ", ".join(f"{code} {seconds:.2f} ({live[code]:.2f})" for code, seconds in even.items())
    return (
        f"Opus at {min(formats.OPUS)} kb/s sends more than {SMALL} from so many seconds of speech on (in brackets with "
        f"FFmpeg's own frames of 20 ms and pages of 1 s): {each}; medians {middle:.2f} "
        f"({statistics.median(live.values()):.2f}). Goal {BREAK_EVEN} s: {met(middle <= BREAK_EVEN)} in the median, "
        f"and in {fits} of {len(even)} languages. At 30 s, WAV in Base64 is {times:.0f} times {SMALL} in one frame. "
        f"Goal over {TIMES}: {met(times > TIMES)}. Cut as above it is {cut[BASE64] / cut[SMALL]:.0f} times."
    )


def met(reached: bool) -> str:
    """Of a goal."""
    return "met" if reached else "missed"


def _table_xiii(found: Mapping[int, Mapping[str, int]], clip: Utterance) -> str:
    one, many = found[1], found[TARGETS[-1]]
    rows = [
        [f"{name}, in the paper", *("-" if size is None else f"{size}" for size in (audio, tensor)), f"{mb}",
         f"{mb} x N" if tensor is None else f"{mb}", f"{seconds}", f"{PAPER['Cloud API'][2] / mb:.1f}"]
        for name, (audio, tensor, mb, seconds) in PAPER.items()
    ]  # fmt: skip
    for name in (BASE64, *clip.frames):
        tensor = None if name == BASE64 else PAPER_CLIPS * (len(clip.frames[name][0]) - OVERHEAD) / 1e6
        audio = PAPER_CLIPS * len(clip.sounds["wav"]) / 1e6 if name == BASE64 else None
        mb = PAPER_CLIPS * one[name] / 1e6
        rows.append(
            [title(name), *("-" if size is None else f"{size:.1f}" for size in (audio, tensor)), f"{mb:.1f}",
             f"{PAPER_CLIPS * many[name] / 1e6:.1f}", f"{mb * 8 / 100:.2f}", f"{one[BASE64] / one[name]:.1f}"]
        )  # fmt: skip
    head = ["", "audio, MB", "tensors, MB", "sent for 1 language, MB", f"for {TARGETS[-1]}", "s at 100 Mb/s", "ratio"]
    return "\n\n".join(
        [
            "### Table XIII of the ESRT paper",
            f"The paper: {PAPER_CLIPS} clips, 392 MB of WAV; its tensors are 80 x 768 (Lite: 40 x 768) in bf16, sent "
            "as Base64. Ours: as many times one clip of the mean length of theirs, "
            f"{clip.seconds:.1f} s, composed of human speech and really sent over TLS, with everything; ESRT-270M's "
            "tensors are 80 x 512, and no Base64 is needed. A frame has one size, whatever is said; here, as in the "
            "paper, a clip is one frame. The ratios are to WAV in Base64 for one language, those of the paper from its "
            "own MB.",
            table(head, rows),
        ]
    )
