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
    versions = {}
    for name in NAMES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
