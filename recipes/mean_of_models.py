"""The mean of two models' weights, where one was trained from the other: so ESRT-270M is made.

How to run (needs `pip install '.[train]'`): python recipes/mean_of_models.py FIRST SECOND OUT
Both are folders that training made, the second from the first. Codebooks and finder are gone: `esrt codebooks OUT` and
`esrt finder OUT` make them anew.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from esrt.model import checkpoint, manifest


def mean(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name -> half of each, float32."""
    if one.keys() != other.keys():
        raise SystemExit("the two models have other tensors than each other")
    return {name: ((one[name].float() + other[name].float()) / 2).contiguous() for name in one}


def main(first: Path, second: Path, out: Path) -> None:
    """Writes `out`: vocabulary and card are the second model's."""
    a, b, lora = checkpoint.load_delta(first), checkpoint.load_delta(second), "llm_delta/adapter_model.safetensors"
    with manifest.whole_folder(out) as work:
        stale = shutil.ignore_patterns(manifest.MANIFEST, checkpoint.FINDER)
        shutil.copytree(second, work, ignore=stale, dirs_exist_ok=True)
        save_file(checkpoint.quantise(mean(a.adapter, b.adapter)), work / "adapter.safetensors")
        save_file(mean(a.projector, b.projector), work / "projector.safetensors")
        save_file({"rows": mean({"rows": a.tags}, {"rows": b.tags})["rows"].half()}, work / "tags.safetensors")
        # What either model's rows reach must not be clipped.
        checkpoint.save_codec({"int8_scale": a.int8_scale.maximum(b.int8_scale)}, work)
        states = (checkpoint.read_state(folder / lora) for folder in (first, second))
        save_file({name: tensor.half() for name, tensor in mean(*states).items()}, work / lora)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
