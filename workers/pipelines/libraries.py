"""The versions of the libraries that a result depends on."""

from __future__ import annotations

import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path

from sdk.version import VERSION

#: Where NVIDIA's driver names itself: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5 …".
_DRIVER = re.compile(r"Kernel Module.*? ([0-9]+(?:\.[0-9]+)+) ")
#: Distributions whose version can change what a pipeline computes.
NAMES = (
    "accelerate",
    "bitsandbytes",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)


def library_versions() -> dict[str, str]:
    """Return distribution name to version, for installed ones. Nothing is imported."""
    return versions_of(*NAMES)


def versions_of(*names: str) -> dict[str, str]:
    """Return the versions of these distributions by name, for installed ones. Nothing is imported."""
    return {name: version for name in names if (version := _version_of(name)) is not None}


def other_releases(*, on_card: bool, driver: Path = Path("/proc/driver/nvidia/version")) -> dict[str, str]:
    """Return our own release, Python's, and on an NVIDIA card its driver's, by the names that records have for them."""
    said = _DRIVER.search(driver.read_text()) if on_card and driver.is_file() else None
    found = {"adapterctl": VERSION, "python": platform.python_version()}
    return found if said is None else {**found, "driver": said[1]}


@cache
def _version_of(name: str) -> str | None:
    """Look it up only once: this reads all metadata of a distribution, which takes a millisecond or two."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
