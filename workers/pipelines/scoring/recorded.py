"""Scores that are recorded already: whether an evaluation would find them again, known before the base is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sdk.schemas.evaluation import Conditions
from sdk.schemas.training import QuantizationRecipe
from workers.pipelines.libraries import library_versions
from workers.pipelines.model.device import Device
from workers.pipelines.model.loading import dtype_to_be, held_as, read_packing
from workers.pipelines.scoring.order import RecordedScores


class AlreadyRecorded(Exception):  # noqa: N818 - nothing went wrong
    """The scores that were asked for are in the record."""

    def __init__(self, ident: str) -> None:
        super().__init__(ident)
        self.ident = ident


def held_in(
    base: Path, quantization: QuantizationRecipe | None, device: Device, conditions: Conditions, *, bare: bool
) -> Conditions | None:
    """Return the conditions with how the base will be held, as far as it is known before; None where it is not."""
    recipe = read_packing(base) or quantization
    if bare and recipe is not None and recipe.skipped_modules and read_packing(base) is None:
        # Which modules are in 4 bits follows from an adapter beside it, and the record has only their number.
        return None
    dtype = dtype_to_be(base, recipe, device)
    held = held_as(None if recipe is None else recipe.model_copy(update={"compute_dtype": dtype}))
    return conditions.model_copy(update={"dtype": dtype, "quantization": held})


def require_unrecorded(
    recorded: Iterable[RecordedScores], expected: Conditions | None, metrics: Sequence[str], samples: int
) -> None:
    """Raise AlreadyRecorded for scores that were taken under the `expected` conditions, by the same releases of libraries, and
    that have all `metrics` and as many `samples`.
    """
    if expected is None:
        return
    wanted, libraries = _compared(expected), library_versions()
    for found in recorded:
        if (
            _compared(found.conditions) == wanted
            and found.libraries == libraries
            and set(metrics) <= set(found.metrics)
            and found.samples >= samples
        ):
            raise AlreadyRecorded(found.id)


def _compared(conditions: Conditions) -> dict[str, object]:
    """All of the conditions, but how many modules were left wide, which the base and its recipe say."""
    said = conditions.model_dump(mode="json")
    if said["quantization"] is not None:
        said["quantization"] = {name: value for name, value in said["quantization"].items() if name != "skipped"}
    return said
