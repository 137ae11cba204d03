"""What a process may use of main memory, by control groups of both versions that are made up in a folder."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from workers.main_memory import control_groups, main_memory

MIB = 2**20
#: As the kernel writes that a group of version 1 has no limit.
UNLIMITED = 9223372036854771712


class Machine:
    """A machine of 1000 MiB, 800 of them available, and its control groups."""

    def __init__(self, root: Path, *, version: int) -> None:
        self.proc, self.groups = root / "proc", root / "cgroup"
        self._version = version
        self.hierarchy = self.groups if version == 2 else self.groups / "memory"
        self.hierarchy.mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text(
            f"MemTotal: {1000 * 1024} kB\nMemFree: 1 kB\nMemAvailable: {800 * 1024} kB\n"
            "Buffers: 1 kB\nCached: 1 kB\nShmem: 1 kB\nActive: 1 kB\nInactive: 1 kB\n"
        )
        if version == 2:
            (self.groups / "cgroup.controllers").write_text("cpu memory")
        else:
            self.limit("", UNLIMITED, 0)

    def runs_in(self, path: str, *more: str) -> None:
        """Say in which group the process is, as the kernel does."""
        own = f"0::{path}" if self._version == 2 else f"4:memory:{path}"
        (self.proc / "self/cgroup").write_text("\n".join((*more, own)) + "\n")

    def limit(self, path: str, limit: int | None, used: int, *, idle_files: int = 0) -> None:
        folder = self.hierarchy / path
        folder.mkdir(parents=True, exist_ok=True)
        if self._version == 2:
            (folder / "memory.max").write_text("max\n" if limit is None else f"{limit}\n")
            (folder / "memory.current").write_text(f"{used}\n")
            (folder / "memory.stat").write_text(f"anon 5\ninactive_file {idle_files}\n")
        else:
            (folder / "memory.limit_in_bytes").write_text(f"{UNLIMITED if limit is None else limit}\n")
            (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
            (folder / "memory.stat").write_text(f"inactive_file 0\ntotal_inactive_file {idle_files}\n")

    def memory(self) -> tuple[int, int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(psutil, "PROCFS_PATH", str(self.proc))
            found = main_memory(self.proc, self.groups)
        return found.total_bytes // MIB, found.available_bytes // MIB


@pytest.fixture(params=[1, 2])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(tmp_path, version=request.param)


def test_without_a_limit_it_is_the_machine_s(machine: Machine) -> None:
    machine.runs_in("/")
    assert machine.memory() == (1000, 800)
    machine.limit("job", None, 700 * MIB)
    machine.runs_in("/job")
    assert machine.memory() == (1000, 800)


def test_a_group_s_own_limit_counts_and_files_that_are_idle_are_no_use(machine: Machine) -> None:
    machine.limit("job", 300 * MIB, 120 * MIB, idle_files=20 * MIB)
    machine.runs_in("/job")
    assert machine.memory() == (300, 200)


def test_the_tightest_limit_of_all_levels_counts(machine: Machine) -> None:
    machine.limit("slice", 400 * MIB, 350 * MIB)
    machine.limit("slice/pod", None, 340 * MIB)
    machine.limit("slice/pod/job", 600 * MIB, 30 * MIB)
    machine.runs_in("/slice/pod/job")
    # Most is used up by others under the same limit.
    assert machine.memory() == (400, 50)
    machine.limit("slice/pod", 200 * MIB, 190 * MIB)
    assert machine.memory() == (200, 10)
    machine.limit("slice/pod/job", 100 * MIB, 99 * MIB)
    assert machine.memory() == (100, 1)


def test_a_limit_on_the_root_of_a_container_s_hierarchy_counts(machine: Machine) -> None:
    machine.limit("", 500 * MIB, 100 * MIB)
    machine.limit("job", None, 10 * MIB)
    machine.runs_in("/job")
    assert machine.memory() == (500, 400)


@pytest.mark.parametrize("path", ["/docker/3f1c2a9b7d20", "/../../outside"])
def test_a_path_that_is_not_seen_here_is_the_root_of_the_mount(machine: Machine, path: str) -> None:
    machine.limit("", 250 * MIB, 50 * MIB)
    machine.limit("job", 100 * MIB, 1)
    machine.runs_in(path)
    assert machine.memory() == (250, 200)


def test_more_used_than_allowed_leaves_nothing(machine: Machine) -> None:
    machine.limit("job", 100 * MIB, 150 * MIB)
    machine.runs_in("/job")
    assert machine.memory() == (100, 0)


def test_where_both_versions_are_mounted_the_first_counts_memory(tmp_path: Path) -> None:
    machine = Machine(tmp_path, version=1)
    machine.limit("job", 300 * MIB, 100 * MIB)
    (machine.groups / "cgroup.controllers").write_text("hugetlb")
    machine.runs_in("/job", "9:name=systemd:/", "3:cpu,cpuacct:/other", "0::/unified")
    assert machine.memory() == (300, 200)


def test_without_control_groups_it_is_the_machine_s(tmp_path: Path) -> None:
    assert main_memory(tmp_path, tmp_path).total_bytes == psutil.virtual_memory().total
    assert control_groups(tmp_path, tmp_path) == []


def test_this_machine_s_own_groups_are_found() -> None:
    found = main_memory()
    assert 0 < found.available_bytes <= found.total_bytes
