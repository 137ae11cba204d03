"""A blob arrives whole or not at all, whatever the storage and the network do, and never from its beginning twice."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import processes
from support.fixtures import Limits
from support.ranges import Fault, RangeServer, Request, range_server
from support.trainings import names_in
from support.waiting import wait_until

from sdk.allowed_locations import Reach
from sdk.errors import AdapterctlError, NotFound, Unavailable, VerificationFailed
from sdk.pulling import streams
from sdk.pulling.download import fetch
from sdk.pulling.http import HttpClient
from sdk.schemas.artifacts import Transfer

CONTENT = hashlib.shake_256(b"an adapter").digest(1_300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PIECE = 64 * 1024


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with range_server(blob=CONTENT) as server:
        yield server


@pytest.fixture(autouse=True)
def _impatient(limits: Limits) -> None:
    limits(streams, FIRST_WAIT_S=0.001)


@pytest.fixture
def _in_small_parts(limits: Limits) -> None:
    """Let as many streams join at once as ever may."""
    limits(streams, PART_BYTES=PIECE, PIECE_BYTES=PIECE // 4, TICK_S=0.01, _WORTH_S=0.0)


def at(server: RangeServer, name: str = "blob") -> Transfer:
    return Transfer(sha256=SHA256, size_bytes=len(CONTENT), url=server.url(name))


def test_bytes_arrive(server: RangeServer, tmp_path: Path) -> None:
    passed: list[int] = []
    fetch(at(server), tmp_path / "deep/file", passed.append)
    assert (tmp_path / "deep/file").read_bytes() == CONTENT
    assert sum(passed) == len(CONTENT)
    assert names_in(tmp_path / "deep") == ["file"]
    # One request for all of it: no stream joined for so little.
    assert [(request.begin, request.end) for request in server.requests] == [(0, None)]


def test_an_empty_blob_needs_no_request(server: RangeServer, tmp_path: Path) -> None:
    empty = Transfer(sha256=hashlib.sha256().hexdigest(), size_bytes=0, url=server.url("blob"))
    fetch(empty, tmp_path / "file", mode=0o444)
    assert (tmp_path / "file").read_bytes() == b""
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o444
    assert names_in(tmp_path) == ["file"]


def test_connections_are_kept(server: RangeServer, tmp_path: Path) -> None:
    http = HttpClient()
    for count in range(5):
        fetch(at(server), tmp_path / str(count), http=http)
    http.close()
    assert len(server.requests) == 5
    assert server.connections == 1


def test_a_kept_connection_that_was_closed_is_no_failure(server: RangeServer, tmp_path: Path, limits: Limits) -> None:
    limits(streams, TRIES=1)
    http = HttpClient()
    fetch(at(server), tmp_path / "one", http=http)
    for waiting in http._idle.values():
        for connection in waiting:
            connection.sock.shutdown(socket.SHUT_RDWR)
    fetch(at(server), tmp_path / "two", http=http)
    http.close()


@pytest.mark.usefixtures("_in_small_parts")
def test_streams_join_while_much_is_left(server: RangeServer, tmp_path: Path) -> None:
    server.script = lambda _request: Fault(slow_s=0.02)
    fetch(at(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    ranged = [request for request in server.requests if request.begin]
    assert len(ranged) > 1
    # All of one object: each asks for what the first answer was of.
    assert len({request.if_match for request in ranged}) == 1
    assert None not in {request.if_match for request in ranged}


@pytest.mark.usefixtures("_in_small_parts")
def test_cuts_at_any_offset_lose_nothing(server: RangeServer, tmp_path: Path) -> None:
    server.script = lambda request: Fault(cut_after=(request.number * 37_123) % 150_000 + 1)
    fetch(at(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert names_in(tmp_path) == ["file"]


def test_it_goes_on_at_the_byte_where_it_broke(server: RangeServer, tmp_path: Path, limits: Limits) -> None:
    limits(streams, TRIES=1)
    server.script = lambda _request: Fault(cut_after=777_777)
    with pytest.raises(Unavailable, match="it continues where it stopped") as caught:
        fetch(at(server), tmp_path / "file")
    assert "s3cret" not in caught.value.message
    assert names_in(tmp_path) == ["file.partial", "file.partial.json"]
    server.script = lambda _request: None
    passed: list[int] = []
    fetch(at(server), tmp_path / "file", passed.append)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert (server.requests[-1].begin, server.requests[-1].if_match is None) == (777_777, False)
    assert sum(passed) == len(CONTENT)
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_store_that_is_busy_is_asked_again(status: int, server: RangeServer, tmp_path: Path) -> None:
    server.script = lambda request: Fault(status=status) if request.number < 4 else None
    fetch(at(server), tmp_path / "file")
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("fault", "cls"),
    [
        (Fault(status=404), NotFound),
        (Fault(status=403), Unavailable),
        (Fault(status=503), Unavailable),
        (Fault(status=412), VerificationFailed),
        (Fault(cut_after=0), Unavailable),
        (Fault(wrong_at=1_299_999), VerificationFailed),
        (Fault(becomes=CONTENT + b"x"), VerificationFailed),
        (Fault(becomes=CONTENT[:-1]), VerificationFailed),
        (Fault(becomes=b""), VerificationFailed),
    ],
)
def test_what_goes_wrong_leaves_nothing(
    fault: Fault, cls: type[AdapterctlError], server: RangeServer, tmp_path: Path
) -> None:
    (tmp_path / "older").write_text("older")
    server.script = lambda _request: fault
    with pytest.raises(cls) as caught:
        fetch(at(server), tmp_path / "older", name="adapter_model.safetensors")
    # The URL is a credential.
    assert "s3cret" not in caught.value.message
    assert "http:" not in caught.value.message
    if cls is VerificationFailed:
        assert "adapter_model.safetensors" in caught.value.message
        assert SHA256 in caught.value.message
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("older", "older")]


def test_a_wrong_byte_is_named_with_both_digests(server: RangeServer, tmp_path: Path) -> None:
    server.script = lambda _request: Fault(wrong_at=0)
    found = hashlib.sha256(bytes([CONTENT[0] ^ 1]) + CONTENT[1:]).hexdigest()
    with pytest.raises(VerificationFailed, match=f"a.txt has the SHA-256 {found}, not {SHA256}, so nothing was kept"):
        fetch(at(server), tmp_path / "file", name="a.txt")
    assert len(server.requests) == 1


def test_a_store_that_is_away_is_unavailable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    away = Transfer(sha256=SHA256, size_bytes=1, url=f"http://127.0.0.1:{port}/x?token=s3cret")
    with pytest.raises(Unavailable, match="ConnectionRefusedError") as caught:
        fetch(away, tmp_path / "file")
    assert "s3cret" not in caught.value.message
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "url", ["http://[::1/x?s3cret", "http://127.0.0.1:1/\n?s3cret", "ftp://a/s3cret", "http:///x?s3cret"]
)
def test_a_location_that_is_none_is_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises((Unavailable, VerificationFailed)) as caught:
        fetch(Transfer(sha256=SHA256, size_bytes=1, url=url), tmp_path / "file")
    assert "s3cret" not in str(caught.value)


def _leave(server: RangeServer, target: Path, monkeypatch: pytest.MonkeyPatch, cut: int = 600_000) -> None:
    """Interrupt a fetch of what the server has."""
    with monkeypatch.context() as patch:
        patch.setattr(streams, "TRIES", 1)
        script, server.script = server.script, lambda _request: Fault(cut_after=cut)
        with pytest.raises(Unavailable):
            fetch(at(server), target)
        server.script = script


def test_a_wrong_byte_of_an_earlier_time_is_fetched_anew_once(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _leave(server, tmp_path / "file", monkeypatch)
    partial = tmp_path / "file.partial"
    partial.write_bytes(b"?" + partial.read_bytes()[1:])
    passed: list[int] = []
    fetch(at(server), tmp_path / "file", passed.append)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert sum(passed) == len(CONTENT)
    assert [request.begin for request in server.requests] == [0, 600_000, 0]

    (tmp_path / "file").unlink()
    _leave(server, tmp_path / "file", monkeypatch)
    server.script = lambda _request: Fault(wrong_at=1_200_000)
    count = len(server.requests)
    with pytest.raises(VerificationFailed):
        fetch(at(server), tmp_path / "file")
    assert len(server.requests) - count == 2
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda note: note.write_bytes(b""),
        lambda note: note.write_bytes(b"[]"),
        lambda note: note.write_bytes(note.read_bytes().replace(b"600000", b"900000")),
        lambda note: note.write_bytes(note.read_bytes().replace(b"[[0", b"[[9")),
        lambda note: note.write_bytes(note.read_bytes().replace(SHA256.encode(), b"0" * 64)),
        lambda note: note.unlink(),
    ],
)
def test_what_is_remembered_may_be_damaged(
    damage: Callable[[Path], None], server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _leave(server, tmp_path / "file", monkeypatch)
    damage(tmp_path / "file.partial.json")
    fetch(at(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert names_in(tmp_path) == ["file"]


def test_an_object_that_was_replaced_is_begun_anew(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.objects["blob"] = CONTENT[::-1]
    _leave(server, tmp_path / "file", monkeypatch)
    server.objects["blob"] = CONTENT
    fetch(at(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [request.begin for request in server.requests] == [0, 600_000, 0]


def test_an_object_that_is_replaced_meanwhile_is_begun_anew(server: RangeServer, tmp_path: Path) -> None:
    server.objects["blob"] = CONTENT[::-1]

    def script(request: Request) -> Fault | None:
        return Fault(cut_after=500_000) if request.number == 1 else Fault(becomes=CONTENT)

    server.script = script
    fetch(at(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_without_ranges_is_read_past(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _leave(server, tmp_path / "file", monkeypatch)
    server.script = lambda _request: Fault(ignores_ranges=True)
    fetch(at(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(server.requests) == 2


@pytest.mark.usefixtures("_in_small_parts")
def test_a_server_without_ranges_gets_one_stream(server: RangeServer, tmp_path: Path) -> None:
    server.script = lambda _request: Fault(ignores_ranges=True, slow_s=0.01)
    fetch(at(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_location_that_expired_is_asked_for_again(server: RangeServer, tmp_path: Path) -> None:
    asked: list[int] = []

    def relocate() -> Transfer:
        asked.append(1)
        return at(server).model_copy(update={"url": server.url("blob") + f"&n={len(asked)}"})

    def script(request: Request) -> Fault | None:
        if request.number == 1:
            return Fault(cut_after=400_000)
        return None if "n=2" in request.query else Fault(status=403)

    server.script = script
    fetch(at(server), tmp_path / "file", relocate=relocate)
    assert len(asked) == 2
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_location_that_stays_expired_is_given_up(server: RangeServer, tmp_path: Path) -> None:
    asked: list[int] = []

    def relocate() -> Transfer:
        asked.append(1)
        return at(server)

    server.script = lambda _request: Fault(status=403)
    with pytest.raises(Unavailable, match="HTTP 403"):
        fetch(at(server), tmp_path / "file", relocate=relocate)
    assert len(asked) == 3


def test_what_says_the_location_anew_may_fail(server: RangeServer, tmp_path: Path) -> None:
    def relocate() -> Transfer:
        raise NotFound("it was deleted")

    server.script = lambda _request: Fault(status=403)
    with pytest.raises(NotFound, match="it was deleted"):
        fetch(at(server), tmp_path / "file", relocate=relocate)


def test_who_watches_may_stop_it(server: RangeServer, tmp_path: Path) -> None:
    def stop(_count: int) -> None:
        raise KeyboardInterrupt

    server.script = lambda _request: Fault(slow_s=0.05)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        fetch(at(server), tmp_path / "file", stop)
    # It was fast: the reader was woken, and what it had is kept.
    assert names_in(tmp_path) == ["file.partial", "file.partial.json"]
    wait_until(lambda: threading.active_count() <= before, timeout_s=5)
    server.script = lambda _request: None
    fetch(at(server), tmp_path / "file")
    assert server.requests[-1].begin > 0


def test_the_log_of_requests_holds_no_credential(
    server: RangeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    # Through a proxy httpx is used, which logs what it asks for.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fetch(at(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert "/blob" in caplog.text
    assert "s3cret" not in caplog.text


KILLED = """
import sys, time
from pathlib import Path
from sdk.pulling.download import fetch
from sdk.schemas.artifacts import Transfer
fetch(Transfer.model_validate_json(sys.argv[1]), Path(sys.argv[2]), once=True)
"""


def _start(origin: Transfer, target: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", KILLED, origin.model_dump_json(), str(target)])


def test_a_kill_loses_no_byte_that_was_written(server: RangeServer, tmp_path: Path) -> None:
    server.script = lambda _request: Fault(slow_s=0.05)
    note = tmp_path / "file.partial.json"
    with _start(at(server), tmp_path / "file") as process:
        wait_until(lambda: note.exists() and b"[[0" in note.read_bytes(), timeout_s=20)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    written = json.loads(note.read_bytes())["ranges"][0][1]
    assert 0 < written < len(CONTENT)
    server.script = lambda _request: None
    # What was under way to the killed process counts until the server notices.
    wait_until(lambda: not server.answering)
    sent = server.sent_bytes
    fetch(at(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests[-1].begin == written
    assert server.sent_bytes - sent == len(CONTENT) - written


@pytest.mark.slow
def test_processes_that_want_one_blob_fetch_it_once(server: RangeServer, tmp_path: Path) -> None:
    server.script = lambda _request: Fault(slow_s=0.01)
    processes = [_start(at(server), tmp_path / "file") for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert len(server.requests) == 1
    assert names_in(tmp_path) == ["file"]


FULL = """
import resource, sys
from pathlib import Path
from sdk.errors import AdapterctlError
from sdk.pulling.download import fetch
from sdk.pulling.http import HttpClient
from sdk.allowed_locations import Reach
from sdk.schemas.artifacts import Transfer
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    http = HttpClient(Reach("local:here"))
    fetch(Transfer.model_validate_json(sys.argv[1]), Path(sys.argv[2]), http=http)
except AdapterctlError as error:
    print(error.exit_code, error.message)
"""


@pytest.mark.parametrize("remote", [True, False])
def test_a_full_disk_is_said(remote: bool, server: RangeServer, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    origin = at(server) if remote else at(server).model_copy(update={"url": (tmp_path / "source").as_uri()})
    command = [sys.executable, "-c", FULL, origin.model_dump_json(), str(tmp_path / "out/file")]
    done = processes.finished(*command)
    assert done.stdout == (
        "9 the disk is full while writing file; free some space, then run the same command again\n"
    ), done.stderr
    assert not (tmp_path / "out/file").exists()


# From a folder.


def in_file(path: Path, content: bytes = CONTENT) -> Transfer:
    path.write_bytes(content)
    return Transfer(sha256=SHA256, size_bytes=len(CONTENT), url=path.as_uri())


def own() -> HttpClient:
    """What reaches the files of a registry in a folder."""
    return HttpClient(Reach("local:somewhere"))


def test_bytes_arrive_from_a_folder(tmp_path: Path) -> None:
    fetch(in_file(tmp_path / "so urce%20\u00e4"), tmp_path / "out/file", mode=0o444, http=own())
    assert (tmp_path / "out/file").read_bytes() == CONTENT
    assert (tmp_path / "out/file").stat().st_mode & 0o777 == 0o444
    assert names_in(tmp_path / "out") == ["file"]


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x"])
def test_wrong_bytes_of_a_folder_leave_nothing(content: bytes, tmp_path: Path) -> None:
    origin = in_file(tmp_path / "source", content)
    with pytest.raises(VerificationFailed, match=f"a.bin has the SHA-256 .*, not {SHA256}, so nothing was kept"):
        fetch(origin, tmp_path / "file", name="a.bin", http=own())
    assert names_in(tmp_path) == ["source"]


def test_bytes_that_are_gone_are_named(tmp_path: Path) -> None:
    origin = in_file(tmp_path / "source")
    (tmp_path / "source").unlink()
    with pytest.raises(NotFound, match=SHA256[:12]):
        fetch(origin, tmp_path / "file", http=own())


MEMORY = """
import re, sys
from pathlib import Path
from types import SimpleNamespace
from sdk.pulling.download import fetch
url, sha256, size, target = sys.argv[1:]
fetch(SimpleNamespace(sha256=sha256, size_bytes=int(size), url=url, headers={}), Path(target))
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    """200 MB pass through a process of at most 80 MB; ADAPTERCTL_SOAK=1 lets 2 GB pass."""
    size = 2_000_000_000 if os.environ.get("ADAPTERCTL_SOAK") else 200_000_000
    content = bytes(size)
    with range_server(big=content) as server:
        sha256 = hashlib.sha256(content).hexdigest()
        command = [sys.executable, "-c", MEMORY, server.url("big"), sha256, str(size), str(tmp_path / "file")]
        done = processes.finished(*command, check=True)
    assert int(done.stdout) <= 80
