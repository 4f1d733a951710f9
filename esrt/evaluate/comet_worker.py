"""Runs in the Python that has `unbabel-comet`, by its path: it must not import anything of ours.

python comet_worker.py TEXTS.json SCORES.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(given: Path, made: Path) -> None:
    """Reads {model, texts: [{src, mt, ref}]}; writes the texts' scores, as COMET gives them."""
    import comet
    import torch

    asked = json.loads(given.read_text(encoding="utf-8"))
    path = asked["model"] if Path(asked["model"]).exists() else comet.download_model(asked["model"])
    model = comet.load_from_checkpoint(path)
    predicted = model.predict(asked["texts"], batch_size=16, gpus=min(1, torch.cuda.device_count()), progress_bar=False)
    made.write_text(json.dumps([float(score) for score in predicted.scores]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
