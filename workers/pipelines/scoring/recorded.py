"""Scores that are already recorded: whether an evaluation would get the same ones, decided before the base is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from sdk.schemas.evaluation import Conditions
from sdk.schemas.version_records import RELEASES
from workers.pipelines.libraries import library_versions
from workers.pipelines.model.blueprint import read_packing
from workers.pipelines.model.loading import dtype_to_be
from workers.pipelines.model.packed import held_as
from workers.pipelines.scoring.target import Target

#: Increased with every change in adapterctl's own part of a score: how a loss is summed, on which tokens it is
#: computed, how rows are cut to their length, how prompts and labels are read. It is recorded with the scores, so that
#: earlier ones are neither compared with new ones nor reused.
SCORING_VERSION = 1


class AlreadyRecorded(Exception):  # noqa: N818 - nothing went wrong
    """The requested scores are already recorded."""

    def __init__(self, ident: str) -> None:
        super().__init__(ident)
        self.ident = ident


def require_unrecorded(
    target: Target, conditions: Conditions, metrics: Sequence[str], samples: int, *, texts: bool
) -> None:
    """Raise AlreadyRecorded for scores under these conditions, with the same releases of libraries, that have all
    `metrics`, as many `samples`, and with `texts` the prediction of each row.
    """
    if (expected := _as_held(target, conditions)) is None:
        return
    libraries = library_versions()
    for scores in target.item.recorded:
        if (
            _are_equal(scores.conditions, expected)
            and {name: one for name, one in scores.libraries.items() if name not in RELEASES} == libraries
            and set(metrics) <= set(scores.metrics)
            and scores.samples >= samples
            and (scores.texts or not texts)
        ):
            raise AlreadyRecorded(scores.id)


def _as_held(target: Target, conditions: Conditions) -> Conditions | None:
    """Return the conditions with the way the base will be held, as far as this is known in advance; None if it isn't."""
    item, packing = target.item, read_packing(target.item.base)
    recipe, own = packing or item.quantization, item.adapter is not None and target.spec.precision == "as-trained"
    if not own and packing is None and recipe is not None and len(recipe.skipped_modules) > 1:
        # More than the output head is unquantised, as for a bare base next to an adapter; the record has only the
        # number of such modules.
        return None
    dtype = dtype_to_be(item.base, recipe, target.device)
    held = held_as(None if recipe is None else recipe.model_copy(update={"compute_dtype": dtype}))
    if held is not None:
        # A packed base lists its unquantised modules, as does an adapter's own recipe if it names some; otherwise it is
        # only the head.
        held["skipped"] = None if packing is not None else (held["skipped"] or None) if own else 1
    return conditions.model_copy(update={"dtype": dtype, "quantization": held})


def _are_equal(recorded: Conditions, expected: Conditions) -> bool:
    held = recorded.quantization
    if held is not None and expected.quantization is not None and expected.quantization["skipped"] is None:
        recorded = recorded.model_copy(update={"quantization": {**held, "skipped": None}})
    return recorded == expected
