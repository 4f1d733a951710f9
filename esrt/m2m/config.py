"""What a whisperM2M is, beside the shape that transformers' WhisperConfig has: base, languages, drafter."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from esrt.errors import ModelError, UsageError
from esrt.languages import LANGUAGES

FILE = "m2m.json"


@dataclass(frozen=True)
class M2MConfig:
    """One whisperM2M. `layers` are kept of the base's decoder; `blocks` are KVSPN's, each over as many of those.

    `languages` are the ones it was trained for, as sources and as targets. `medusa` counts the blocks of a Medusa head
    (0: none), `draft` the tokens that a drafter may guess, the most frequent of the training texts (0: all of them).
    `trimmed` computes the logits of no token that training did not write, `precision` is that of decoding's products.
    """

    name: str
    weights: str
    layers: int
    blocks: int
    languages: tuple[str, ...]
    medusa: int = 0
    draft: int = 0
    trimmed: bool = False
    precision: Literal["float32", "int8"] = "float32"

    def __post_init__(self) -> None:
        if not 1 <= self.blocks <= self.layers:
            raise UsageError(
                "bad_blocks", f"{self.blocks} blocks cannot share {self.layers} layers out: 1 to {self.layers} can."
            )

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> M2MConfig:
        """Reads it. Raises ModelError `model_damaged`."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(**raw | {"languages": tuple(raw["languages"])})
        except (OSError, ValueError, TypeError, KeyError, UsageError) as error:
            raise ModelError("model_damaged", f"{path} is not a whisperM2M's configuration: {error}.") from error


def token(code: str) -> str:
    """Whisper's token of one of our languages: `deu` -> `<|de|>`. Raises UsageError `language_not_in_whisper`."""
    whisper = LANGUAGES[code].whisper
    if whisper is None:
        raise UsageError("language_not_in_whisper", f"Whisper has no token for {LANGUAGES[code].name} ({code}).")
    return f"<|{whisper}|>"
