"""The bytes of one blob, on their way from storage into a partial file, hashed as they come in.

One connection is opened first, since nothing is faster with a nearby storage; more join it while much is left.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time

from sdk.errors import Unavailable, VerificationFailed
from sdk.pulling.http import BrokenConnection, HttpClient, Response
from sdk.pulling.partial_file import Partial
from sdk.pulling.ranges import BlobLocation, ExpiredError, OpenResponse, Relocate, ReplacedError
from sdk.pulling.transfer import CHUNK_BYTES, OnBytes

#: How much one connection takes on at a time.
PART_BYTES = 8 * 1024 * 1024
#: How much is read at once.
PIECE_BYTES = 256 * 1024
MOST_STREAMS = 8
#: How often to check whether another connection would help.
TICK_S = 0.15
#: If the rest takes less time than this, another connection is not worth it.
_WORTH_S = 0.5
#: A storage that gives each stream this much is near, or at its limit: another would only get in the way.
FAST_BYTES_PER_S = 200_000_000
#: Failures in a row, without progress, that one connection is allowed.
TRIES = 8
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
#: After this much progress, failures are counted from the start again.
_PROGRESS_BYTES = 64 * 1024
#: How often a fresh location is asked for before there is progress.
_RELOCATIONS = 3


class Streams:
    """One attempt at a blob: streams that write, a thread that hashes behind them, and the caller, who watches."""

    def __init__(
        self,
        origin: BlobLocation,
        partial: Partial,
        on_bytes: OnBytes,
        name: str,
        relocate: Relocate | None,
        http: HttpClient,
    ) -> None:
        self._origin, self._partial, self._name = origin, partial, name
        self._on_bytes, self._relocate, self._http = on_bytes, relocate, http
        #: Whether a request failed or broke off, so that another one had to go on in its place.
        self.interrupted = False
        self._gaps = partial.gaps()
        #: Guards the gaps, the partial file and its note, and all that follows.
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._streams = 0
        self._most = MOST_STREAMS
        self._open: set[Response] = set()
        self._relocated = 0
        self._told = 0
        self._digest = ""
        self._broken: BrokenConnection | None = None
        self._stopped = False

    def run(self) -> str:
        """Return the SHA-256 of the blob once all of it is in the partial file."""
        threads = [threading.Thread(target=self._hash, daemon=True)]
        threads[0].start()
        if self._gaps:
            threads.append(self._join())
        else:
            self._over.set()
        try:
            self._watch(threads)
            if self._error is None:
                # The bytes are flushed to disk while the last of them are hashed.
                os.fsync(self._partial.descriptor)
                threads[0].join()
        finally:
            self._end(threads)
        if self._error is not None:
            raise self._error
        return self._digest

    def forget(self) -> None:
        """Throw away what was written."""
        self._on_bytes(-self._told)
        self._partial.reset()

    def _watch(self, threads: list[threading.Thread]) -> None:
        """Report progress, and let more streams join while much is left and each of them speeds it up."""
        before, since, rate_before, patience = self._partial.written_bytes, time.monotonic(), 0.0, 0
        self._tell()
        while not self._over.wait(TICK_S):
            now, written = time.monotonic(), self._tell()
            rate = (written - before) / max(now - since, 1e-3)
            before, since = written, now
            patience -= 1
            with self._changed:
                left = sum(end - begin for begin, end in self._gaps)
                wanted = 0 < self._streams < self._most and left >= 2 * PART_BYTES and left > rate * _WORTH_S
                # Before the first bytes nothing is known of the pace, nor of the object that all are to be of.
                wanted = wanted and written > 0 and rate < self._streams * FAST_BYTES_PER_S
            if not wanted or patience > 0:
                continue
            if rate < rate_before * 1.05:
                # The last one brought nothing: the network, or the storage, sets the pace.
                rate_before, patience = 0.0, 20
                continue
            rate_before = rate
            threads.append(self._join())
        self._tell()

    def _tell(self) -> int:
        with self._changed:
            written = self._partial.written_bytes
        if written != self._told:
            self._on_bytes(written - self._told)
            self._told = written
        return written

    def _end(self, threads: list[threading.Thread]) -> None:
        with self._changed:
            self._stopped = True
            self._over.set()
            self._changed.notify_all()
            for response in self._open:
                response.abort()
        threads[0].join()
        for thread in threads[1:]:
            # A stream that waits for a server's answer can't be woken; it will then see that all is over.
            thread.join(timeout=2)

    def _join(self) -> threading.Thread:
        with self._changed:
            self._streams += 1
        thread = threading.Thread(target=self._stream, daemon=True)
        thread.start()
        return thread

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._over.set()
            self._changed.notify_all()

    # Hashing.

    def _hash(self) -> None:
        """Hash the bytes in order as they come in, reading them back while they are still in memory."""
        try:
            self._digest = self._hashed()
        except BaseException as error:  # noqa: BLE001 - it is raised where the fetch was called
            self._fail(error)

    def _hashed(self) -> str:
        hasher, done = hashlib.sha256(), 0
        while done < self._origin.size_bytes:
            with self._changed:
                while (end := self._partial.frontier) <= done and not self._stopped:
                    self._changed.wait()
            if self._stopped:
                return ""
            piece = os.pread(self._partial.descriptor, min(CHUNK_BYTES, end - done), done)
            if not piece:
                raise ReplacedError("the partial file was truncated")
            hasher.update(piece)
            done += len(piece)
        return hasher.hexdigest()

    # Streams.

    def _claim(self, at: int | None) -> tuple[int, int] | None:
        """Take on a part: the one at `at`, where a response goes on, if it is free, else the first; None at the end."""
        with self._changed:
            if not self._gaps or self._over.is_set():
                return None
            gap = next((gap for gap in self._gaps if gap[0] == at), self._gaps[0])
            begin, end = gap[0], min(gap[1], gap[0] + PART_BYTES)
            gap[0] = end
            if gap[0] == gap[1]:
                self._gaps.remove(gap)
            return begin, end

    def _give_back(self, begin: int, end: int) -> None:
        with self._changed:
            if begin < end:
                self._gaps = sorted([*self._gaps, [begin, end]])

    def _stream(self) -> None:
        reading = OpenResponse()
        failures = 0
        try:
            while (part := self._claim(reading.at)) is not None:
                position, end = part
                try:
                    while position < end:
                        if reading.at != position:
                            self._close(reading)
                            self._ask(reading, position, end)
                        data = reading.read(min(PIECE_BYTES, end - position))
                        if not data:
                            raise BrokenConnection("cut short")
                        with self._changed:
                            # Once all is over, the file may be closed, or another process's.
                            if self._over.is_set():
                                return
                            self._partial.write(data, position)
                            self._partial.note(position, position + len(data))
                            self._changed.notify_all()
                        position += len(data)
                        reading.passed += len(data)
                    if reading.at is not None and reading.at >= reading.end:
                        self._close(reading)
                    self._relocated = 0
                except BrokenConnection as error:
                    failures = 1 if reading.passed >= _PROGRESS_BYTES else failures + 1
                    reading.passed = 0
                    self._give_back(position, end)
                    self._close(reading)
                    self._broken, self.interrupted = error, True
                    if failures >= TRIES or self._over.wait(_pause_s(failures)):
                        return
        except BaseException as error:  # noqa: BLE001 - it is raised where the fetch was called
            self._fail(error)
        finally:
            self._close(reading)
            with self._changed:
                self._streams -= 1
                if self._streams == 0:
                    if self._gaps and not self._over.is_set():
                        self._error = self._error or Unavailable(
                            f"the connection to the storage broke while {self._name} was being fetched ({self._broken}); "
                            "check the network, then run the same command again; it continues where it stopped"
                        )
                    self._over.set()
                self._changed.notify_all()

    def _ask(self, reading: OpenResponse, position: int, end: int) -> None:
        """Open a response that begins at `position`. Raises BrokenConnection if it is worth another try."""
        for _ in range(_RELOCATIONS + 1):
            with self._changed:
                origin, etag = self._origin, self._partial.etag
                # A single stream asks for the whole gap, so that it can read on without another request.
                upto = end
                if self._streams == 1:
                    upto = next((gap[1] for gap in self._gaps if gap[0] == end), end)
            headers = dict(origin.headers)
            if position or upto < origin.size_bytes:
                headers["Range"] = f"bytes={position}-{upto - 1}"
                if etag is not None:
                    headers["If-Match"] = etag
            response = self._http.get(origin.url, headers)
            with self._changed:
                self._open.add(response)
            reading.open(response, position)
            try:
                self._accept(reading, origin, position)
            except ExpiredError as error:
                self._close(reading)
                self._ask_where(origin, error)
                continue
            return
        raise BrokenConnection("no location is accepted")

    def _accept(self, reading: OpenResponse, origin: BlobLocation, position: int) -> None:
        """Check the status and headers of a response; leave `reading` at `position`."""
        etag = reading.judge(origin, self._name)
        with self._changed:
            if self._partial.etag is None and not (etag or "W/").startswith("W/"):
                self._partial.etag = etag
            elif etag is not None and self._partial.etag not in (None, etag):
                raise ReplacedError("another ETag")
        if reading.begin < position:
            self._skip(reading, position)

    def _skip(self, reading: OpenResponse, position: int) -> None:
        """Read past what is there already: this server doesn't know ranges, so more streams would not help."""
        with self._changed:
            self._most = 1
        while position:
            data = reading.read(min(PIECE_BYTES, position))
            if not data or self._over.is_set():
                raise BrokenConnection("cut short")
            position -= len(data)
            reading.at = None if reading.at is None else reading.at - len(data)

    def _ask_where(self, used: BlobLocation, error: ExpiredError) -> None:
        """Ask for a fresh location, once for all streams.

        Raises Unavailable if that does not help, VerificationFailed if the registry now names another blob.
        """
        with self._changed:
            if self._origin is not used:
                return
            self._relocated += 1
            if self._relocate is None or self._relocated > _RELOCATIONS:
                raise Unavailable(
                    f"the storage refused {self._name} ({error}): its URL has expired or is not valid; "
                    "run the same command again; it continues where it stopped"
                )
            fresh = self._relocate()
            if (fresh.sha256, fresh.size_bytes) != (used.sha256, used.size_bytes):
                raise VerificationFailed(f"the registry now names another blob for {self._name} than before; try again")
            self._origin = fresh

    def _close(self, reading: OpenResponse) -> None:
        response = reading.response
        reading.clear()
        if response is not None:
            with self._changed:
                self._open.discard(response)
            response.close()


def _pause_s(failures: int) -> float:
    """How long to wait after so many failures in a row: longer each time, and not all streams for the same time."""
    import random

    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (failures - 1)) * random.uniform(0.5, 1)  # noqa: S311 - no secret
