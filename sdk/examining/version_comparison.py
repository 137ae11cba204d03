"""How two versions differ, optionally including their weights, which are then fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sdk.objects import Version
from sdk.schemas.diff import Diff
from sdk.schemas.manifest import Manifest
from sdk.validation import require_adapter


def compare(one: Version, two: Version, *, weights: bool, fill_cache: Callable[[Manifest], Path]) -> Diff:
    """Return how two versions differ; with `weights`, `fill_cache` returns the folder of each version's files.

    Raises InvalidInput for the weights of a merged model, VerificationFailed for weights that can't be read;
    Unavailable if numpy is missing.
    """
    from sdk.lora.tensors import require_numpy
    from sdk.lora.version_diff import compare_versions
    from sdk.lora.weights import compare_weights

    same = one.digest == two.digest
    found = compare_versions(one.info, two.info, [] if same else one.evaluations, [] if same else two.evaluations)
    if same or not weights:
        return found
    for version in (one, two):
        require_adapter(
            version.ref, version.info.kind, "its weights are not compared; leave the weights out with --no-weights"
        )
    require_numpy("comparing weights", "or leave the weights out with --no-weights")
    folders = fill_cache(one.info.manifest), fill_cache(two.info.manifest)
    return found.model_copy(update={"weights": compare_weights(*folders, lora_a=one.info.lora, lora_b=two.info.lora)})
