"""Static files: compressed, and cached for ever under an address that changes with their content."""

import base64
import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flask import Blueprint, Response, abort, request, url_for

FOLDER: Final = Path(__file__).parent / "static"
_COMPRESSED: Final = frozenset({".css", ".js", ".svg"})
_FOR_EVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """One file, read once at start."""

    body: bytes
    packed: bytes | None
    """gzip."""
    mime: str
    version: str


def _load(path: Path) -> Asset:
    body = path.read_bytes()
    packed = None
    if path.suffix in _COMPRESSED:
        beside = path.with_name(f"{path.name}.gz")
        packed = beside.read_bytes() if beside.exists() else gzip.compress(body, 9, mtime=0)
    mime = mimetypes.types_map.get(path.suffix, "application/octet-stream")
    mime = "text/javascript" if path.suffix == ".js" else mime
    if mime.startswith("text/"):
        mime += "; charset=utf-8"
    version = base64.urlsafe_b64encode(hashlib.sha384(body).digest())[:12].decode()
    return Asset(body, packed, mime, version)


class Assets:
    """Every file below `static/`, by its path; nothing else can be asked for."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): _load(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix != ".gz"
        }

    def url(self, name: str) -> str:
        """Return the address of a file in this version."""
        return url_for("static_files.serve", name=name, v=self._files[name].version)

    def blueprint(self) -> Blueprint:
        """Return the route that serves them."""
        made = Blueprint("static_files", __name__)
        made.add_url_rule("/static/<path:name>", "serve", self._serve)
        return made

    def _serve(self, name: str) -> Response:
        asset = self._files.get(name)
        if asset is None:
            abort(404)
        response = Response(mimetype=None, content_type=asset.mime)
        response.headers["Vary"] = "Accept-Encoding"
        response.headers["Cache-Control"] = _FOR_EVER if request.args.get("v") == asset.version else "no-cache"
        response.set_etag(asset.version)
        if asset.packed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
            response.headers["Content-Encoding"] = "gzip"
            response.set_etag(f"{asset.version}-gz")
            response.data = asset.packed
        else:
            response.data = asset.body
        response.make_conditional(request)
        return response
