"""Scores that are already recorded: whether an evaluation would get the same ones, decided before the base is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sdk.schemas.evaluation import Conditions
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.libraries import library_versions
from workers.pipelines.model.base_config import read_packing
from workers.pipelines.model.device import Device
from workers.pipelines.model.loading import dtype_to_be
from workers.pipelines.model.packed import held_as
from workers.pipelines.scoring.order import RecordedScores


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
