"""What these tests share. Every storage keeps the one contract: a folder, a folder behind HTTP, and S3 (a real SeaweedFS)."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import uvicorn
from fastapi import FastAPI
from support.fixtures import S3Place

from registry.storage import (
    Location,
    S3Options,
    Storage,
    open_storage,
)

BODY = b"low rank, high hopes\n" * 1000


SHA256 = hashlib.sha256(BODY).hexdigest()


OTHER_BODY = BODY[:-1] + b"!"


#: Three parts, the last of which is short.
PARTS = {1: os.urandom(5 * 1024**2), 2: os.urandom(5 * 1024**2), 3: b"the rest"}


NAME = f"{hashlib.sha256(b''.join(PARTS.values())).hexdigest()}.{'0c' * 16}"


KEY = bytes(range(32))


HOSTILE = [
    "",
    "ab",
    SHA256.upper(),
    SHA256 + "0",
    SHA256[:-1],
    SHA256 + "\n",
    "../" * 21 + "x",
    "g" * 64,
    "/" + SHA256[1:],
    "\u0661" * 64,
    SHA256[:-1] + "\0",
    SHA256 + "." + "0" * 31,
    SHA256 + "." + "0" * 33,
    SHA256 + "/" + "0" * 32,
    SHA256 + ".parts-" + "0" * 26,
]


@dataclass(frozen=True)
class World:
    """One kind of storage, and how to open another view of the same place."""

    storage: Storage
    #: The same place with another life of its locations, in seconds.
    reopen: Callable[[int], Storage]


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve an application over real HTTP on a free port, and give its URL."""
    config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def open_s3(
    s3: S3Place,
    *,
    url: str | None = None,
    endpoint_url: str | None = None,
    public_endpoint_url: str | None = None,
    secret_key: str | None = None,
    expires_in_s: int = 900,
    **more: Any,
) -> Storage:
    """Open a place in S3, with settings of it changed."""
    return open_storage(
        url or s3.url,
        s3=S3Options(
            endpoint_url=endpoint_url or s3.endpoint_url,
            public_endpoint_url=public_endpoint_url,
            access_key=s3.access_key,
            secret_key=secret_key or s3.secret_key,
            **more,
        ),
        expires_in_s=expires_in_s,
    )


def send(location: Location, body: bytes, **changed: str) -> int:
    """Send a blob to where it belongs, as the SDK does, and return the HTTP status (201 for a folder)."""
    if location.url.startswith("file:"):
        path = path_of(location)
        partial = path.with_name(path.name + ".partial-test")
        partial.write_bytes(body)
        partial.rename(path)
        return 201
    headers = location.headers | {"Content-Length": str(len(body))} | changed
    return httpx.put(location.url, content=iter([body]), headers=headers, timeout=60).status_code


def path_of(location: Location) -> Path:
    return Path(unquote(urlsplit(location.url).path))


def read(storage: Storage, sha256: str) -> bytes:
    with storage.open(sha256) as chunks:
        return b"".join(chunks)


def keep(storage: Storage, body: bytes = BODY) -> str:
    sha256 = hashlib.sha256(body).hexdigest()
    storage.put(sha256, len(body), iter([body[:10], body[10:]]))
    return sha256


def changed(url: str) -> list[str]:
    """Return the URL unsigned, and with every character class of its query changed in turn."""
    head, _, query = url.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&")]
    urls = [head, f"{head}?"]
    for number, (name, _, value) in enumerate(pairs):
        others = [pairs[other] for other in range(len(pairs)) if other != number]
        last = "1" if value[-1] != "1" else "2"
        for pair in ([], [(name, "=", value[:-1] + last)], [(name, "=", "")]):
            urls.append(f"{head}?" + "&".join("".join(item) for item in [*others, *pair]))
    return urls
