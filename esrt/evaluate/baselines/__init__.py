"""Other systems, asked the same questions: `system` in each module here builds an `esrt.evaluate.run.System`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from esrt.audio.io import load
from esrt.audio.samples import Samples
from esrt.errors import AudioError, ModelError, UsageError
from esrt.evaluate.run import Answer, Clip, not_read

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")
FILES = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt"]


def device() -> torch.device:
    """Where a baseline runs."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def loaded(name: str, load: Callable[[Path], Value]) -> Value:
    """`load` of a model's folder: `name` itself, or what the Hub has under it.

    Raises ModelError as `huggingface.fetch` does, `model_not_found`, and `model_not_supported` where `load` fails.
    """
    from esrt.hub import huggingface
    from esrt.model.language_model import quiet

    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise ModelError("model_not_found", f"There is no model {name!r}: name a folder, or owner/name of the Hub.")
        folder = huggingface.fetch(name, FILES)
    try:
        with quiet():
            return load(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError("model_not_supported", f"{name} cannot be loaded as this kind of model ({reason}).") from error


def unsupported(system: str, role: str, code: str) -> UsageError:
    """The error for a language that a system does not have: no row is filled with something else."""
    return UsageError(
        "language_not_supported", f"{system} has no {code} as {role} language: leave its rows out of the manifest."
    )


def by_batch(
    clips: Sequence[Clip], size: int, answer: Callable[[Sequence[Clip], Sequence[Samples]], Iterable[Answer]]
) -> Iterator[Answer]:
    """Answers to all clips: `answer` gets at most `size` at once with their sound, and none that cannot be read."""
    for first in range(0, len(clips), size):
        read = [(clip, _sound(clip)) for clip in clips[first : first + size]]
        there = [(clip, sound) for clip, sound in read if not isinstance(sound, Answer)]
        answers = iter(answer([clip for clip, _ in there], [sound for _, sound in there]) if there else ())
        for _, sound in read:
            yield sound if isinstance(sound, Answer) else next(answers)


def _sound(clip: Clip) -> Samples | Answer:
    try:
        return load(clip.audio)
    except AudioError as error:
        return not_read(clip, error)


def by_target(asked: Iterable[tuple[str, Value]]) -> dict[str, list[Value]]:
    """Values by their target language."""
    groups: dict[str, list[Value]] = {}
    for target, value in asked:
        groups.setdefault(target, []).append(value)
    return groups
