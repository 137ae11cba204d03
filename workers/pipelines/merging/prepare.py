"""A merge of any kind, planned by PEFT and transformers: what will be written, and the config that goes with it, before any
weight is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.adapter_changes import read_changes
from workers.pipelines.merging.folder import labelled_config, merged_config
from workers.pipelines.merging.placement import place, tied_groups
from workers.pipelines.merging.plan import Onto, ResolvedMerge, plan_tensors
from workers.pipelines.merging.prepared import Prepared, prepared, require_scales
from workers.pipelines.merging.stored_base import StoredBase, open_stored_base
from workers.pipelines.model.blueprint import blank_model, blank_model_of, read_blueprint, read_config
from workers.pipelines.model.classifier import Classes, configure
from workers.pipelines.model.device import DTYPES, DtypeName, dtype_name
from workers.pipelines.model.packed import quantised_names
from workers.pipelines.model.precision import dtypes_in


def prepare(
    base: Path,
    adapter: Path,
    *,
    classes: Classes | None,
    onto: Onto,
    dtype: DtypeName | None,
    recipe: QuantizationRecipe | None,
) -> Prepared:
    """Plan the merge of the adapter in one folder into the base in another.

    `dtype` None: each tensor keeps its own. `recipe` is the training's, or that of a base stored in 4 bits.
    Raises PipelineError if it can't be done exactly.
    """
    stored = open_stored_base(base)
    model = blank_model(base, classes)
    target = _target(base, model, stored, classes, onto, dtype, recipe)
    shapes = {name: stored.shape(name) for name in stored.weight_names()}
    for name in stored.packed:
        if name in target.transposed:
            shapes[name] = shapes[name][::-1]
    placement = place(model, shapes)
    changes = read_changes(model, adapter)
    require_scales(adapter, changes)
    written, untied = plan_tensors(stored, placement, changes, target)
    named: DtypeName = dtype or target.stored
    labelled = None
    if classes is not None:
        labelled = labelled_config(configure(read_config(base), classes), type(blank_model(base, classes)).__name__)
    config = merged_config(
        base,
        dtype=named if dtype is not None or stored.packed else None,
        untied=bool(untied),
        vocabulary=changes.vocabulary,
        labelled=labelled,
    )
    _require_untied(base, config, classes, untied)
    return prepared(base, adapter, stored, changes, written, target, config=config, dtype=named)


def _target(
    base: Path,
    model: Any,
    stored: StoredBase,
    classes: Classes | None,
    onto: Onto,
    dtype: DtypeName | None,
    recipe: QuantizationRecipe | None,
) -> ResolvedMerge:
    trained: dict[str, Any] = {}
    quantised: frozenset[str] = frozenset()
    transposed: frozenset[str] = frozenset()
    if onto == "dequantized" and recipe is not None:
        blueprint = read_blueprint(base, classes)
        transposed = frozenset(f"{name}.weight" for name in blueprint.conv1d_names)
        trained = {
            name: wanted
            for name, wanted in dtypes_in(model, DTYPES[recipe.compute_dtype]).items()
            if not any(f"{name}.".startswith(f"{module}.") for module in blueprint.head)
        }
        if not stored.packed:
            quantised = frozenset(f"{name}.weight" for name in quantised_names(base, recipe, classes))
            transposed &= quantised
    return ResolvedMerge(
        onto=onto,
        dtype=dtype,
        stored=dtype_name(read_config(base).dtype),
        recipe=recipe,
        quantised=quantised,
        transposed=transposed,
        precisions={} if dtype is None else dtypes_in(model, DTYPES[dtype]),
        trained=trained,
        drops_unused=classes is not None,
    )


def _require_untied(base: Path, config: dict[str, Any], classes: Classes | None, untied: list[str]) -> None:
    """Raise PipelineError if the merged config would tie weights again that are untied now."""
    if not untied:
        return
    made = type(read_config(base)).from_dict(config)
    if classes is not None:
        configure(made, classes)
    tied = {name for group in tied_groups(blank_model_of(made, classes)) for name in group}
    if again := sorted(tied.intersection(untied)):
        raise PipelineError(
            FailureReason.ADAPTER,
            f"The adapter can't be merged exactly: {again[0]} is tied to a weight that is adapted in another way, and the"
            " model's config has no word that unties them; serve the adapter on its base.",
        )
