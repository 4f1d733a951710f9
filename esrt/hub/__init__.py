"""A model's name -> a folder that is complete, checked and ready to run.

A name is a local folder, a preset (`ESRT-270M`, whose trained delta lies in this package) or a repository of the Hub of
Hugging Face (`owner/name`). What is not ready yet (a delta, which names its base weights) is joined once with weights
from the Hub, or from the packages of `esrt[tiny]`, and kept in the cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from esrt.config import PRESETS, ModelConfig
from esrt.errors import ESRTError, ModelError
from esrt.hub import build, huggingface, release
from esrt.model import manifest

Progress = Callable[[str, float], None]

_SHIPPED = Path(__file__).parent.parent / "weights"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def cache_dir() -> Path:
    """Where built models are kept: ESRT_CACHE, else XDG_CACHE_HOME/esrt, else ~/.cache/esrt. Raises ModelError."""
    if own := os.environ.get("ESRT_CACHE"):
        return Path(own).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "esrt"
    except RuntimeError as error:  # a container's user may have no home
        raise ModelError("cache_not_writable", "There is no home folder: name a folder by ESRT_CACHE.") from error


def resolve(name: str, progress: Progress | None = None, trust_remote_code: bool = False) -> Path:
    """The folder of a model that is ready to run (its files: esrt.model.checkpoint), each checked by its SHA-256.

    `progress(what, share)` is told of long steps, with a share of 0 to 1. A damaged or interrupted cache is built anew.
    A release of other people's that brings code (`hub.release`) is built with `trust_remote_code` only, once.
    Raises ModelError: model_not_found, model_not_trained, model_damaged (a folder or package of the user's own),
    hub_unreachable, hub_refused, hub_not_found, base_missing, package_missing, cache_not_writable, remote_code,
    release_differs.
    """
    source = _locate(name)
    if release.is_release(source):
        return _released(name, source, progress or _silent, trust_remote_code)
    if is_ready(source):
        manifest.check(source)
        return source
    target = _built(source)
    return _cached(target, lambda work, tell: _make_ready(source, work, tell), progress or _silent)


def base(weights: str, progress: Progress | None = None) -> Path:
    """Base weights alone, for training, kept in the cache: a folder with `model.safetensors`.

    `openai/whisper-...`: encoder and decoder under the names of transformers' WhisperModel, float16. Any other name is
    a Gemma 3: bfloat16, with its tokenizer, in both of which the language tags have their places.
    """
    make = build.make_whisper if _is_whisper(weights) else build.make_llm

    def run(work: Path, tell: Progress) -> None:
        tell(f"preparing {weights} (once)", 0.0)
        make(weights, work)
        tell("ready", 1.0)

    return _cached(_base_folder(weights), run, progress or _silent)


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache: as it is, or with what `make` writes into an empty one. Raises ModelError."""
    return _cached(cache_dir() / "models" / name, lambda work, _: make(work), _silent)


def is_ready(folder: Path) -> bool:
    """Whether the folder has base weights and edge model besides its delta, so that it can run as it is."""
    return all((folder / part).exists() for part in ("config.json", "llm", "whisper", "edge.onnx"))


def is_built(name: str) -> bool:
    """Whether `resolve(name)` would find the model in its place or in the cache (unchecked), with nothing to build."""
    try:
        source = _locate(name, fetch=False)
        return is_ready(source) or is_ready(_built(source))
    except ESRTError:
        return False


def _silent(what: str, share: float) -> None:
    pass


def _is_whisper(weights: str) -> bool:
    return "whisper" in weights.rsplit("/", 1)[-1].lower()


def _locate(name: str, *, fetch: bool = True) -> Path:
    """The folder a name stands for, ready or not."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError("model_not_found", f"{folder} is not a model: it has no config.json.")
        return folder
    if name in PRESETS:
        if (_SHIPPED / name / "config.json").is_file():
            return _SHIPPED / name
        raise ModelError(
            "model_not_trained",
            f"{name} has a shape but no trained weights yet: train it, or name a folder that has them.",
        )
    if _REPOSITORY.fullmatch(name) and fetch:
        found = huggingface.fetch(name, release.DESCRIPTION)
        if release.is_release(found):
            return found
        try:
            ModelConfig.load(found / "config.json")  # before gigabytes of something else
        except ModelError as error:
            raise ModelError("model_not_found", f"{name} is no ESRT model, by its config.json.") from error
        return huggingface.fetch(name, build.FILES)
    raise ModelError(
        "model_not_found",
        f"There is no model {name!r}: name a folder, a repository of Hugging Face (owner/name), or one of "
        f"{', '.join(PRESETS)}.",
    )


def _released(name: str, source: Path, progress: Progress, trusted: bool) -> Path:
    """The ready form of a release, whose code runs only to build it."""
    target = cache_dir() / "models" / f"{_safe(Path(name).name)}-{release.key(source)}"
    if not trusted and not _is_whole(target):
        raise release.untrusted(name)

    def make(work: Path, tell: Progress) -> None:
        whole = source if Path(name).expanduser().is_dir() else huggingface.fetch(name)
        release.make_ready(name, whole, work, tell)

    return _cached(target, make, progress)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)[:60]


def _built(source: Path) -> Path:
    """Where the ready form of a delta is cached: by its name and its files, so a new delta is a new folder."""
    config = ModelConfig.load(source / "config.json")
    return cache_dir() / "models" / f"{_safe(config.name)}-{build.BUILD}-{manifest.identity(source)}"


def _base_folder(weights: str) -> Path:
    return cache_dir() / "bases" / f"{re.sub(r'[^A-Za-z0-9.-]', '--', weights)}-{build.BUILD}"


def _make_ready(source: Path, work: Path, progress: Progress) -> None:
    manifest.check(source)
    build.make_ready(source, work, _whole_base, progress)


def _whole_base(weights: str) -> Path | None:
    folder = _base_folder(weights)
    return folder if folder.is_dir() and _is_whole(folder) else None


def _is_whole(folder: Path) -> bool:
    try:
        manifest.check(folder)
    except ModelError:
        return False
    return True


def _cached(target: Path, make: Callable[[Path, Progress], None], progress: Progress) -> Path:
    """`target` once it is whole: as it is, or made by one process while the others wait."""
    if _is_whole(target):
        return target
    try:
        with _lock(target, progress):
            if not _is_whole(target):
                manifest.remove_leftovers(target)
                with manifest.whole_folder(target) as work:
                    make(work, progress)
    except OSError as error:
        raise ModelError(
            "cache_not_writable",
            f"The model cannot be kept in {cache_dir()} ({error.strerror or error}): make room, or set ESRT_CACHE.",
        ) from error
    return target


@contextmanager
def _lock(target: Path, progress: Progress) -> Iterator[None]:
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress("waiting for another process that prepares the same model", 0.0)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
