"""Bytes arrive whole or not at all, over a real HTTP server and from a folder."""

from __future__ import annotations

import hashlib
import http.server
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdk.errors import AdapterctlError, Conflict, NotFound, Unavailable, VerificationFailed
from sdk.schemas.artifacts import Transfer
from sdk.transfer import fetch, place, read_json, send, written_whole

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Store(http.server.BaseHTTPRequestHandler):
    """A small store: what it answers is in the path."""

    received: dict[str, bytes]
    log_message = lambda *_: None  # noqa: E731

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/")
        if name.isdigit():
            self.send_error(int(name))
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if name == "whole":
            self.wfile.write(CONTENT)
        elif name == "wrong":
            self.wfile.write(CONTENT[:-1] + b"x")
        elif name == "broken":
            self.wfile.write(CONTENT[: len(CONTENT) // 2])

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.strip("/")
        if name.isdigit():
            self.send_error(int(name))
            return
        self.server.received[name] = body  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        server.received = {}  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def at(server: http.server.ThreadingHTTPServer, name: str) -> Transfer:
    return Transfer(sha256=SHA256, size_bytes=len(CONTENT), url=f"http://127.0.0.1:{server.server_port}/{name}")


def in_file(path: Path, content: bytes = CONTENT) -> Transfer:
    path.write_bytes(content)
    return Transfer(sha256=SHA256, size_bytes=len(CONTENT), url=path.as_uri())


def test_bytes_arrive_over_http(server: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    passed: list[int] = []
    fetch(at(server, "whole"), tmp_path / "deep/file", passed.append)
    assert (tmp_path / "deep/file").read_bytes() == CONTENT
    assert sum(passed) == len(CONTENT)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_bytes_arrive_from_a_folder(tmp_path: Path) -> None:
    fetch(in_file(tmp_path / "so urce%20\u00e4"), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("wrong", VerificationFailed),
        ("broken", Unavailable),
        ("404", NotFound),
        ("403", Unavailable),
        ("500", Unavailable),
        ("503", Unavailable),
    ],
)
def test_what_goes_wrong_leaves_nothing(
    name: str, cls: type[AdapterctlError], server: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    (tmp_path / "older").write_text("older")
    with pytest.raises(cls) as caught:
        fetch(at(server, f"{name}?X-Amz-Signature=s3cret"), tmp_path / "older")
    # The URL is a credential.
    assert "s3cret" not in caught.value.message
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("older", "older")]


def test_a_store_that_is_away_is_unavailable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    away = Transfer(sha256=SHA256, size_bytes=1, url=f"http://127.0.0.1:{port}/x?token=s3cret")
    with pytest.raises(Unavailable, match="the storage can't be reached") as caught:
        fetch(away, tmp_path / "file")
    assert "s3cret" not in caught.value.message
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(Unavailable, match="the storage can't be reached"):
        send(tmp_path / "source", away)


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x"])
def test_wrong_bytes_of_a_folder_leave_nothing(content: bytes, tmp_path: Path) -> None:
    origin = in_file(tmp_path / "source", content)
    with pytest.raises(VerificationFailed, match=f"not {SHA256}; nothing was kept"):
        fetch(origin, tmp_path / "file")
    with pytest.raises(VerificationFailed):
        send(tmp_path / "source", Transfer(sha256=SHA256, size_bytes=1, url=(tmp_path / "stored").as_uri()))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_bytes_that_are_gone_are_named(tmp_path: Path) -> None:
    origin = in_file(tmp_path / "source")
    (tmp_path / "source").unlink()
    with pytest.raises(NotFound, match=SHA256[:12]):
        fetch(origin, tmp_path / "file")


def test_bytes_are_sent_with_the_headers_that_were_signed(
    server: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    passed: list[int] = []
    send(tmp_path / "source", at(server, "stored"), passed.append)
    assert server.received["stored"] == CONTENT  # type: ignore[attr-defined]
    assert sum(passed) == len(CONTENT)
    # Somebody stored the same blob first.
    send(tmp_path / "source", at(server, "412"))


@pytest.mark.parametrize(
    ("name", "cls"), [("400", VerificationFailed), ("403", VerificationFailed), ("503", Unavailable)]
)
def test_what_the_store_refuses_is_said(
    name: str, cls: type[AdapterctlError], server: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    with pytest.raises(cls, match=f"HTTP {name}"):
        send(tmp_path / "source", at(server, name))


def test_the_log_of_requests_holds_no_credential(
    server: http.server.ThreadingHTTPServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="httpx")
    fetch(at(server, "whole?X-Amz-Signature=s3cret"), tmp_path / "file")
    assert "/whole" in caplog.text
    assert "s3cret" not in caplog.text


FULL = """
import resource, sys
from pathlib import Path
from sdk.schemas.artifacts import Transfer
from sdk.transfer import fetch, send
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from sdk.errors import AdapterctlError
for doing in (fetch, lambda origin, target: send(Path(sys.argv[2]), origin.model_copy(update={"url": target.as_uri()}))):
    try:
        doing(Transfer(sha256=sys.argv[1], size_bytes=1, url=Path(sys.argv[2]).as_uri()), Path(sys.argv[3]))
    except AdapterctlError as error:
        print(error.exit_code, error.message)
"""


def test_a_full_disk_is_said_and_nothing_half_is_left(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    target = tmp_path / "out/file"
    done = subprocess.run(
        [sys.executable, "-c", FULL, SHA256, str(source), str(target)], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "9 the disk is full while writing file; free some space, then run the same command again",
        "9 the disk is full while storing an artifact; free some space, then run the same command again",
    ], done.stderr
    assert list(target.parent.iterdir()) == []


def test_a_block_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with written_whole(tmp_path / "file") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_placed_file_is_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "cached").write_bytes(CONTENT)
    (tmp_path / "cached").chmod(0o444)
    place(tmp_path / "cached", tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == CONTENT
    assert (tmp_path / "mine").stat().st_ino != (tmp_path / "cached").stat().st_ino
    assert (tmp_path / "mine").stat().st_mode & stat.S_IWUSR
    with pytest.raises(Conflict, match="is there already"):
        place(tmp_path / "cached", tmp_path / "mine")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '"\\ud800"', '{"\\udfff": 1}', "", "\xff\xfe"])
def test_json_of_others_is_read_strictly(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(os.fsencode(text) if text.isascii() else text.encode("latin-1"))
    with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
        read_json(path)


@pytest.mark.parametrize(
    "write",
    [lambda p: p.write_text('{"a": "\u00e4"}', "utf-8"), lambda p: p.write_text('{"a": "\u00e4"}', "utf-8-sig")],
)
def test_json_may_begin_with_a_mark(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "x.json")
    assert read_json(tmp_path / "x.json") == {"a": "\u00e4"}
