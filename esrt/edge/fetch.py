"""The edge model that belongs to a cloud: fetched once, checked, and never half there.

Each model has a folder in the cache. It is filled beside and then renamed; what an attempt that broke off has brought
already stays there for the next one, and of a damaged folder only the damaged files are fetched again.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from esrt import hub
from esrt.edge import exchange
from esrt.edge.http import too_large
from esrt.edge.talk import Pause, Peer, Request, Talk, ask
from esrt.errors import CloudError, ModelError
from esrt.model.manifest import sha256
from esrt.wire.schemas import EDGE_MODEL, EdgeFile, ModelCard

if TYPE_CHECKING:
    from esrt.edge.encoder import Encoder, Timing

Progress = Callable[[int, int], None]

_WAIT_SECONDS = 0.2


def edge_model(
    peer: Peer, folder: Path | None = None, progress: Progress | None = None
) -> Talk[tuple[Path, ModelCard]]:
    """The ONNX file of the cloud's first model, in a folder of its own under `folder` (a cache of ours if not given),
    and the model's card. `progress` is told bytes so far and in all, if anything is to be fetched.

    Raises CloudError as `talk.ask` does, `edge_model_damaged`, and `edge_file_unknown` or `cloud_outdated` where
    this version and the cloud's do not fit; ModelError `edge_not_saved`.
    """
    card = (yield from exchange.models(peer))[0]
    if EDGE_MODEL not in [file.file for file in card.edge]:
        raise CloudError("cloud_outdated", f"The cloud at {peer.url} hands out no edge model: upgrade esrt there.")
    folder = hub.cache_dir() / "edge" if folder is None else folder
    target = folder / _name(card)
    try:
        if not _is_whole(target, card):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f".{target.name}.lock")
            while not _acquired(lock):
                yield Pause(_WAIT_SECONDS)
            try:
                if not _is_whole(target, card):
                    yield from _fill(peer, target, card, progress)
            finally:
                lock.release()
    except OSError as error:
        reason = error.strerror or error
        raise ModelError("edge_not_saved", f"The edge model cannot be kept in {folder}: {reason}.") from error
    return target / EDGE_MODEL, card


def model_of(peer: Peer, own: Path | None, progress: Progress | None = None) -> Talk[tuple[Path, ModelCard]]:
    """`edge_model`, or the card with the device's own file, which is what runs then: nothing is fetched."""
    if own is None:
        return (yield from edge_model(peer, progress=progress))
    return own, (yield from exchange.models(peer))[0]


def load(path: Path, card: ModelCard, url: str, timing: Timing = "fast", own: bool = False) -> Encoder:
    """The encoder of a model that was fetched, or of the device's own. Raises ModelError, or CloudError
    `edge_model_mismatch`.
    """
    from esrt.edge.encoder import Encoder

    encoder = Encoder(path, timing=timing)
    if encoder.info.fingerprint == card.fingerprint:
        return encoder
    if own:
        raise CloudError(
            "edge_model_mismatch",
            f"{path} makes frames of {encoder.info.fingerprint} ({encoder.info.name}), and {url} reads those of "
            f"{card.fingerprint} ({card.name}): use the edge model of the cloud's model, from a source you trust.",
        )
    raise CloudError(
        "edge_model_mismatch",
        f"The cloud at {url} hands out the edge model {encoder.info.fingerprint} but reads frames of "
        f"{card.fingerprint}: its model must be updated (`esrt models pull`) and `esrt serve` started again.",
    )


def _name(card: ModelCard) -> str:
    """Of the model and what its files hold: clouds with the same model share a folder, a new model gets a new one."""
    key = hashlib.sha256("".join(sorted(file.file + file.sha256 for file in card.edge)).encode()).hexdigest()[:12]
    safe = re.sub(r"[^\w-]", "-", card.name, flags=re.ASCII)[:60]
    return f"{safe}-{key}"


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _is_whole(folder: Path, card: ModelCard) -> bool:
    return all(_matches(folder / file.file, file) for file in card.edge)


def _matches(path: Path, file: EdgeFile) -> bool:
    return path.is_file() and path.stat().st_size == file.bytes and sha256(path) == file.sha256


def _fill(peer: Peer, target: Path, card: ModelCard, progress: Progress | None) -> Talk[None]:
    beside = target.with_name(f".{target.name}.new")
    if target.exists() and not beside.exists():
        target.rename(beside)  # damaged: what is whole in it need not come again
    beside.mkdir(exist_ok=True)
    whole = sum(file.bytes for file in card.edge)
    done = 0
    for file in card.edge:
        if not _matches(beside / file.file, file):
            yield from _file(peer, beside / file.file, file, _after(progress, done, whole))
        done += file.bytes
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)


def _file(peer: Peer, path: Path, file: EdgeFile, progress: Callable[[int], None]) -> Talk[None]:
    """Fetch one file beside its place, check it, then rename it."""
    beside = path.with_name(path.name + ".part")
    for _ in range(2):
        download = Download(beside, file, progress)
        if download.there < file.bytes or not file.bytes:
            yield from ask(peer, Request("GET", f"/v1/edge/{file.file}", sink=download))
        if _matches(beside, file):
            beside.replace(path)
            return
        beside.unlink(missing_ok=True)
        if not download.resumed:  # else its beginning may be the damaged part
            break
    raise CloudError(
        "edge_model_damaged", f"{file.file} came damaged, or the cloud at {peer.url} has changed its model: try again."
    )


def _after(progress: Progress | None, before: int, whole: int) -> Callable[[int], None]:
    def tell(count: int) -> None:
        if progress is not None:
            progress(before + count, whole)

    return tell


class Download:
    """A body that goes into a file. An attempt begins where the one before it broke off, if the cloud can do that."""

    def __init__(self, path: Path, file: EdgeFile, progress: Callable[[int], None]) -> None:
        self.path = path
        self._file = file
        self._progress = progress
        self.resumed = self.there > 0

    @property
    def there(self) -> int:
        """How many bytes are there already."""
        return self.path.stat().st_size if self.path.exists() else 0

    def headers(self) -> dict[str, str]:
        """A range, as long as the file is still the one that this is the beginning of."""
        if not 0 < self.there < self._file.bytes:
            return {}
        return {"Range": f"bytes={self.there}-", "If-Range": f'"{self._file.sha256}"'}

    def begin(self, status: int) -> None:
        """The body begins."""
        self.resumed = status == 206
        if not self.resumed:
            self.path.write_bytes(b"")

    def take(self, chunk: bytes) -> None:
        """Write the next bytes. Raises CloudError when the file has more than its card says."""
        if self.there + len(chunk) > self._file.bytes:
            raise too_large()
        with self.path.open("ab") as file:
            file.write(chunk)
        self._progress(self.there)
