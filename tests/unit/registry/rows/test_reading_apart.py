"""Rows that are read apart from the server: within limits, one request beside another, and never longer than the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from support import processes
from support.traced import traced
from support.trainings import save_jsonl
from support.waiting import wait_until

from registry.errors import Invalid, InvalidData, Unavailable
from registry.rows.reading_limits import MOST_HELD_BYTES, ReadingLimits
from registry.rows.service import INLINE_BYTES, RowReading
from sdk.rows.data_files import DataFile

COLUMNS = {"prompt": "q", "completion": "a"}
#: More than any of these tests needs.
ENOUGH = ReadingLimits(1 << 30, 60, 60)
WAIT_S = 30.0


@pytest.fixture(scope="module")
def reading() -> Iterator[RowReading]:
    """All is read apart; a child that a test has ended is replaced in the next."""
    with_child = RowReading(apart=True, inline_bytes=0, limits=lambda _size: ENOUGH)
    yield with_child
    with_child.close()


def limited(limits: ReadingLimits) -> RowReading:
    return RowReading(apart=True, inline_bytes=0, limits=lambda _size: limits)


def write(path: Path, rows: int = 40) -> Path:
    given = [{"q": f"q{n % 30}", "a": "a", "lang": ["de", "en"][n % 2]} for n in range(rows)]
    return save_jsonl(path, given)


def grouped(reading: RowReading, path: Path, column: str, rows: list[int] | np.ndarray, *, by: str) -> list[int]:
    """Return the group of each row, which the reading writes to a file."""
    numbers, target = path.with_name("numbers"), path.with_name("groups")
    np.asarray(rows, "<i8").tofile(numbers)
    reading.groups(path, column, numbers, target, by=by)
    return list(np.fromfile(target, "<i8").tolist())


def large_objects(path: Path) -> Path:
    """Write one line of 4 MB that takes 64 MB as objects."""
    path.write_text('{"q": "q", "a": "a", "lang": [' + "[], " * 1_000_000 + "[]]}\n")
    return path


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def forked(pid: int | None) -> list[int]:
    """Return the processes that a process has forked."""
    try:
        return [
            int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if not is_gone(int(one))
        ]
    except OSError:
        return []


class Held:
    """A request that is under way until it is ended: it reads from a pipe into which nobody writes."""

    def __init__(self, reading: RowReading, folder: Path) -> None:
        self._path = folder / "held.jsonl"
        os.mkfifo(self._path)
        self._writer: int | None = None
        self.answer: Future[object] = ThreadPoolExecutor(1).submit(reading.texts, self._path, COLUMNS, [0])
        wait_until(self._is_read)
        self.processes = forked(reading.pid)

    def _is_read(self) -> bool:
        with suppress(OSError):
            self._writer = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        return self._writer is not None

    def let_go(self) -> None:
        """Close the other end of the pipe."""
        assert self._writer is not None
        os.close(self._writer)


@pytest.fixture
def hold(reading: RowReading, tmp_path: Path) -> Iterator[Callable[[], Held]]:
    """Begin a request that is under way until it is ended."""
    held: list[Held] = []

    def begin() -> Held:
        held.append(Held(reading, tmp_path))
        return held[-1]

    yield begin
    for one in held:
        one.let_go()


class TestTheSameAnswers:
    def test_groups_are_those_that_are_found_in_this_process(self, reading: RowReading, tmp_path: Path) -> None:
        path = write(tmp_path / "rows.jsonl")
        for one in (reading, RowReading(apart=False)):
            for by in ("json", "group"):
                assert grouped(one, path, "lang", [0, 1, 2, 5], by=by) == [0, 1, 0, 1]

    def test_texts_are_those_that_are_found_in_this_process(self, reading: RowReading, tmp_path: Path) -> None:
        path = write(tmp_path / "rows.jsonl")
        assert reading.texts(path, COLUMNS, [31, 2]) == {2: ("q2", "a"), 31: ("q1", "a")}

    def test_equal_rows_and_rows_among_others_are_found_by_signatures(
        self, reading: RowReading, tmp_path: Path
    ) -> None:
        target = tmp_path / "signatures"
        files = [DataFile(write(tmp_path / "rows.jsonl"), "rows")]
        assert reading.sign(files, target, columns=COLUMNS, how=None, training_digest=None) is None
        numbers, groups = tmp_path / "numbers", tmp_path / "groups"
        np.arange(40, dtype="<i8").tofile(numbers)
        assert reading.equal(target, numbers, groups) == (30, 20)
        found = np.fromfile(groups, "<i8")
        assert found[0] == found[30] != found[1]
        np.arange(41, dtype="<i8").tofile(numbers)
        assert reading.equal(target, numbers, groups) is None
        assert reading.among(target, [target]) == {"rows": 40, "exact": 40, "normalised": 0, "near": 0}

    def test_faults_of_rows_are_the_same_errors(self, reading: RowReading, tmp_path: Path) -> None:
        path = write(tmp_path / "rows.jsonl")
        with pytest.raises(Invalid, match="line 1 has nothing in the column `topic`") as caught:
            grouped(reading, path, "topic", [0, 1], by="group")
        assert caught.value.param == "by"
        with pytest.raises(InvalidData, match="row 40 of the dataset can't be read"):
            grouped(reading, path, "lang", [40], by="group")
        path.write_text("[1")
        why = reading.sign([DataFile(path, "rows")], path, columns=None, how=None, training_digest=None)
        assert why is None or "not a JSON" in why


class TestWhereRowsAreRead:
    def test_few_are_read_in_this_process(self, tmp_path: Path) -> None:
        reading = RowReading(apart=True)
        grouped(reading, write(tmp_path / "rows.jsonl"), "lang", [0, 1, 2, 3], by="group")
        assert reading.pid is None

    def test_signing_a_long_text_takes_little_memory_here(self, tmp_path: Path) -> None:
        reading = RowReading(apart=True)
        path = tmp_path / "rows.jsonl"
        path.write_text('{"q": "' + "\N{GRINNING FACE}" + "a" * (INLINE_BYTES - 100) + '", "a": "a"}\n')
        files = [DataFile(path, "rows")]
        try:
            with traced() as peak_bytes:
                assert reading.sign(files, tmp_path / "s", columns=COLUMNS, how=None, training_digest=None) is None
                assert peak_bytes() < MOST_HELD_BYTES
        finally:
            reading.close()

    def test_parquet_is_never_read_in_this_process(self, tmp_path: Path) -> None:
        reading = RowReading(apart=True)
        path = tmp_path / "rows.parquet"
        path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
        try:
            assert reading.sign([DataFile(path, "rows")], path, columns=None, how=None, training_digest=None)
            assert reading.pid is not None
        finally:
            reading.close()

    def test_memory_of_this_process_does_not_grow_with_what_rows_take(
        self, reading: RowReading, tmp_path: Path
    ) -> None:
        path = large_objects(tmp_path / "rows.jsonl")
        reading.texts(write(tmp_path / "few.jsonl"), COLUMNS, [0])
        with traced() as peak_bytes:
            assert reading.texts(path, COLUMNS, [0]) == {0: ("q", "a")}
            assert peak_bytes() < 1 << 20

    def test_process_apart_has_none_of_this_process_s_secrets(
        self, reading: RowReading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REGISTRY_DATABASE_URL", "postgresql://u:secret@host/db")
        reading.texts(write(tmp_path / "rows.jsonl"), COLUMNS, [0])
        assert b"secret" not in Path(f"/proc/{reading.pid}/environ").read_bytes()

    def test_process_apart_imports_no_database_and_has_one_thread(self, reading: RowReading, tmp_path: Path) -> None:
        code = "import sys, registry.rows.child; print({'sqlalchemy', 'torch', 'fastapi', 'pyarrow'} & {*sys.modules})"
        assert processes.finished(sys.executable, "-c", code).stdout == "set()\n"
        reading.texts(write(tmp_path / "rows.jsonl"), COLUMNS, [0])
        assert len(os.listdir(f"/proc/{reading.pid}/task")) == 1


class TestLimits:
    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
    def test_rows_that_take_too_much_memory_are_refused(self, tmp_path: Path) -> None:
        reading = limited(ReadingLimits(32 << 20, 60, 60))
        try:
            with pytest.raises(
                InvalidData, match=r"the dataset takes more than 32 MiB of memory to read; divide its long"
            ):
                reading.texts(large_objects(tmp_path / "large.jsonl"), COLUMNS, [0])
            pid = reading.pid
            assert reading.texts(write(tmp_path / "rows.jsonl"), COLUMNS, [0]) == {0: ("q0", "a")}
            assert reading.pid == pid
        finally:
            reading.close()

    @pytest.mark.slow
    def test_rows_that_take_too_much_processor_time_are_given_up(self, tmp_path: Path) -> None:
        reading = limited(ReadingLimits(1 << 30, 1, 60))
        path = tmp_path / "rows.jsonl"
        path.write_bytes(b'{"q": "q", "a": "a", "lang": "de"}\n' * 1_000_000)
        try:
            with pytest.raises(
                Unavailable, match=r"the dataset takes more than 1 s of processor time to read; use fewer rows"
            ):
                grouped(reading, path, "lang", np.arange(1_000_000), by="group")
        finally:
            reading.close()

    def test_rows_that_can_not_be_signed_within_limits_are_not_tried_again(self, tmp_path: Path) -> None:
        reading = limited(ReadingLimits(32 << 20, 60, 60))
        files = [DataFile(large_objects(tmp_path / "large.jsonl"), "large")]
        try:
            why = reading.sign(files, tmp_path / "signatures", columns=COLUMNS, how=None, training_digest=None)
            assert why == "it takes more than 32 MiB of memory to read; divide its long rows"
        finally:
            reading.close()

    def test_parquet_that_unfolds_to_too_much_memory_is_refused(self, tmp_path: Path) -> None:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "rows.parquet"
        parquet.write_table(
            pyarrow.table({"text": pyarrow.array([[0] * 5_000_000], pyarrow.list_(pyarrow.int64()))}), path
        )
        assert path.stat().st_size < 1000
        reading = limited(ReadingLimits(96 << 20, 60, 60))
        try:
            files = [DataFile(path, "rows")]
            why = reading.sign(files, tmp_path / "signatures", columns=None, how=None, training_digest=None)
            assert why == "it takes more than 96 MiB of memory to read; divide its long rows"
        finally:
            reading.close()

    def test_reading_that_stands_still_is_given_up(self, tmp_path: Path) -> None:
        reading = limited(ReadingLimits(1 << 30, 60, 1))
        try:
            held = Held(reading, tmp_path)
            with pytest.raises(Unavailable, match="reading the rows was given up after 1 s; try again when"):
                held.answer.result(WAIT_S)
            wait_until(lambda: not forked(reading.pid))
            held.let_go()
        finally:
            reading.close()

    def test_limits_grow_with_what_is_read(self) -> None:
        small, large = ReadingLimits.of(0), ReadingLimits.of(2 * 1000**3)
        assert small.memory_bytes == large.memory_bytes
        # Signing takes half a minute for 200 MB.
        assert small.processor_s < 300 < large.processor_s < large.clock_s < 3600


class TestEndings:
    def test_request_is_answered_beside_another(
        self, reading: RowReading, hold: Callable[[], Held], tmp_path: Path
    ) -> None:
        held = hold()
        assert reading.texts(write(tmp_path / "rows.jsonl"), COLUMNS, [0]) == {0: ("q0", "a")}
        assert not held.answer.done()

    @pytest.mark.parametrize(
        ("number", "error", "said"),
        [
            (signal.SIGSEGV, InvalidData, "the dataset ended the process that read its rows; write the file again"),
            (signal.SIGKILL, Unavailable, "the process that reads rows was ended; try again"),
        ],
    )
    def test_request_whose_process_crashes_is_told_so(
        self,
        reading: RowReading,
        hold: Callable[[], Held],
        tmp_path: Path,
        number: int,
        error: type[Exception],
        said: str,
    ) -> None:
        held = hold()
        for pid in held.processes:
            os.kill(pid, number)
        with pytest.raises(error, match=said):
            held.answer.result(WAIT_S)
        assert reading.texts(write(tmp_path / "rows.jsonl"), COLUMNS, [0])

    def test_child_that_was_killed_while_idle_is_replaced(self, reading: RowReading, tmp_path: Path) -> None:
        path = write(tmp_path / "rows.jsonl")
        reading.texts(path, COLUMNS, [0])
        first = reading.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: is_gone(first))
        assert reading.texts(path, COLUMNS, [0]) == {0: ("q0", "a")}
        assert reading.pid != first

    def test_child_that_was_killed_takes_its_requests_with_it(
        self, reading: RowReading, hold: Callable[[], Held], tmp_path: Path
    ) -> None:
        held = hold()
        assert reading.pid is not None
        os.kill(reading.pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="the process that reads rows was ended; try again"):
            held.answer.result(WAIT_S)
        wait_until(lambda: all(map(is_gone, held.processes)))

    def test_server_that_stops_ends_requests_under_way(
        self, reading: RowReading, hold: Callable[[], Held], tmp_path: Path
    ) -> None:
        held = hold()
        child = reading.pid
        assert child is not None
        reading.close()
        with pytest.raises(Unavailable):
            held.answer.result(WAIT_S)
        assert is_gone(child)
        wait_until(lambda: all(map(is_gone, held.processes)))

    def test_server_that_is_killed_leaves_no_process(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "held.jsonl")
        code = (
            "import sys, threading, time; from pathlib import Path; from registry.rows.reading_limits import MOST_HELD_BYTES; from registry.rows.service import INLINE_BYTES, RowReading\n"
            "reading = RowReading(apart=True, inline_bytes=0)\n"
            "given = (Path(sys.argv[1]), None, [0])\n"
            "threading.Thread(target=reading.texts, args=given, daemon=True).start()\n"
            "while reading.pid is None: time.sleep(0.01)\n"
            "print(reading.pid, flush=True); time.sleep(600)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "held.jsonl")], stdout=subprocess.PIPE, text=True
        ) as server:
            child = int(server.stdout.readline())
            wait_until(lambda: bool(forked(child)))
            left = [child, *forked(child)]
            server.kill()
        wait_until(lambda: all(map(is_gone, left)))
