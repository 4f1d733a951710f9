"""What a device may fetch: the edge half of a ready folder, under fixed names, and nothing else that lies there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from esrt.errors import CloudError, ModelError
from esrt.model import manifest
from esrt.wire.schemas import EDGE_FILES, EDGE_MODEL, EdgeFile

_TYPES = {".json": "application/json"}


class EdgeFiles:
    """The edge half of one folder. `listed` is what the model's card says of it.

    The folder's own MANIFEST.json names the cloud's half too; devices get one that names theirs alone.
    """

    def __init__(self, folder: Path) -> None:
        """Read and hash the files. Raises ModelError `model_not_ready` where there is no edge model."""
        if not (folder / EDGE_MODEL).is_file():
            raise ModelError(
                "model_not_ready", f"{folder} has no {EDGE_MODEL}: use what esrt.hub.resolve returns for it."
            )
        paths = [folder / name for name in EDGE_FILES if name != manifest.MANIFEST and (folder / name).is_file()]
        files = [EdgeFile(path.name, manifest.sha256(path), path.stat().st_size) for path in paths]
        text = manifest.text({file.file: {"bytes": file.bytes, "sha256": file.sha256} for file in files})
        self._manifest = text.encode()
        listed = EdgeFile(manifest.MANIFEST, hashlib.sha256(self._manifest).hexdigest(), len(self._manifest))
        self._folder = folder
        self.listed = [listed, *files]

    def respond(self, name: str, request: Request) -> Response:
        """The file, a range of it, or 304; its ETag is its SHA-256. Raises CloudError `edge_not_found`."""
        found = next((file for file in self.listed if file.file == name), None)
        if found is None:
            names = ", ".join(file.file for file in self.listed)
            raise CloudError("edge_not_found", f"The edge model has these files: {names}.", 404)
        headers = {"ETag": f'"{found.sha256}"'}
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        kind = _TYPES.get(Path(name).suffix, "application/octet-stream")
        if name == manifest.MANIFEST:
            return Response(self._manifest, headers=headers, media_type=kind)
        return FileResponse(self._folder / name, headers=headers, media_type=kind)
