"""What the project calls samples: float32 [n], 16 kHz, mono, within about [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from esrt.errors import AudioError

Samples = npt.NDArray[np.float32]


def checked(samples: npt.NDArray[Any]) -> Samples:
    """`samples` as float32 [n]. Raises AudioError `audio_wrong_samples` for whatever is not mono floats."""
    if samples.ndim != 1:
        raise AudioError(
            "audio_wrong_samples", f"Samples of shape {samples.shape} are not mono: give an array of one dimension."
        )
    # Integers are refused and not scaled: nothing says whether they are 16-bit, 32-bit or already rounded to -1, 0, 1.
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(
            "audio_wrong_samples", f"Samples of type {samples.dtype} are not floats: divide them by their full scale."
        )
    if not np.isfinite(samples).all():
        raise AudioError("audio_wrong_samples", "The samples hold values that are not numbers: record them again.")
    return samples.astype(np.float32, copy=False)
