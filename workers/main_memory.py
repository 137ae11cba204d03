"""How much main memory this process may use: the machine's, within the limits of all control groups that it is in.

The limits of all groups above a process's own apply to it as well, so every level up to the root is read: the tightest counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
#: The files with limit and usage, in version 2 of control groups and in version 1.
_LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


class MainMemory(NamedTuple):
    """Main memory that this process may use."""

    total_bytes: int
    available_bytes: int


def main_memory(proc: Path = _PROC, groups: Path = _GROUPS) -> MainMemory:
    """Return how much main memory this process may use."""
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for group in control_groups(proc, groups):
        for limit, used in _limits(group):
            total = min(total, limit)
            available = min(available, max(0, limit - used + _reclaimable(group)))
    return MainMemory(total, available)


def control_groups(proc: Path = _PROC, groups: Path = _GROUPS) -> list[Path]:
    """Return the folders of this process's control groups for memory, its own first, then each above it to the root.

    They have either version; none if the system shows none.
    """
    try:
        lines = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return []
    paths = {controllers: path for _, controllers, path in lines}
    # If both versions are mounted, only one of them counts memory: the first, if it is there.
    first = next((path for controllers, path in paths.items() if "memory" in controllers.split(",")), None)
    if first is not None:
        return _upwards(groups / "memory", first)
    return _upwards(groups, paths[""]) if "" in paths and (groups / "cgroup.controllers").exists() else []


def _upwards(root: Path, path: str) -> list[Path]:
    """Return the folder of a group and those above it, up to the root of its hierarchy."""
    parts = [part for part in path.split("/") if part]
    own = root.joinpath(*parts)
    # In a container its own group may be mounted as the root, while the path is the one outside the container.
    if ".." in parts or not own.is_dir():
        return [root] if root.is_dir() else []
    return [own, *list(own.parents)[: len(parts)]]


def _limits(group: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit of a group and its usage, in bytes; nothing if it has no limit."""
    for limit, used in _LIMITS:
        # The other version's files, the word "max", or a group that has just been removed.
        with suppress(OSError, ValueError):
            yield int((group / limit).read_text()), int((group / used).read_text())


def _reclaimable(group: Path) -> int:
    """Bytes that count as used but that the kernel reclaims first: the cache of idle files."""
    try:
        lines = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text().splitlines())
        return int(lines.get("total_inactive_file") or lines.get("inactive_file") or 0)
    except (OSError, ValueError):
        return 0
