"""What this machine is, asked without torch: a process that imports it may not start CUDA children safely."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from sdk.cache import Cache
from sdk.schemas.jobs import WorkerInfo
from sdk.transport import VERSION
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
        cached_bases=cached,
        shared_paths=list(settings.shared_paths),
        version=VERSION,
    )


def _card_memory() -> tuple[int, int] | None:
    """Total and free bytes of the first card, or None where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 - a fixed command
        total, free = said.stdout.splitlines()[0].split(",")
        return int(total) * 1024**2, int(free) * 1024**2
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _main_memory() -> tuple[int, int]:
    """Total and available bytes of main memory; zeros where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return tuple(int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))  # type: ignore[return-value]
    except (OSError, KeyError, ValueError, IndexError):
        return 0, 0
