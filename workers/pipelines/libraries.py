"""The versions of the libraries that a result depends on."""

from __future__ import annotations

from functools import cache
from importlib import metadata

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


@cache
def _version_of(name: str) -> str | None:
    """Look it up only once: this reads all metadata of a distribution, which takes a millisecond or two."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
