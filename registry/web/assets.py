"""Styles and scripts: sent under names that hold their digests, so that browsers keep them for good.

`app.css` and `app.js` are the files of `styles` and `scripts`, in the order of their names. Those of others lie in `vendor`
with their licences; a test holds them against the digests that are written there.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from registry.http.paths import STATIC

_STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
#: The folders whose files are sent as they are.
_WHOLE = ("vendor", "icons")
_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept-Encoding",
}


class Asset(NamedTuple):
    """One file as it is sent."""

    body: bytes
    compressed: bytes
    media_type: str


@functools.cache
def _assets() -> tuple[dict[str, str], dict[str, Asset]]:
    """By name, where a file is found; by that, the file."""
    places: dict[str, str] = {}
    files: dict[str, Asset] = {}
    bodies = {
        "app.css": b"".join(file.read_bytes() for file in sorted(_STATIC.glob("styles/*.css"))),
        "app.js": b"".join(file.read_bytes() for file in sorted(_STATIC.glob("scripts/*.js"))),
        **{file.name: file.read_bytes() for file in _STATIC.glob("*/*") if file.parent.name in _WHOLE},
    }
    for name, body in bodies.items():
        stem, _, ending = name.rpartition(".")
        if f".{ending}" in _TYPES:
            hashed = f"{stem}.{hashlib.sha256(body).hexdigest()[:16]}.{ending}"
            places[name] = f"{STATIC}{hashed}"
            files[hashed] = Asset(body, gzip.compress(body, 9, mtime=0), _TYPES[f".{ending}"])
    return places, files


def asset(name: str) -> str:
    """Return the address of a file by its name. Raises KeyError."""
    return _assets()[0][name]


def text_of_asset(name: str) -> str:
    """Return the text of a file by its name. Raises KeyError."""
    return _assets()[1][asset(name).removeprefix(STATIC)].body.decode()


async def send_asset(request: Request) -> Response:
    """Send a file."""
    found = _assets()[1].get(request.path_params["name"])
    if found is None:
        return PlainTextResponse("there is no such file; load the page again", 404)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        return Response(found.compressed, media_type=found.media_type, headers={**_HEADERS, "Content-Encoding": "gzip"})
    return Response(found.body, media_type=found.media_type, headers=_HEADERS)


ROUTES = [Route(f"{STATIC}{{name}}", send_asset, methods=["GET"])]
