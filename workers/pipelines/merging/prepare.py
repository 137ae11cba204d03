"""A prepared merge: what will be written, and the config that goes with it, before any weight is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE, base_module
from sdk.formats.canonical_json import digest_of
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, ModuleValues
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.data.digests import file_digest
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.blocks import Blocks
from workers.pipelines.merging.changes import Changes, LowRank, low_rank, read_changes
from workers.pipelines.merging.folder import labelled_config, merged_config
from workers.pipelines.merging.placement import place, tied_groups
from workers.pipelines.merging.plan import MergedTensor, Onto, ResolvedMerge, plan_tensors
from workers.pipelines.merging.stored_base import StoredBase, open_stored_base
from workers.pipelines.model.blueprint import blank_model, blank_model_of, read_blueprint, read_config
from workers.pipelines.model.classifier import Classes, configure
from workers.pipelines.model.device import DTYPES, DtypeName, dtype_name
from workers.pipelines.model.packed import quantised_names
from workers.pipelines.model.precision import dtypes_in

#: The version of the files written for a plan: a run of another release must not resume from them.
_FORMAT = 1


@dataclass(frozen=True)
class Prepared:
    """Everything that a merge must know before it reads weights."""

    base: StoredBase
    changes: Changes
    written: tuple[MergedTensor, ...]
    target: ResolvedMerge
    config: dict[str, Any]
    #: The precision in the merged model's config.
    dtype: DtypeName
    #: SHA-256 of the plan, by which a later run recognises its own files.
    digest: str

    def blocks(self) -> Blocks:
        """Return the object that computes the rows of the tensors."""
        return Blocks(self.base, self.changes, self.written, self.target.recipe)

    def adapted(self) -> Iterator[tuple[str, LowRank]]:
        """Yield the parameters and the products that are added to them."""
        for parameter, changes in self.changes.by_parameter.items():
            for change in changes:
                if isinstance(change, LowRank):
                    yield parameter, change


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
    said = {
        "format": _FORMAT,
        "tensors": [_described(each) for each in written],
        "changes": {name: [repr(change) for change in given] for name, given in changes.by_parameter.items()},
        "config": config,
        "recipe": None if target.recipe is None or onto == "original" else target.recipe.model_dump(mode="json"),
        "base": {file: _identity(base / file) for file in stored.headers},
        "adapter": {name: file_digest(adapter / name) for name in (CONFIG_FILE, WEIGHTS_FILE)},
    }
    return Prepared(stored, changes, tuple(written), target, config, named, digest_of(said))


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


def _described(written: MergedTensor) -> list[Any]:
    """Return a tensor's part of the plan's digest, including its parameters' changes."""
    plain = [getattr(written, each.name) for each in fields(written) if each.name not in ("grid", "windows")]
    windows = [
        [getattr(window, each.name) for each in fields(window) if each.name != "changes"] for window in written.windows
    ]
    return [*plain, asdict(written.grid), windows]


def _identity(path: Path) -> list[int]:
    """Return what distinguishes a base's file from another that replaced it."""
    said = path.stat()
    return [said.st_size, said.st_mtime_ns]


#: The budget for trying patterns on names: the largest adapters take a tenth of it.
_PATTERN_STEPS = 100_000_000


def require_scales(adapter: Path, changes: Changes) -> None:
    """Raise PipelineError ("adapter") if a module's scale is not α/r, or α/√r, with its config's values.

    PEFT derives a module's scale from patterns that may be expressions; if one is misread, the update has the wrong size,
    which the written bytes can't show. So it is computed a second time, from the adapter's own config and matrices, and
    doesn't use `sdk.lora.module_scales` on purpose.
    """
    config: dict[str, Any] = json.loads((adapter / CONFIG_FILE).read_text(encoding="utf-8"))
    alpha = config.get("lora_alpha")
    try:
        alphas = ModuleValues(config.get("alpha_pattern") or {}, 8 if alpha is None else alpha, Budget(_PATTERN_STEPS))
        for parameter, given in changes.by_parameter.items():
            for change in low_rank(given):
                if not _agrees(change, parameter, alphas, by_root=bool(config.get("use_rslora"))):
                    raise PipelineError(
                        FailureReason.ADAPTER,
                        f"The adapter can't be merged exactly: PEFT scales {change.module} by {change.scale:g}, which is not what"
                        f" {CONFIG_FILE} says of it; serve the adapter with the release of PEFT that it was trained with.",
                    )
    except (ExpressionError, BudgetError) as error:
        raise PipelineError(
            FailureReason.ADAPTER,
            f"The adapter's alpha_pattern can't be tried ({error}); push it again with: adapterctl push --expand-patterns.",
        ) from error


def _agrees(change: LowRank, parameter: str, alphas: ModuleValues[float], *, by_root: bool) -> bool:
    rank = len(range(*change.a.rows))
    plain = base_module(change.module)
    # A parameter without a module of its own is matched by its own name.
    names = (plain, f"{plain}.{parameter.rpartition('.')[2]}")
    wanted = (alphas.of(name) / (math.sqrt(rank) if by_root else rank) for name in names)
    return any(math.isclose(change.scale, scale, rel_tol=1e-9) for scale in wanted)
