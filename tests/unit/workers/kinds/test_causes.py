"""Why attempts end: told apart by what is known."""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path

import pytest
from support import processes

from sdk.errors import (
    AdapterctlError,
    Conflict,
    InvalidBase,
    InvalidData,
    NotFound,
    QuotaExceeded,
    Unavailable,
    Unreadable,
    VerificationFailed,
    disk_explained,
)
from sdk.schemas.failures import FailureReason
from workers.child.protocol import DISK_FULL_STATUS, FAULT_FILE, INTERRUPTED_STATUS, Fault
from workers.kinds import causes


@pytest.mark.parametrize(
    ("status", "reason", "said"),
    [
        (-signal.SIGKILL, "oom", "most likely for lack of memory"),
        (137, "oom", "most likely for lack of memory"),
        (-signal.SIGSEGV, "crashed", "ended by SIGSEGV"),
        (-signal.SIGABRT, "crashed", "ended by SIGABRT"),
        (-signal.SIGTERM, "crashed", "stopped by something other"),
        (INTERRUPTED_STATUS, "crashed", "stopped by something other"),
        (DISK_FULL_STATUS, "disk_full", "disk is full"),
        (3, "crashed", "ended with status 3"),
        (-63, "crashed", "ended by signal 63"),
    ],
)
def test_an_exit_status_has_a_cause(status: int, reason: str, said: str) -> None:
    failed = causes.of_status(status, causes.oom_kills())
    assert failed.reason == reason
    assert said in str(failed)


def test_the_kernels_own_count_makes_it_certain() -> None:
    kills = causes.oom_kills()
    assert kills is not None
    assert "the kernel's OOM killer" in str(causes.of_status(-9, kills - 1))


def test_a_child_that_could_say_why_is_believed(tmp_path: Path) -> None:
    (tmp_path / FAULT_FILE).write_text(Fault(reason=FailureReason.DATA, message="no rows").model_dump_json())
    failed = causes.of_child(tmp_path, 1, None)
    assert (failed.reason, str(failed)) == ("data", "no rows")
    (tmp_path / FAULT_FILE).write_text('{"reason":"da')
    assert causes.of_child(tmp_path, -signal.SIGSEGV, None).reason == "crashed"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidBase("x"), "base"),
        (VerificationFailed("x"), "verification"),
        (Unavailable("x"), "unavailable"),
        # What the registry says of its own disk is not about this one.
        (Unavailable("the disk is full while storing"), "unavailable"),
        (NotFound("x"), "missing"),
        (QuotaExceeded("x"), "quota"),
        (InvalidData("x"), "spec"),
        (Conflict("x"), "spec"),
        (Unreadable("x"), "unreadable"),
        (AdapterctlError("x"), "internal"),
        (OSError(errno.EIO, "x"), "internal"),
        (OSError(errno.ENOSPC, "x"), "disk_full"),
    ],
)
def test_an_error_of_the_worker_has_a_reason(error: AdapterctlError | OSError, reason: str) -> None:
    assert causes.of_error(error).reason == reason


def test_a_full_disk_is_seen_through_what_explains_it() -> None:
    with pytest.raises(Unavailable) as raised, disk_explained("writing"):
        raise OSError(errno.EDQUOT, "x")
    assert causes.is_full_disk(raised.value)
    assert causes.of_error(raised.value).reason == "disk_full"


#: Runs the child's own handling of an error that is raised in the midst of it.
CHILD = """
import os, resource, sys
from workers.child import main as child
from sdk.schemas.failures import FailureReason
def carry_out(order, host):
    {then}
child._carry_out = carry_out
sys.argv = ["child", {folder!r}]
sys.exit(child.main())
"""
ORDER = '{"pipeline":"merging","base":"/b","adapter":"/a","quantization":null,"spec":{}}'


@pytest.mark.parametrize(
    ("then", "reason", "shows_traceback"),
    [
        ("raise OSError(28, 'No space left on device')", "disk_full", False),
        ("raise RuntimeError('I/O error: File too large (os error 27)')", "disk_full", False),
        ("raise RuntimeError('[enforce fail] PytorchStreamWriter failed writing file data/0')", "disk_full", False),
        ("raise MemoryError", "oom", False),
        ("raise RuntimeError('CUDA out of memory. Tried')", "oom", False),
        ("raise KeyError('what')", "internal", True),
        (
            "from workers.pipelines import errors; raise errors.PipelineError(errors.FailureReason.DATA, 'no rows')",
            "data",
            False,
        ),
    ],
)
def test_a_child_says_why_and_shows_a_traceback_of_the_unexpected_only(
    tmp_path: Path, then: str, reason: str, shows_traceback: bool
) -> None:
    (tmp_path / "order.json").write_text(ORDER)
    code = CHILD.format(then=then, folder=str(tmp_path))
    done = processes.finished(sys.executable, "-c", code, timeout_s=120)
    assert done.returncode == 1
    assert causes.of_child(tmp_path, done.returncode, None).reason == reason
    assert ("Traceback" in done.stderr) is shows_traceback, done.stderr


def test_a_child_on_a_disk_too_full_to_say_so_says_it_by_its_status(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text(ORDER)
    then = "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); (host.out / 'x').write_text('x')"
    code = CHILD.format(then=then, folder=str(tmp_path))
    done = processes.finished(sys.executable, "-c", code, timeout_s=120)
    assert done.returncode == DISK_FULL_STATUS, done.stderr
    assert causes.of_child(tmp_path, done.returncode, None).reason == "disk_full"
