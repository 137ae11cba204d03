"""What this machine is, asked without torch: a process that imports it may not start CUDA children safely."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from sdk.api.transport import VERSION
from sdk.pulling.cache import Cache
from sdk.schemas.work import MOST_CACHED, WorkerInfo
from workers.settings import WorkerSettings


def describe(settings: WorkerSettings, cache: Cache) -> WorkerInfo:
    """Return what a worker says of itself when it asks for work."""
    card = _card_memory()
    total, free = card or _main_memory()
    bases = cache.bases
    cached = sorted(path.name for path in bases.iterdir() if len(path.name) == 64) if bases.is_dir() else []
    return WorkerInfo(
        name=settings.name,
        device="cpu" if card is None else "cuda",
        memory_bytes=total,
        free_memory_bytes=free,
        cached_bases=cached[:MOST_CACHED],
        shared_paths=list(settings.shared_paths),
        queues=list(settings.queues),
        version=VERSION,
    )


def _card_memory() -> tuple[int, int] | None:
    """Total and free bytes of the first card that this process may use, or None where there is none."""
    tool = shutil.which("nvidia-smi")
    # The card's number, or its UUID; empty where no card may be used.
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if tool is None or card in ("", "-1"):
        return None
    command = [tool, f"--id={card}", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 - a fixed command
        total, free = said.stdout.splitlines()[0].split(",")
        return int(total) * 1024**2, int(free) * 1024**2
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _main_memory() -> tuple[int, int]:
    """Total and available bytes of main memory, within a container's limit; zeros where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError, IndexError):
        return 0, 0
    group = control_group() or Path("/nowhere")
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        # The other version's files, or the word "max".
        with suppress(OSError, ValueError):
            allowed = int((group / limit).read_text())
            total = min(total, allowed)
            free = min(free, max(0, allowed - int((group / used).read_text()) + _reclaimable(group)))
    return total, free


def _reclaimable(group: Path) -> int:
    """Bytes that count as used and that the kernel gives away first: files that were read and are idle."""
    lines = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text().splitlines())
    return int(lines.get("total_inactive_file") or lines.get("inactive_file") or 0)


def control_group() -> Path | None:
    """The folder of this process's control group for memory, of either version, where it can be seen."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return None
    root = Path("/sys/fs/cgroup")
    for _, controllers, path in lines:
        if controllers == "" and (root / "cgroup.controllers").exists():
            found = root / path.lstrip("/")
        elif "memory" in controllers.split(","):
            root /= "memory"
            found = root / path.lstrip("/")
        else:
            continue
        # Within a container its own group may be mounted as the root.
        return found if found.is_dir() else root
    return None
