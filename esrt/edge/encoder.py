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
from esrt.audio.samples import Samples, checked
from esrt.config import FRAME_SAMPLES, WINDOW_SAMPLES
from esrt.edge.cores import saturates, usable_cores
from esrt.errors import AudioError, ModelError
from esrt.wire.codecs import Tables

METADATA_KEY = "esrt"
METADATA_FORMAT = 2
Timing = Literal["fast", "constant"]

_ONLY_ERRORS = 3


@dataclass(frozen=True)
class EdgeInfo:
    """What an edge model says of itself. `fingerprint` is hex; `context` is how much of 30 s the encoder sees."""

    name: str
    fingerprint: str
    queries: int
    width: int
    context: Literal["speech", "full"]


class Encoder:
    """An edge model, loaded. `info`, `fingerprint` (8 bytes) and `tables` are all that codecs and frames need of it."""

    info: EdgeInfo
    fingerprint: bytes
    tables: Tables

    def __init__(self, path: str | Path, threads: int | None = None, timing: Timing = "fast") -> None:
        """Load the ONNX file at `path`; `threads` is one per physical core if not given.

        `timing`: `fast` computes only what holds speech; `constant` always 30 s, so that the time a clip takes does not
        tell its length, as the rows' shape never does.

        Raises ModelError `edge_model_missing`, `edge_model_damaged` or `edge_model_unsupported`.
        """
        self._path, self._timing = Path(path), timing
        if not self._path.is_file():
            raise ModelError("edge_model_missing", f"There is no edge model at {path}: download or export it again.")
        try:
            self._session = _session(self._path, usable_cores() if threads is None else threads)
            ends = [end.name for end in (*self._session.get_inputs(), *self._session.get_outputs())]
        except Exception as error:  # ONNX Runtime's own errors have no base of their own
            raise self._damaged("ONNX Runtime cannot load it") from error
        self.info, self.tables = self._describe()
        if ends != ["waveform", "frames", "rows"]:
            raise self._damaged("its graph does not lead from a waveform to rows")
        self.fingerprint = bytes.fromhex(self.info.fingerprint)

    def encode(self, samples: Samples) -> npt.NDArray[np.float32]:
        """Speech -> features: float32 [n], 16 kHz, at most 30 s -> float32 [queries, width].

        May be called from several threads at once. Raises AudioError `audio_empty`, `audio_too_long` or
        `audio_wrong_samples`; ModelError `edge_model_damaged`.
        """
        samples = checked(samples)
        if not samples.size:
            raise AudioError("audio_empty", "There are no samples to encode: record something first.")
        if samples.size > WINDOW_SAMPLES:
            raise AudioError("audio_too_long", "The model hears at most 30 s at once: cut the audio into pieces first.")
        # The arena makes a run fast and is given back after it, so that a device's memory stays flat between clips.
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        waveform = pad(samples, self.info.context)
        frames = np.array([len(waveform) // FRAME_SAMPLES])
        if self._timing == "constant":
            waveform = pad(waveform, "full")
        try:
            (rows,) = self._session.run(["rows"], {"waveform": waveform[None], "frames": frames}, options)
        except Exception as error:  # see above
            raise self._damaged("it fails on a clip that it should take") from error
        if rows.shape != (1, self.info.queries, self.info.width) or not np.isfinite(rows).all():
            raise self._damaged("it gives other rows than its metadata says")
        features: npt.NDArray[np.float32] = rows[0]
        return features

    def _describe(self) -> tuple[EdgeInfo, Tables]:
        """Read the metadata, which a damaged or foreign file may lack."""
        try:
            raw = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA_KEY])
            if raw["format"] != METADATA_FORMAT:
                raise self._unsupported(int(raw["format"]))
            info = EdgeInfo(raw["name"], raw["fingerprint"], raw["queries"], raw["width"], raw["context"])
            scale = np.frombuffer(base64.b64decode(raw["int8_scale"], validate=True), dtype="<f4").astype(np.float32)
            if not isinstance(raw["name"], str) or raw["context"] not in ("speech", "full") or raw["queries"] < 1:
                raise ValueError
            if len(bytes.fromhex(info.fingerprint)) != 8 or scale.shape != (info.width,):
                raise ValueError
            return info, Tables(scale)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged("its metadata is not that of an ESRT edge model") from error

    def _unsupported(self, form: int) -> ModelError:
        older = "made by an older ESRT: upgrade esrt where it was made, which may be the cloud"
        newer = "made by a newer ESRT: upgrade esrt here"
        return ModelError("edge_model_unsupported", f"{self._path} was {older if form < METADATA_FORMAT else newer}.")

    def _damaged(self, why: str) -> ModelError:
        return ModelError("edge_model_damaged", f"The edge model {self._path} is damaged ({why}): download it again.")


def _session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_ERRORS
    options.intra_op_num_threads = threads
    # Threads that wait for work by spinning take a core from everything else on the device.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Slower and exact; processors other than x86 have no such switch, and no such trouble.
    options.add_session_config_entry("session.x64quantprecision", str(int(saturates())))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
