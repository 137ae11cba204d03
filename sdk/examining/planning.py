"""A plan of a training for any caller: this module finds the base's config and shapes, `sdk.lora.planning` does the
rest.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sdk.api.workers import WorkersAPI
from sdk.errors import InvalidBase, InvalidInput, InvalidTargets, NotFound, TimedOut, Unavailable
from sdk.formats.base_files import CONFIG_FILE, positions_of
from sdk.given_values import build
from sdk.lora.planning.blueprint import ModelShapes, UnknownFamilyError, blueprint_of
from sdk.lora.planning.cards import CardError, card_of
from sdk.lora.planning.families import ConfigError
from sdk.lora.planning.job_forecasts import stored_width
from sdk.lora.planning.plan import plan_of
from sdk.lora.planning.recommending import Asked, task_options
from sdk.lora.stored_quantization import StoredQuantizationError, require_method, stored_recipe
from sdk.lora.targets import TargetsError
from sdk.objects import Registry
from sdk.pushing.base_folder import read_base_config, read_shapes
from sdk.pushing.given_base import GivenBase, files_here, given_base
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.planning import Plan, PlanChoices, PlanMethod
from sdk.schemas.training import TrainingSpec
from sdk.validation import check_options
from sdk.worker_program import missing_libraries, run_program

_CHOICES = PlanChoices.model_fields
_PROGRAM = "workers.pipelines.model.shapes"
_LIBRARIES = ("torch", "transformers")
#: Importing them takes seconds, and up to a minute from a cold disk.
_TIMEOUT_S = 180.0


def given_to_plan(base: str | Path, base_namespace: str | None, published: bool | None) -> GivenBase:
    """Return the base of a plan: a registered one, or a folder or `config.json`, as a path. Raises InvalidInput."""
    given = Path(base) if isinstance(base, str) and base.endswith(".json") else base
    return given_base(given, base_namespace, published)


def plan_training(
    registry: Registry | None,
    base: str | Path,
    *,
    base_namespace: str | None = None,
    published: bool | None = None,
    as_given: bool = False,
    **options: Any,
) -> Plan:
    """Return the plan of a training over a base; the registry is asked only if the base is not a folder or a config.

    The options are those of `PlanChoices` and of the training.
    With `as_given` it is the plan of a job with exactly these options; only its worker's choices are made.

    Raises InvalidInput for options, InvalidTargets, InvalidBase for a config that lacks a number, NotFound, Unavailable
    for a family whose shapes are unknown.
    """
    choices = build(PlanChoices, **{name: value for name, value in options.items() if name in _CHOICES})
    of_training = {name: value for name, value in options.items() if name not in _CHOICES}
    _require_card(choices.gpu)
    # Full fine-tuning has no spec of its own: the plan's notes name the settings that it doesn't use.
    kind = {} if choices.method in (None, "full") else {"method": choices.method}
    spec = build(TrainingSpec, **{**task_options(choices.task), **of_training, **kind})
    asked_over = given_to_plan(base, base_namespace, published)
    config, shapes = _config_and_shapes(registry, asked_over)
    given = frozenset(of_training) | (set() if choices.method is None else {"method"})
    method = choices.method or (spec.method if as_given else None)
    recipe = _stored(base, config, shapes, spec, method)
    if recipe is not None:
        method, stored = "qlora", {"quant_type": recipe.type, "double_quant": recipe.double_quant}
        spec = spec.model_copy(update=stored)
    # A submit uses defaults for options that are not given, so a dry run prints them too.
    default = as_given and spec.max_length == TrainingSpec.model_fields["max_length"].default
    length = _length(spec, config, given="max_length" in given and not default)
    asked = Asked(
        **dict(choices) | {"method": method},
        spec=spec.model_copy(update={"max_length": length}),
        given=given,
        as_given=as_given,
        width=stored_width(config),
        stored=recipe,
    )
    blueprint = _blueprint(base, config, shapes)
    try:
        plan = plan_of(blueprint, asked)
    except TargetsError as error:
        raise InvalidTargets(str(error), param="targets") from error
    if plan.method != "full":
        check_options(asked.spec.model_copy(update={"method": plan.method}), blueprint.tensors, config)
    # A folder is planned without the registry.
    learnt = [] if registry is None or asked_over.folder is not None else WorkersAPI(registry.transport).devices()
    return plan.model_copy(update={"learnt": learnt})


def _stored(
    base: str | Path,
    config: dict[str, Any],
    shapes: dict[str, list[int]],
    spec: TrainingSpec,
    method: PlanMethod | None,
) -> QuantizationRecipe | None:
    """Return how a base is stored in 4 bits, None for one that isn't.

    Raises InvalidBase and InvalidInput like a training.
    """
    wanted: Literal["qlora", "lora"] = "qlora" if method in (None, "qlora") else "lora"
    try:
        recipe = stored_recipe(config, shapes)
        require_method(recipe, wanted, spec.quant_type, spec.double_quant)
    except StoredQuantizationError as error:
        refused = InvalidBase if error.param == "base" else InvalidInput
        raise refused(f"base {base} {error}", param=error.param) from error
    return recipe


def _require_card(gpu: str | None) -> None:
    """Raise InvalidInput for anything that is not a card, before looking for a base."""
    try:
        if gpu is not None:
            card_of(gpu)
    except CardError as error:
        raise InvalidInput(str(error), param="gpu") from error


def _blueprint(base: str | Path, config: dict[str, Any], shapes: dict[str, list[int]]) -> ModelShapes:
    try:
        return blueprint_of(config, shapes)
    except ConfigError as error:
        raise InvalidBase(
            f"the config of {base} {error}; correct it, or download the base again", param="base"
        ) from error
    except UnknownFamilyError as error:
        shapes = _shapes_by_the_worker(error, config)
    try:
        return replace(blueprint_of(config, shapes), shapes_from="model")
    except ConfigError as error:
        raise InvalidBase(f"the config of {base} {error}; give the folder with its weights", param="base") from error


def _shapes_by_the_worker(unknown: UnknownFamilyError, config: dict[str, Any]) -> dict[str, list[int]]:
    """Have a worker's program build the model without its weights. Raises Unavailable, InvalidBase if it isn't a causal
    model.
    """
    advice = "give the folder with its weights as well, whose headers say the shapes: adapterctl plan --base ./FOLDER"
    if missing_libraries(_LIBRARIES):
        raise Unavailable(f"{unknown}; {advice}, or run: pip install 'adapterctl[worker]'")
    none = f"{unknown}, and the worker's libraries built no model of it; {advice}"
    try:
        answer = run_program(_PROGRAM, asked=json.dumps(config).encode(), timeout_s=_TIMEOUT_S, late=none)
    except TimedOut:
        answer = None
    if answer is None:
        raise Unavailable(none)
    if "refused" in answer:
        raise InvalidBase(f"{unknown}; {answer['refused']}", param="base")
    return {str(name): list(map(int, shape)) for name, shape in answer["shapes"].items()}


def _config_and_shapes(registry: Registry | None, base: GivenBase) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return the config of a base, and the shapes in its files if they are available. Raises NotFound, InvalidBase."""
    if (path := base.folder) is not None:
        if path.is_dir():
            return read_shapes(path)
        if not path.is_file():
            raise NotFound(f"there is no folder and no file {path}; check the path of the base", param="base")
        return read_base_config(path), {}
    if registry is None:
        raise InvalidInput(f"{base} is neither a folder nor a {CONFIG_FILE}; give one of these", param="base")
    view = base.find(registry.transport)
    config = view.config or {}
    try:
        blueprint_of(config)
    except UnknownFamilyError:
        folder = files_here(registry.cache, view.fingerprint, view)
        return config, {} if folder is None else read_shapes(folder)[1]
    except ConfigError:
        # The plan reports it.
        pass
    return config, {}


def _length(spec: TrainingSpec, config: dict[str, Any], *, given: bool) -> int:
    """Return the length of rows in tokens: at most the number of the base's positions.

    Raises InvalidInput for a longer one.
    """
    positions = positions_of(config) or spec.max_length
    if given and spec.max_length > positions:
        raise InvalidInput(
            f"max_length is {spec.max_length}, but the base has only {positions} positions; give {positions} or less",
            param="max_length",
        )
    return min(spec.max_length, positions)
