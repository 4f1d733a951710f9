from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from esrt.audio.samples import checked
from esrt.errors import AudioError


def test_floats_are_samples() -> None:
    single = np.zeros(5, np.float32)
    assert checked(single) is single
    assert checked(np.zeros(5, np.float64)).dtype == np.float32


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((5, 2), np.float32), np.zeros(5, np.int16), np.array([0.0, np.nan]), np.array([np.inf]), np.array(1.0)],
)
def test_anything_else_is_refused(wrong: npt.NDArray[Any]) -> None:
    with pytest.raises(AudioError) as caught:
        checked(wrong)
    assert caught.value.code == "audio_wrong_samples"
