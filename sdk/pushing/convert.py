"""Pickled adapter weights to safetensors, read by a child process that runs no code from them.

A pickle is a program. The child, a module of the worker, has torch's restricted reader, limits, no network if
the system allows that, and none of this process's tokens; its output becomes a folder by one rename, or not at all.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import Conflict, InvalidInput, NotFound, VerificationFailed, disk_explained
from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.formats.peft_config import MAX_CONFIG_BYTES
from sdk.pushing.pack import pickled_weights
from sdk.whole_files import give_name
from sdk.worker_program import require_libraries, run_program

_CHILD = "workers.pipelines.model.convert"
#: Torch alone takes some seconds to load, on a cold disk a minute.
_TIMEOUT_S = 300.0
_BYTES_PER_S = 5_000_000


@dataclass(frozen=True)
class Converted:
    """A folder that was converted."""

    folder: Path
    tensors: int
    size_bytes: int
    #: Whether the child that read the pickle had no network.
    offline: bool


def convert_adapter(folder: Path, to: Path | None = None) -> Converted:
    """Write `folder`, whose weights are pickled, as the new folder `to`: adapter_config.json and safetensors.

    Without `to` it is `folder` with "-safetensors" after its name. Raises NotFound without a folder, config or pickled
    weights, Conflict if `to` already exists, VerificationFailed for a file that holds anything but tensors,
    Unavailable without torch, TimedOut.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; give the one that holds adapter_model.bin", param="path")
    source, config = pickled_weights(folder), folder / CONFIG_FILE
    if source is None:
        hint = (
            "it already has safetensors; push it as it is"
            if (folder / WEIGHTS_FILE).is_file()
            else "give another folder"
        )
        raise NotFound(f"{folder} has no pickled weights such as adapter_model.bin; {hint}", param="path")
    if not config.is_file():
        raise NotFound(f"there is no {config}; give the folder that PEFT's save_pretrained wrote", param="path")
    if config.stat().st_size > MAX_CONFIG_BYTES:
        raise InvalidInput(f"{config} is longer than any configuration of a LoRA; save the adapter again", param="path")
    target = to or folder.resolve().with_name(f"{folder.resolve().name}-safetensors")
    if target.exists() or target.is_symlink():
        raise Conflict(f"{target} already exists; remove it, or name another folder with -o", param="to")
    require_libraries(("torch", "safetensors"), doing="converting pickled weights")
    with disk_explained(f"writing {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        try:
            said = _run(source, partial / WEIGHTS_FILE)
            shutil.copyfile(config, partial / CONFIG_FILE)
            _publish(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Converted(target, said["tensors"], said["size_bytes"], offline=said.get("offline") is True)


def _run(source: Path, target: Path) -> dict[str, Any]:
    """Have the child write `target`; return its report. Raises VerificationFailed, TimedOut."""
    timeout_s = _TIMEOUT_S + source.stat().st_size / _BYTES_PER_S
    late = f"{source} could not be read within {timeout_s:.0f} s; save the adapter again with safe_serialization=True"
    paths = str(source.resolve()), str(target.resolve())
    said = run_program(_CHILD, *paths, timeout_s=timeout_s, late=late, param="path")
    if said is None or not {"tensors", "size_bytes"} <= said.keys():
        why = said["refused"] if said and "refused" in said else f"{source.name} could not be read within its limits"
        raise VerificationFailed(f"{why}; don't load it, and ask whoever made it for {WEIGHTS_FILE}", param="path")
    return said


def _publish(partial: Path, target: Path) -> None:
    """Give the folder its name. Raises Conflict."""
    # `mkdtemp` makes a private folder; like others, it should be readable by everybody who may read its parent.
    partial.chmod(0o755)
    (partial / WEIGHTS_FILE).chmod(0o644)
    try:
        give_name(partial, target, durable=True)
    except FileExistsError as error:
        raise Conflict(f"{target} was created meanwhile; name another folder with -o", param="to") from error
