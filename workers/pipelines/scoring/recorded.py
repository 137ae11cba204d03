"""Scores that are already recorded: whether an evaluation would get the same ones, decided before the base is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sdk.schemas.evaluation import Conditions
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.libraries import library_versions
from workers.pipelines.model.blueprint import read_packing
from workers.pipelines.model.device import Device
from workers.pipelines.model.loading import LoadedBase, dtype_to_be
from workers.pipelines.model.packed import held_as
from workers.pipelines.orders import RecordedScores
from workers.pipelines.scoring.row_scores import RowScores

#: Increased with every change in adapterctl's own part of a score: how a loss is summed, on which tokens it is
#: computed, how rows are cut to their length, how prompts and labels are read. It is recorded with the scores, so that
#: earlier ones are neither compared with new ones nor reused.
SCORING_VERSION = 1


class AlreadyRecorded(Exception):  # noqa: N818 - nothing went wrong
    """The requested scores are already recorded."""

    def __init__(self, ident: str) -> None:
        super().__init__(ident)
        self.ident = ident


def held_in(
    base: Path, quantization: QuantizationRecipe | None, device: Device, conditions: Conditions, *, own: bool
) -> Conditions | None:
    """Return the conditions with the way the base will be held, as far as this is known in advance; None if it isn't.

    `own`: the recipe is the scored adapter's own.
    """
    packing = read_packing(base)
    recipe = packing or quantization
    if not own and packing is None and recipe is not None and len(recipe.skipped_modules) > 1:
        # More than the output head is unquantised, as for a bare base next to an adapter; the record has only the
        # number of such modules.
        return None
    dtype = dtype_to_be(base, recipe, device)
    held = held_as(None if recipe is None else recipe.model_copy(update={"compute_dtype": dtype}))
    if held is not None:
        # A packed base lists its unquantised modules, as does an adapter's own recipe if it names some; otherwise it is
        # only the head.
        held["skipped"] = None if packing is not None else (held["skipped"] or None) if own else 1
    return conditions.model_copy(update={"dtype": dtype, "quantization": held})


def held_by(loaded: LoadedBase, conditions: Conditions, scored: RowScores) -> dict[str, Any]:
    """Return what a report says about the base in memory, about the libraries, and about the conditions that follow."""
    held = {"quantization": held_as(loaded.quantization), "dtype": loaded.dtype, "failed": scored.failed_digests()}
    return {
        "precision": loaded.dtype if loaded.quantization is None else loaded.quantization.type,
        "libraries": library_versions(),
        "conditions": conditions.model_copy(update=held),
    }


def require_unrecorded(
    recorded: Iterable[RecordedScores],
    expected: Conditions | None,
    metrics: Sequence[str],
    samples: int,
    *,
    texts: bool = False,
) -> None:
    """Raise AlreadyRecorded for scores under the `expected` conditions, with the same releases of libraries, that have
    all `metrics`, as many `samples`, and with `texts` the answer of each row.
    """
    if expected is None:
        return
    libraries = library_versions()
    for found in recorded:
        if (
            _are_equal(found.conditions, expected)
            and found.libraries == libraries
            and set(metrics) <= set(found.metrics)
            and found.samples >= samples
            and (found.texts or not texts)
        ):
            raise AlreadyRecorded(found.id)


def _are_equal(found: Conditions, expected: Conditions) -> bool:
    held = found.quantization
    if held is not None and expected.quantization is not None and expected.quantization["skipped"] is None:
        found = found.model_copy(update={"quantization": {**held, "skipped": None}})
    return found == expected
