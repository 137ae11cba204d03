"""Sending: what the store says, what is tried again, and what is counted."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import processes
from support.answering import Answering, Handler, answering

from sdk.allowed_locations import Reach
from sdk.errors import AdapterctlError, Unavailable, VerificationFailed
from sdk.pushing import upload
from sdk.pushing.upload import send_all
from sdk.schemas.artifacts import InParts, Transfer, UploadView

CONTENT = bytes(range(256)) * 20
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Store(Handler):
    """Answers a PUT to `/STATUS/NAME` with that status, and keeps what it was sent."""

    def do_PUT(self) -> None:
        self.server.received.append((self.path, dict(self.headers), self.body()))  # type: ignore[attr-defined]
        # A list of statuses is gone through, one a request.
        statuses = self.path.split("/")[1].split(",")
        turn = sum(path == self.path for path, _, _ in self.server.received) - 1  # type: ignore[attr-defined]
        if self.server.together:  # type: ignore[attr-defined]
            self.server.together.wait(30)  # type: ignore[attr-defined]
        self.answer(int(statuses[min(turn, len(statuses) - 1)]))


@pytest.fixture
def store() -> Iterator[Answering]:
    with answering(Store) as server:
        server.received = []  # type: ignore[attr-defined]
        #: Where requests wait for each other before they are answered.
        server.together = None  # type: ignore[attr-defined]
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited before each further try; nobody waits."""
    found: list[float] = []
    monkeypatch.setattr(upload.time, "sleep", found.append)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def at(store: Answering, path: str, sha256: str = SHA256, size: int = len(CONTENT)) -> Transfer:
    url = f"{store.url}/{path}?X-Amz-Signature=s3cret"
    return Transfer(sha256=sha256, size_bytes=size, url=url, headers={"x-amz-checksum-sha256": "signed"})


def sent_to(to: Transfer, source: Path, passed: list[int] | None = None) -> list[int]:
    """Send one file; return how many bytes were counted, and back."""
    counted: list[int] = [] if passed is None else passed
    send_all({to.sha256: source}, begin=lambda: UploadView(id="u", put=[to]), ask_part=never, on_bytes=counted.append)
    return counted


def never(*_: object) -> Transfer:
    raise AssertionError("nothing is sent in parts")


def handed(source: Path, blob: Path, *, given: bool) -> list[int]:
    """Send a file to a storage in a folder; return the bytes that were counted."""
    to, counted = Transfer(sha256=SHA256, size_bytes=len(CONTENT), url=blob.as_uri()), []
    reach = Reach(registry="local:/home")
    begin = lambda: UploadView(id="u", put=[to])  # noqa: E731
    send_all({SHA256: source}, begin=begin, ask_part=never, on_bytes=counted.append, reach=reach, given=given)
    return counted


class TestFolders:
    """Sending to a storage in a folder of this machine."""

    def test_a_file_that_is_given_becomes_the_blob_without_a_copy(self, source: Path, tmp_path: Path) -> None:
        blob = tmp_path / "store" / "blob"
        before = source.stat()
        assert handed(source, blob, given=True) == [len(CONTENT)]
        assert (blob.stat().st_ino, blob.stat().st_nlink) == (before.st_ino, 2)
        source.unlink()
        assert (blob.read_bytes(), blob.stat().st_nlink) == (CONTENT, 1)
        assert [path.name for path in blob.parent.iterdir()] == ["blob"]

    def test_a_file_that_its_owner_keeps_is_copied(self, source: Path, tmp_path: Path) -> None:
        blob = tmp_path / "store" / "blob"
        handed(source, blob, given=False)
        source.write_bytes(b"changed")
        assert (blob.read_bytes(), blob.stat().st_nlink) == (CONTENT, 1)

    @pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
    def test_where_no_file_has_two_names_it_is_copied_and_checked(
        self, code: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(self: Path, to: Path) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        blob = tmp_path / "store" / "blob"
        handed(source, blob, given=True)
        assert (blob.read_bytes(), blob.stat().st_nlink) == (CONTENT, 1)
        blob.unlink()
        source.write_bytes(b"?" + CONTENT[1:])
        with pytest.raises(VerificationFailed, match="nothing was kept"):
            handed(source, blob, given=True)
        assert not list(blob.parent.iterdir())

    def test_a_link_is_never_given(self, source: Path, tmp_path: Path) -> None:
        link, blob = tmp_path / "link", tmp_path / "store" / "blob"
        link.symlink_to(source)
        handed(link, blob, given=True)
        assert not blob.is_symlink()
        assert (blob.read_bytes(), source.stat().st_nlink) == (CONTENT, 1)


def test_bytes_are_sent_with_the_headers_that_were_signed(store: Answering, source: Path) -> None:
    assert sum(sent_to(at(store, "200/stored"), source)) == len(CONTENT)
    ((_, headers, body),) = store.received  # type: ignore[attr-defined]
    assert (body, headers["x-amz-checksum-sha256"]) == (CONTENT, "signed")
    # Somebody stored the same blob first.
    sent_to(at(store, "412/stored"), source)


@pytest.mark.parametrize("passing", ["503", "403", "409", "500", "404"])
def test_what_may_pass_is_tried_again_with_a_new_session(
    passing: str, store: Answering, source: Path, waits: list[float]
) -> None:
    begun: list[int] = []
    to = at(store, f"{passing},{passing},200/later")

    def begin() -> UploadView:
        begun.append(len(begun))
        return UploadView(id=f"session-{len(begun)}", put=[to])

    counted: list[int] = []
    session = send_all({SHA256: source}, begin=begin, ask_part=never, on_bytes=counted.append)
    assert (session, len(begun), len(waits)) == ("session-3", 3, 2)
    # What did not arrive is not counted.
    assert sum(counted) == len(CONTENT)


@pytest.mark.parametrize(
    ("status", "cls", "tries"), [("400", VerificationFailed, 1), ("503", Unavailable, 5), ("403", Unavailable, 5)]
)
def test_what_the_store_refuses_is_said(
    status: str,
    cls: type[AdapterctlError],
    tries: int,
    store: Answering,
    source: Path,
    waits: list[float],
) -> None:
    counted: list[int] = []
    with pytest.raises(cls, match=f"HTTP {status}") as caught:
        sent_to(at(store, f"{status}/never"), source, counted)
    assert len(store.received) == tries  # type: ignore[attr-defined]
    assert sum(counted) == 0
    assert "s3cret" not in caught.value.message


def test_the_error_that_no_try_can_mend_is_the_one_that_is_said(
    store: Answering, tmp_path: Path, waits: list[float]
) -> None:
    sources = {hashlib.sha256(name.encode()).hexdigest(): tmp_path / name for name in ("a", "b", "c", "d")}
    for path in sources.values():
        path.write_text(path.name)
    statuses = ["503", "503", "400", "503"]
    puts = [at(store, f"{status}/{sha256}", sha256, 1) for status, sha256 in zip(statuses, sources, strict=True)]
    # After a failure no other transfer begins, so all four have begun before one is answered.
    store.together = threading.Barrier(len(puts))  # type: ignore[attr-defined]
    with pytest.raises(VerificationFailed, match="HTTP 400"):
        send_all(sources, begin=lambda: UploadView(id="u", put=puts), ask_part=never, on_bytes=lambda _: None)


def test_parts_carry_their_own_digests(store: Answering, source: Path) -> None:
    asked: dict[int, str] = {}

    def ask_part(session: str, sha256: str, number: int, part_sha256: str) -> Transfer:
        asked[number] = part_sha256
        part = CONTENT[(number - 1) * 2000 : number * 2000]
        assert (session, sha256) == ("u", SHA256)
        return at(store, f"200/part-{number}", part_sha256, len(part))

    blob = InParts(sha256=SHA256, size_bytes=len(CONTENT), part_bytes=2000, missing=[1, 3])
    counted: list[int] = []
    send_all(
        {SHA256: source},
        begin=lambda: UploadView(id="u", put=[], parts=[blob]),
        ask_part=ask_part,
        on_bytes=counted.append,
    )
    received = {path.split("?")[0][-1]: body for path, _, body in store.received}  # type: ignore[attr-defined]
    assert received == {"1": CONTENT[:2000], "3": CONTENT[4000:]}
    assert asked == {number: hashlib.sha256(received[str(number)]).hexdigest() for number in (1, 3)}
    assert sum(counted) == 2000 + len(CONTENT) - 4000


def test_a_file_that_has_shrunk_is_said(store: Answering, source: Path, waits: list[float]) -> None:
    to = at(store, "200/short")
    source.write_bytes(CONTENT[:-1])
    with pytest.raises((VerificationFailed, Unavailable)):
        sent_to(to, source)


def test_wrong_bytes_for_a_folder_leave_nothing(tmp_path: Path, source: Path) -> None:
    source.write_bytes(CONTENT[:-1] + b"x")
    to = Transfer(sha256=SHA256, size_bytes=len(CONTENT), url=(tmp_path / "stored").as_uri())
    session = UploadView(id="u", put=[to])
    with pytest.raises(VerificationFailed, match=f"not {SHA256}"):
        send_all(
            {SHA256: source}, begin=lambda: session, ask_part=never, on_bytes=lambda _: None, reach=Reach("local:here")
        )
    assert list(tmp_path.iterdir()) == [source]


FULL = """
import hashlib, resource, sys
from pathlib import Path
from sdk.errors import AdapterctlError
from sdk.allowed_locations import Reach
from sdk.schemas.artifacts import Transfer, UploadView
from sdk.pushing.upload import send_all
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
source, target = map(Path, sys.argv[1:])
sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
to = Transfer(sha256=sha256, size_bytes=source.stat().st_size, url=target.as_uri())
try:
    session, own = UploadView(id="u", put=[to]), Reach("local:here")
    send_all({sha256: source}, begin=lambda: session, ask_part=None, on_bytes=lambda _: None, reach=own)
except AdapterctlError as error:
    print(error.exit_code, error.message)
"""


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "store" / "blob"
    source.write_bytes(bytes(200_000))
    done = processes.finished(sys.executable, "-c", FULL, source, target)
    assert "disk is full" in done.stdout, done.stderr
    assert list(target.parent.iterdir()) == []
