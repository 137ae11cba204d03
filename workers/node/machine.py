"""What this machine is, asked without torch: a process that imports it may not start CUDA children safely."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from sdk.api.transport import VERSION
from sdk.pulling.cache import Cache
from sdk.schemas.work import MOST_CACHED, MOST_SCORERS, ScorerInfo, WorkerInfo
from workers.installed_scorers import announced_scorers
from workers.main_memory import main_memory
from workers.node.wordnet import announced_wordnet
from workers.settings import WorkerSettings
from workers.trackers.known import installed_trackers


def worker_info(settings: WorkerSettings, cache: Cache) -> WorkerInfo:
    """Return what a worker reports about itself when it asks for work."""
    card = _card_memory()
    total, free = card or main_memory()
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
        scorers=_offered(settings.wordnet),
        trackers=installed_trackers(),
    )


def _offered(wordnet: Path | None) -> list[ScorerInfo] | None:
    """Return the installed scorers, and WordNet; None if they are more than can be reported."""
    scorers = announced_scorers()
    found = None if scorers is None else [*scorers, *announced_wordnet(wordnet)]
    return found if found is None or len(found) <= MOST_SCORERS else None


def _card_memory() -> tuple[int, int] | None:
    """Total and free bytes of the first card that this process may use, or None if there is none."""
    tool = shutil.which("nvidia-smi")
    # The card's number, or its UUID; empty if no card may be used.
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
