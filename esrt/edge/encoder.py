"""The edge model: one ONNX file that turns a waveform into the rows that cross the network."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from esrt.audio.padding import pad
from esrt.audio.protect import LONGEST, protect
from esrt.audio.samples import Samples, checked
from esrt.config import FRAME_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, WINDOW_SECONDS
from esrt.edge.cores import saturates, usable_cores
from esrt.errors import AudioError, ModelError
from esrt.wire.codecs import CODECS, Tables, check_codec, encode, encode_codes
from esrt.wire.frame import STAGES, Frame

METADATA_KEY = "esrt"
METADATA_FORMATS = (2, 3)  # the first knows no tables but those of int8
Timing = Literal["fast", "constant"]

_ONLY_ERRORS = 3


@dataclass(frozen=True)
class EdgeInfo:
    """What an edge model says of itself. `fingerprint` is hex; `context` is how much of 30 s the encoder sees.

    `longest` is how many seconds of speech it hears well at once (config.ModelConfig).
    """

    name: str
    fingerprint: str
    queries: int
    width: int
    context: Literal["speech", "full"]
    longest: float


class Encoder:
    """An edge model, loaded. `info`, `fingerprint` (8 bytes) and `tables` are all that codecs and frames need of it.

    `codecs` names those it can write. Codebooks are no tables here: their search is a part of the graph.
    """

    info: EdgeInfo
    fingerprint: bytes
    tables: Tables
    codecs: list[str]
    protect = False
    """Set it, and every clip is shifted and its level changed at random before it is encoded (esrt.audio.protect)."""

    def __init__(self, path: str | Path, threads: int | None = None, timing: Timing = "fast") -> None:
        """Load the ONNX file at `path`; `threads` is one per physical core if not given.

        `timing`: `fast` computes only what holds speech; `constant` always as much as the longest segment has, so that
        the time a segment takes does not tell its length, as the rows' shape never does. What is longer takes 30 s.

        Raises ModelError `edge_model_missing`, `edge_model_damaged` or `edge_model_unsupported`.
        """
        self._path, self._timing = Path(path), timing
        if not self._path.is_file():
            raise ModelError("edge_model_missing", f"There is no edge model at {path}: download or export it again.")
        try:
            self._session = open_session(self._path, usable_cores() if threads is None else threads)
            ends = [end.name for end in (*self._session.get_inputs(), *self._session.get_outputs())]
        except Exception as error:  # ONNX Runtime's own errors have no base of their own
            raise self._damaged("ONNX Runtime cannot load it") from error
        self.info, self.tables = self._describe()
        if ends[:3] != ["waveform", "frames", "rows"] or ends[3:] not in ([], ["codes"]):
            raise self._damaged("its graph does not lead from a waveform to rows")
        stages = self._session.get_outputs()[1].shape[-1] if ends[3:] else 0
        self.codecs = [
            name for name, number in CODECS.items() if name in self.tables.codecs or 0 < STAGES.get(number, 0) <= stages
        ]
        self.fingerprint = bytes.fromhex(self.info.fingerprint)

    def encode(self, samples: Samples) -> npt.NDArray[np.float32]:
        """Speech -> features: float32 [n], 16 kHz, at most 30 s -> float32 [queries, width].

        May be called from several threads at once. Raises AudioError `audio_empty`, `audio_too_long` or
        `audio_wrong_samples`; ModelError `edge_model_damaged`.
        """
        features: npt.NDArray[np.float32] = self._run("rows", samples)
        if features.shape != (self.info.queries, self.info.width) or not np.isfinite(features).all():
            raise self._wrong_rows()
        return features

    def frame(self, samples: Samples, codec: str) -> Frame:
        """Speech -> what is sent of it: the rows of `encode`, or the codes that the graph finds for them.

        Raises as `encode`, and UsageError `unknown_codec` or `codec_not_in_model`.
        """
        check_codec(codec, self.codecs)
        if CODECS[codec] not in STAGES:
            return encode(self.encode(samples), codec, self.tables, self.fingerprint)
        codes = self._run("codes", samples)
        if len(codes) != self.info.queries:
            raise self._wrong_rows()
        return encode_codes(codes, codec, self.info.width, self.fingerprint)

    def _run(self, output: str, samples: Samples) -> npt.NDArray[Any]:
        samples = checked(samples)
        if not samples.size:
            raise AudioError("audio_empty", "There are no samples to encode: record something first.")
        if samples.size > WINDOW_SAMPLES:
            raise AudioError("audio_too_long", "The model hears at most 30 s at once: cut the audio into pieces first.")
        # The arena makes a run fast and is given back after it, so that a device's memory stays flat between clips.
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        options.only_execute_path_to_fetches = True  # no search where rows are asked for
        if self.protect:
            samples = protect(samples)
        waveform = pad(samples, self.info.context)
        frames = np.array([len(waveform) // FRAME_SAMPLES])
        if self._timing == "constant":
            waveform = np.pad(waveform, (0, self._constant(len(waveform)) - len(waveform)))
        try:
            (found,) = self._session.run([output], {"waveform": waveform[None], "frames": frames}, options)
            result: npt.NDArray[Any] = found[0]
            return result
        except Exception as error:  # see above
            raise self._damaged("it fails on a clip that it should take") from error

    def _constant(self, length: int) -> int:
        """Samples to compute instead of `length`: those of the longest segment, with what protection may add to it."""
        longest = int(self.info.longest * SAMPLE_RATE) + 2 * LONGEST * self.protect
        segment = len(pad(np.zeros(min(longest, WINDOW_SAMPLES), np.float32), self.info.context))
        return segment if length <= segment else WINDOW_SAMPLES

    def _describe(self) -> tuple[EdgeInfo, Tables]:
        """Read the metadata, which a damaged or foreign file may lack."""
        try:
            raw = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA_KEY])
            if raw["format"] not in METADATA_FORMATS:
                raise self._unsupported(int(raw["format"]))
            longest = float(raw.get("longest", WINDOW_SECONDS))
            info = EdgeInfo(raw["name"], raw["fingerprint"], raw["queries"], raw["width"], raw["context"], longest)
            scale, centre = (_scale(raw[name]) if name in raw else None for name in ("int4_scale", "int4_centre"))
            tables = Tables(_scale(raw["int8_scale"]), scale, centre)
            if not isinstance(raw["name"], str) or raw["context"] not in ("speech", "full") or raw["queries"] < 1:
                raise ValueError
            if not 1 <= longest <= WINDOW_SECONDS:
                raise ValueError
            if len(bytes.fromhex(info.fingerprint)) != 8 or tables.width != info.width:
                raise ValueError
            return info, tables
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged("its metadata is not that of an ESRT edge model") from error

    def _unsupported(self, form: int) -> ModelError:
        older = "made by an older ESRT: upgrade esrt where it was made, which may be the cloud"
        newer = "made by a newer ESRT: upgrade esrt here"
        made = older if form < min(METADATA_FORMATS) else newer
        return ModelError("edge_model_unsupported", f"{self._path} was {made}.")

    def _wrong_rows(self) -> ModelError:
        return self._damaged("it gives other rows than its metadata says")

    def _damaged(self, why: str) -> ModelError:
        return ModelError("edge_model_damaged", f"The edge model {self._path} is damaged ({why}): download it again.")


def _scale(text: str) -> npt.NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)


def open_session(path: Path, threads: int) -> Any:
    """An edge model's graph as a device runs it, on so many threads."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_ERRORS
    options.intra_op_num_threads = threads
    # Threads that wait for work by spinning take a core from everything else on the device.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Slower and exact; processors other than x86 have no such switch, and no such trouble.
    options.add_session_config_entry("session.x64quantprecision", str(int(saturates())))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
