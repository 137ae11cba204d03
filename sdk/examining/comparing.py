"""Which of several versions and bare bases scores better, and how two versions differ.

The registry resamples the rows that it keeps; weights are fetched and compared here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sdk.api import evaluations
from sdk.api.transport import Transport
from sdk.config import user_path
from sdk.errors import InvalidInput, NotFound
from sdk.names import parse_ref_or_member
from sdk.objects import Version
from sdk.pulling.transfer import hash_file
from sdk.pushing.given_base import require_one
from sdk.schemas.diff import Diff
from sdk.schemas.manifest import Manifest
from sdk.schemas.scores import MOST_TARGETS, Comparison
from sdk.submitting.given_data import means_file
from sdk.validation import require_adapter

T = TypeVar("T")


def compare_scores(
    transport: Transport,
    refs: Sequence[str],
    *,
    data: str | Path | None,
    base_namespace: str | None,
    published: bool,
    **asked: Any,
) -> Comparison:
    """Compare the scores of targets in pairs; see `Client.compare`."""
    if isinstance(refs, str) or not 2 <= len(refs) <= MOST_TARGETS:
        raise InvalidInput(
            f"a comparison is of 2 to {MOST_TARGETS} versions or bases; name them all: adapterctl compare REF REF",
            param="refs",
        )
    require_given({**asked, "data": data})
    targets = [ref if ref.startswith("base:") else str(parse_ref_or_member(ref)) for ref in refs]
    require_one(base_namespace, published)
    asked |= {"base_namespace": base_namespace, "published": published or None}
    return on_rows_of(data, targets, partial(evaluations.compare, transport, targets, **asked))


def require_given(options: Mapping[str, Any]) -> None:
    """Raise InvalidInput if the text of an option is empty."""
    for name, given in options.items():
        # For example from an unset shell variable; it is not meant as the loss, or as no groups.
        if given == "":
            raise InvalidInput(f"{name} is empty; give one, or leave it out", param=name)


def on_rows_of(data: str | Path | None, targets: Sequence[str], ask: Callable[..., T]) -> T:
    """Ask about scores on a dataset, which may be given as a file: that is hashed, and not sent.

    Raises InvalidInput for a file that can't be read, NotFound if nothing was scored on its rows.
    """
    if data is None or not means_file(data):
        return ask(data=None if data is None else str(data))
    path = user_path(data)
    # Reading a pipe or a device may never end.
    if not os.path.isfile(path):  # noqa: PTH113 - a text that no path can be is none here
        raise InvalidInput(f"{str(data)[:200]!a} can't be read, since it is not a file; check the path", param="data")
    try:
        digest, _ = hash_file(path)
    except OSError as error:
        raise InvalidInput(f"{data} can't be read ({error.strerror}); check the path", param="data") from None
    try:
        return ask(data=digest)
    except NotFound as error:
        if error.param != "data":
            raise
        raise NotFound(
            f"nothing was scored on the rows of {data}; run: adapterctl eval {' '.join(targets)} --data {data}",
            param="data",
        ) from None


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
