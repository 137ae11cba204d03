"""The versions of the libraries that a result depends on."""

from __future__ import annotations

from importlib import metadata

#: Distributions whose version can change what a pipeline computes.
NAMES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)


def library_versions() -> dict[str, str]:
    """Return distribution name to version, for those that are installed. Nothing is imported."""
    return versions_of(*NAMES)


def versions_of(*names: str) -> dict[str, str]:
    """Return the versions of some distributions, by name, for those that are installed. Nothing is imported."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
