"""The requests that a pull sends to a registry, with the standard library alone.

`PullSource` is what a pull needs; `ApiSource` does the same over a client's own transport, which embedded registries and
proxies need.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

from sdk.api.answers import VERSION, VERSION_HEADER, check_version, raise_error, require_json
from sdk.config import Config
from sdk.errors import Incompatible, Unavailable
from sdk.formats.manifest import FORMAT, Contents, HasFiles, is_count, is_sha256
from sdk.pulling.http import BrokenConnection, HttpClient
from sdk.pulling.ranges import BlobLocation
from sdk.pulling.transfer import CHUNK_BYTES
from sdk.version import API

T = TypeVar("T")

_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Resolved:
    """The version that a ref names now."""

    ref: str
    adapter: str
    number: int | None
    digest: str
    contents: HasFiles


@dataclass(frozen=True)
class ManifestSignature:
    """A signature over a manifest."""

    key_id: str
    bundle: str


@dataclass(frozen=True)
class StoredStatement:
    """A statement of what an alias names, as JSON that nobody has checked, with its signature."""

    statement: Any
    bundle: str


class PullSource(Protocol):
    """What a pull asks a registry for."""

    def resolve(self, ref: str) -> Resolved:
        """Return the version that a ref names now. Raises NotFound."""

    def locations(self, digest: str) -> Sequence[BlobLocation]:
        """Return where to fetch the files of a manifest from."""

    def location_of(self, fingerprint: str, namespace: str) -> str | None:
        """Return where a base lies as a namespace knows it; None if that is not stated. Raises NotFound."""

    def signatures_of(self, digest: str) -> list[ManifestSignature]:
        """Return the signatures over a manifest."""

    def statements_about(self, adapter: str, alias: str) -> list[StoredStatement]:
        """Return the signed statements of what an alias names. Raises NotFound."""

    def about_of(self, ref: str) -> Any:
        """Return what is recorded of a version, as plain JSON that nobody has checked. Raises NotFound."""


@dataclass(frozen=True)
class BlobUrl:
    """Where a blob lies. The URL may be a credential, and isn't shown."""

    sha256: str
    size_bytes: int
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


class HttpSource:
    """A registry behind HTTP."""

    def __init__(self, config: Config, http: HttpClient) -> None:
        self._config, self._http = config, http

    def resolve(self, ref: str) -> Resolved:
        """Return the version that a ref names now. Raises NotFound, VerificationFailed."""
        return self._get("/resolve", read_version, ref=ref)

    def locations(self, digest: str) -> Sequence[BlobLocation]:
        """Return where to fetch the files of a manifest from."""
        return self._get(f"/manifests/{digest}/files", lambda value: [_place(entry) for entry in value])

    def location_of(self, fingerprint: str, namespace: str) -> str | None:
        """Return where a base lies as a namespace knows it; None if that is not stated. Raises NotFound."""
        return self._get("/base", read_location, name=fingerprint, namespace=namespace)

    def signatures_of(self, digest: str) -> list[ManifestSignature]:
        """Return the signatures over a manifest."""
        return self._get(f"/manifests/{digest}/signatures", lambda value: [read_signature(entry) for entry in value])

    def statements_about(self, adapter: str, alias: str) -> list[StoredStatement]:
        """Return the signed statements of what an alias names. Raises NotFound."""
        query = {"adapter": adapter, "alias": alias}
        return self._get(
            "/aliases/statements", lambda value: [read_statement(one) for one in value["statements"]], **query
        )

    def about_of(self, ref: str) -> Any:
        """Return what is recorded of a version, as plain JSON that nobody has checked. Raises NotFound."""
        return self._get("/version/about", lambda value: value, ref=ref)

    def _get(self, path: str, parse: Callable[[Any], T], **params: str) -> T:
        url = self._config.url
        headers = {VERSION_HEADER: VERSION, "User-Agent": f"adapterctl/{VERSION}"}
        if self._config.token:
            headers["Authorization"] = f"Bearer {self._config.token}"
        try:
            response = self._http.get(f"{url}{API}{path}{'?' if params else ''}{urlencode(params)}", headers)
            content = b""
            while piece := response.read(CHUNK_BYTES):
                content += piece
                if len(content) > _MOST_BYTES:
                    raise Unavailable(f"{url} does not answer like a registry; check ADAPTERCTL_URL")
            response.close()
        except BrokenConnection as error:
            raise Unavailable(
                f"the registry at {url} can't be reached ({error}); check ADAPTERCTL_URL and that the server runs"
            ) from None
        check_version(response.header(VERSION_HEADER), url)
        if not 200 <= response.status < 300:
            raise_error(response.status, content, url)
        require_json(content, response.header("Content-Type"), url)
        try:
            return parse(json.loads(content))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Incompatible(
                f"the registry at {url} answers in a way that version {VERSION} can't understand; upgrade both"
            ) from None


def read_version(value: Any) -> Resolved:
    """Read what a registry says about a version. Raises ValueError, TypeError, KeyError."""
    files = [{key: entry[key] for key in ("path", "size_bytes", "sha256")} for entry in value["files"]]
    contents = Contents.of(
        {"format": FORMAT, "kind": value["kind"], "base_fingerprint": value["base"]["fingerprint"], "files": files}
    )
    number = value["number"]
    texts = value["ref"], value["adapter"]
    if not all(isinstance(text, str) for text in texts) or not isinstance(number, int | None):
        raise TypeError
    if not is_sha256(value["digest"]):
        raise ValueError("no digest")
    return Resolved(value["ref"], value["adapter"], number, value["digest"], contents)


def read_location(value: Any) -> str | None:
    """Read where a base lies. Raises TypeError, KeyError."""
    location = value["location"]
    if not isinstance(location, str | None):
        raise TypeError
    return location


def read_signature(value: Any) -> ManifestSignature:
    """Read a signature. Raises TypeError, KeyError."""
    if not isinstance(value["key_id"], str) or not isinstance(value["bundle"], str):
        raise TypeError
    return ManifestSignature(value["key_id"], value["bundle"])


def read_statement(value: Any) -> StoredStatement:
    """Read a signed statement; what it states is not looked at. Raises TypeError, KeyError."""
    if not isinstance(value["statement"], dict) or not isinstance(value["bundle"], str):
        raise TypeError
    return StoredStatement(value["statement"], value["bundle"])


def _place(value: Any) -> BlobUrl:
    headers = value.get("headers", {})
    sound = is_sha256(value["sha256"]) and is_count(value["size_bytes"]) and isinstance(value["url"], str)
    if not sound or not all(isinstance(text, str) for pair in headers.items() for text in pair):
        raise TypeError
    return BlobUrl(value["sha256"], value["size_bytes"], value["url"], headers)
