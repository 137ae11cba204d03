"""From the options of a training to the LoRA configuration of its adapter: real numbers and real names of modules."""

from __future__ import annotations

from collections.abc import Sequence

from sdk.lora.experts import stacked_targets
from sdk.lora.name_ends import NameEnds
from sdk.lora.targets import TargetsError, resolve_targets
from sdk.lora.variants import UnfitOption, unfit_beside_parameters, unfit_beside_targets, unfit_variant
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.training import TrainingSpec, clash_of
from workers.pipelines.data.examples import Example
from workers.pipelines.data.objective import Objective
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.model.blueprint import Blueprint


def lora_config(
    spec: TrainingSpec, objective: Objective, blueprint: Blueprint, *, added: Sequence[int] = ()
) -> LoraConfig:
    """Return the meaning of a spec over a base; `added` are the ids of the tokens that it adds. Raises PipelineError ("targets", "spec") for options that the base
    can't be trained with.
    """
    # The objective may have been unknown until now.
    if said := clash_of(spec.model_copy(update={"objective": objective.name})):
        raise PipelineError(FailureReason.SPEC, f"{said}.")
    targets, parameters = _targets(spec, blueprint)
    _require_fit(unfit_variant(spec, blueprint.shapes, exact=True, tied=blueprint.tied))
    adapted = NameEnds(blueprint.linear_names).meant_by(targets)
    _require_fit(unfit_beside_targets(spec, adapted))
    # Linear modules in 4 bits are never stored transposed: a packed base's files have them this way.
    conv1d_names = blueprint.conv1d_names if blueprint.packing is None else frozenset()
    of_lora = {**spec.of_lora, **({"trainable_token_indices": _rows(spec, blueprint, added)} if added else {})}
    return LoraConfig(
        **of_lora,
        target_modules=targets,
        target_parameters=parameters,
        modules_to_save=sorted({*blueprint.head, *spec.saved_modules}),
        task_type=objective.traits.task_type,
        # GPT-2 stores its weights transposed, and PEFT must be told.
        fan_in_fan_out=not adapted.isdisjoint(conv1d_names),
    )


def _rows(spec: TrainingSpec, blueprint: Blueprint, added: Sequence[int]) -> list[int] | dict[str, list[int]]:
    """Return the tokens whose rows are trained: of the input embedding, and the added ones also of a head of its own."""
    embedded = sorted({*spec.tokens, *added})
    if blueprint.output is None or blueprint.tied:
        return embedded
    if f"{blueprint.output}.bias" in blueprint.shapes:
        raise PipelineError(
            FailureReason.SPEC,
            f"add_tokens can't be used: {blueprint.output} of this base has a bias, which PEFT leaves out where rows are trained;"
            " use another base.",
        )
    return {_last(blueprint.embedding): embedded, _last(blueprint.output): sorted(added)}


def _last(module: str) -> str:
    return module.rpartition(".")[2]


def require_added(spec: TrainingSpec, ids: Sequence[int], examples: Sequence[Example]) -> None:
    """Raise PipelineError ("data") for an added token that no row has: it would stay at the mean of the others."""
    absent = set(ids).difference(*(example.input_ids for example in examples))
    if absent:
        token = spec.added[ids.index(min(absent))]
        raise PipelineError(
            FailureReason.DATA,
            f"No row has the token {token!r}, which add_tokens adds; leave it out, or add rows that have it.",
        )


def require_tokens(spec: TrainingSpec, examples: Sequence[Example]) -> None:
    """Raise PipelineError ("data") for a token whose embedding is to be trained but that no row has: nothing would
    change it.
    """
    if not spec.tokens:
        return
    absent = set(spec.tokens).difference(*(example.input_ids for example in examples))
    if absent:
        raise PipelineError(
            FailureReason.DATA,
            f"No row has the token {min(absent)}, whose embedding trainable_token_indices is to train; leave it out, or add rows that"
            " have it.",
        )


def _targets(spec: TrainingSpec, blueprint: Blueprint) -> tuple[list[str], list[str]]:
    """Return the names of the modules, and of the stacked parameters, that are adapted."""
    kind, names = blueprint.config.model_type, blueprint.linear_names
    with named(FailureReason.TARGETS, "{error}", TargetsError):
        parameters = stacked_targets(spec.targets, names, blueprint.stacked_names, exclude=spec.exclude)
        left = (name for name in spec.targets.split(",") if name not in parameters)
        modules = ",".join(left) if parameters else spec.targets
        layers = None if parameters else spec.layers
        targets = resolve_targets(modules, kind, names, exclude=spec.exclude, layers=layers) if modules else []
    if parameters:
        _require_fit(unfit_beside_parameters(spec, parameters))
        if spec.dropout:
            raise PipelineError(
                FailureReason.SPEC,
                f"LoRA on stacked parameters ({', '.join(parameters)}) can't drop inputs; set dropout to 0, or leave these out of the targets.",
            )
    return targets, parameters


def _require_fit(found: UnfitOption | None) -> None:
    if found is not None:
        raise PipelineError(FailureReason.SPEC, f"{found.param} {found.said}.")
