"""Programs that stay: how they are found, ended, and cleaned up after. Real engine programs are in tests/e2e/test_asking.py."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import processes

from sdk.asking.programs import EngineBase, wait_until_ready
from sdk.asking.residents import (
    Resident,
    begin_resident,
    end_residents,
    find_resident,
    residents,
    start_resident,
    sweep,
)
from sdk.errors import InvalidBase, Unavailable
from sdk.process_starts import process_started_at
from sdk.pulling.cache import MARKER, Cache
from sdk.pulling.leases import all_leases, lease

BASE = EngineBase("tiny", "0" * 64, "/base", 1, None, None)
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", processes.SLEEP])
    yield child
    child.kill()
    child.wait()


def _put(cache: Cache, pid: int, *, base: EngineBase = BASE, printed: str = '{"ready": {}}\n') -> Resident:
    made = Resident(base.key, pid, process_started_at(pid) or "", "/nowhere", base, 300.0, 0.0)
    folder = cache.engines / base.key
    folder.mkdir(parents=True)
    (folder / "resident.json").write_text(json.dumps({**vars(made), "base": vars(base)}))
    (folder / "printed").write_text(printed)
    return made


def _lease(cache: Cache, owner: str) -> None:
    digest = "1" * 64
    marker = cache.version(digest) / MARKER
    marker.parent.mkdir(parents=True)
    marker.write_text("{}")
    lease(cache, digest, owner)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is ready as soon as it is told what it is to hold, and ends without that."""
    text = (
        "import sys, time; print(sys.stdin.readline() and '{\"ready\": {}}' or sys.exit(), flush=True); time.sleep(600)"
    )
    monkeypatch.setattr("sdk.asking.programs.program_command", lambda _module: [sys.executable, "-c", text])
    monkeypatch.setattr("sdk.asking.programs.require_engine_libraries", lambda: None)


def test_a_begun_program_is_the_one_that_holds_the_base(cache: Cache, engine: None) -> None:
    begun = begin_resident(cache)
    assert begun is not None
    # Commands that come together begin one.
    assert begin_resident(cache) is None
    made = start_resident(cache, BASE, idle_s=1.0, begun=begun)
    assert made.pid == begun.child.pid
    assert find_resident(cache, BASE.key) == made
    assert [path.name for path in cache.engines.iterdir()] == [BASE.key]
    assert [one.pid for one in end_residents(cache)] == [made.pid]


def test_what_a_killed_command_has_begun_is_swept(cache: Cache, engine: None) -> None:
    begun = begin_resident(cache)
    assert begun is not None
    for left in ("begun-x", "begun-locked-by-nobody"):
        (cache.engines / left).mkdir()
    (cache.engines / "begun-locked-by-nobody" / "held").touch()
    sweep(cache)
    assert [path for path in cache.engines.iterdir() if path.is_dir()] == [begun.folder]
    begun.end()
    assert not begun.folder.exists()
    assert begun.child.returncode is not None


def test_what_a_killed_command_has_begun_keeps_no_other_from_beginning(cache: Cache, engine: None) -> None:
    (cache.engines / "begun-x").mkdir(parents=True)
    begun = begin_resident(cache)
    assert begun is not None
    assert [path for path in cache.engines.iterdir() if path.is_dir()] == [begun.folder]
    begun.end()


def test_what_another_container_has_begun_or_holds_is_left(
    cache: Cache, engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin_resident(cache)
    assert begun is not None
    # There, numbers of processes mean nothing of what runs here.
    monkeypatch.setattr("sdk.asking.residents.process_started_at", lambda _pid: None)
    sweep(cache)
    assert begin_resident(cache) is None
    made = start_resident(cache, BASE, idle_s=1.0, begun=begun)
    _lease(cache, made.owner)
    sweep(cache)
    assert find_resident(cache, BASE.key) == made
    assert end_residents(cache) == []
    assert begun.child.poll() is None
    begun.child.kill()
    begun.child.wait()
    sweep(cache)
    assert not (cache.engines / BASE.key).exists()
    assert all_leases(cache) == {}


def test_a_program_of_another_host_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    here = BASE.key
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert BASE.key != here


def test_a_program_that_cannot_be_begun_leaves_no_folder(
    cache: Cache, engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdk.asking.programs.program_command", lambda _module: ["/nowhere/python"])
    with pytest.raises(FileNotFoundError):
        begin_resident(cache)
    assert not list(cache.engines.glob("begun-*"))


def test_a_program_is_found_once_it_is_ready(cache: Cache, process: subprocess.Popen[bytes]) -> None:
    made = _put(cache, process.pid, printed='{"rea')
    assert find_resident(cache, BASE.key) is None
    (cache.engines / BASE.key / "printed").write_text('{"ready": {}}\n')
    assert find_resident(cache, BASE.key) == made
    assert residents(cache) == [made]


def test_a_later_process_with_its_number_is_not_taken_for_it(cache: Cache, process: subprocess.Popen[bytes]) -> None:
    _put(cache, process.pid)
    record = cache.engines / BASE.key / "resident.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "started_at": "another boot/1"}))
    assert find_resident(cache, BASE.key) is None
    assert end_residents(cache) == []
    assert process.poll() is None


def test_ending_takes_a_stubborn_program_too_and_its_leases(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.asking.residents._TERMINATE_S", 0.2)
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        made = _put(cache, child.pid)
        _lease(cache, made.owner)
        assert end_residents(cache) == [made]
        assert child.wait(10) == -9
    assert all_leases(cache) == {}
    assert not (cache.engines / BASE.key).exists()


def test_a_start_waits_for_that_of_another_process_and_takes_its_program(
    cache: Cache, process: subprocess.Popen[bytes]
) -> None:
    found: list[Resident] = []

    def refuse() -> None:
        raise AssertionError("a second program is started")

    def start() -> None:
        found.append(start_resident(cache, BASE, idle_s=1.0, on_start=refuse))

    with cache.lock(f"engine {BASE.key}"):
        waiting = threading.Thread(target=start)
        waiting.start()
        # Without the lock it would have looked, and found nothing, by now.
        waiting.join(0.3)
        assert waiting.is_alive()
        made = _put(cache, process.pid)
    waiting.join()
    assert found == [made]


def test_a_sweep_leaves_what_runs_and_others_leases(cache: Cache, process: subprocess.Popen[bytes]) -> None:
    made = _put(cache, process.pid)
    _lease(cache, made.owner)
    lease(cache, "1" * 64, "serve-8011")
    sweep(cache)
    assert residents(cache) == [made]
    assert len(all_leases(cache)["1" * 64]) == 2
    process.kill()
    process.wait()
    sweep(cache)
    assert residents(cache) == []
    assert [one.owner for one in all_leases(cache)["1" * 64]] == ["serve-8011"]


def test_a_damaged_record_is_nobodys(cache: Cache) -> None:
    folder = cache.engines / BASE.key
    folder.mkdir(parents=True)
    whole = vars(Resident(BASE.key, 1, "x", "/nowhere", BASE, 300.0, 0.0)) | {"base": vars(BASE)}
    odd = ({"pid": "self"}, {"socket": 5}, {"started_at": None}, {"key": "f" * 16}, {"since_s": "now"})
    for content in ("", "[]", '{"pid": 1}', '{"base": {}}', *(json.dumps({**whole, **each}) for each in odd)):
        (folder / "resident.json").write_text(content)
        assert residents(cache) == []
        sweep(cache)
        assert not folder.exists()
        folder.mkdir()


def test_bases_that_are_held_differently_have_programs_of_their_own() -> None:
    others = [
        EngineBase("tiny", "1" * 64, "/base", 1, None, None),
        EngineBase("tiny", "0" * 64, "/base", 1, "bfloat16", None),
        EngineBase("tiny", "0" * 64, "/base", 1, None, {"method": "nf4"}),
    ]
    assert len({BASE.key, *(other.key for other in others)}) == 4
    assert EngineBase("another-name", "0" * 64, "/base", 2, None, None).key == BASE.key


@pytest.mark.parametrize(
    ("printed", "error", "message"),
    [
        ('{"refused": "The base can\'t be used; choose another.", "reason": "base"}\n', InvalidBase, "^the base can't"),
        ('{"refused": "Too large.", "reason": "oom"}\n', Unavailable, "^too large$"),
        ("", Unavailable, r"ended before it was ready \(Killed\)"),
    ],
)
def test_what_a_program_refuses_is_told(tmp_path: Path, printed: str, error: type[Exception], message: str) -> None:
    (tmp_path / "printed").write_text(printed)
    (tmp_path / "log").write_text("starting\nKilled\n")
    with pytest.raises(error, match=message):
        wait_until_ready(tmp_path, BASE, lambda: False)
