"""The configuration of a combination: its modules, and a rank for each, with α = r, so that s is 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdk.errors import InvalidInput
from sdk.formats.adapter_files import base_module
from sdk.formats.peft_patterns import MAX_VALUE_CHARACTERS, MAX_VALUES
from sdk.lora.adapter_config import config_of, lora_of
from sdk.lora.combining import is_single_expert
from sdk.lora.experts import OwnedParameters
from sdk.lora.module_scales import ModuleScales
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import LoraConfig
from workers.pipelines.combining.parents import OpenParent
from workers.pipelines.errors import PipelineError

#: Keys by which a configuration chooses among the modules that its targets name.
_CHOOSING = ("exclude_modules", "layers_to_transform", "layers_pattern")
#: The most names that a configuration may list.
_MOST_NAMES = 4096


def settle_config(
    parents: Sequence[OpenParent], ranks: Mapping[str, int], experts: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the config of a combination whose modules have these ranks, and the ranks to which A and B must be padded.

    Ranks that differ go into `rank_pattern` and `alpha_pattern`. Ranks are raised if the patterns would match other
    modules too, or would be too many, for several stacked parameters of a module, which files don't distinguish, and
    for single experts. Raises PipelineError.
    """
    selection = _selection(parents, list(ranks))
    tallest: dict[str, int] = {}
    for module, rank in ranks.items():
        tallest[base_module(module)] = max(rank, tallest.get(base_module(module), 1))
    level = {module: tallest[base_module(module)] for module in ranks}
    highest = max(level.values())
    even = dict.fromkeys(level, highest)
    # PEFT joins single experts into one matrix, which has one rank.
    for wanted in (even,) if any(map(is_single_expert, level)) else (level, even):
        config = {**_config(parents, highest), **selection}
        pattern = _pattern(wanted, highest, _record(config))
        if len(pattern) > MAX_VALUES or sum(map(len, pattern)) > MAX_VALUE_CHARACTERS:
            continue
        config |= {"rank_pattern": pattern, "alpha_pattern": dict(pattern)}
        if _says(_record(config), wanted, experts):
            return config, wanted
    raise PipelineError(
        FailureReason.ADAPTER,
        "The parents adapt the same modules in different ways, some as modules and some as parameters, and no configuration says "
        "both; combine versions that agree in it.",
    )


def _config(parents: Sequence[OpenParent], rank: int) -> dict[str, Any]:
    loras = [parent.lora for parent in parents]
    record = LoraConfig(
        rank=rank,
        alpha=float(rank),
        dropout=0.0,
        # The selection replaces it.
        target_modules=["-"],
        target_parameters=sorted({name for lora in loras for name in lora.target_parameters}),
        task_type=next((lora.task_type for lora in loras if lora.task_type is not None), None),
    )
    # PEFT corrects a flag that does not fit the layer; if the parents differ, the harmless value is used.
    transposed = all(lora.fan_in_fan_out for lora in loras)
    found = config_of(record, base_name="", base_revision=None, fan_in_fan_out=transposed)
    return {**found, "base_model_name_or_path": None, "lora_bias": loras[0].lora_bias}


def _selection(parents: Sequence[OpenParent], modules: Sequence[str]) -> dict[str, Any]:
    """Return the keys that choose the modules: the parents' if they agree, or their names together, or every module's
    whole name.
    """
    keys = ("target_modules", *_CHOOSING)
    said = [{key: _sorted(parent.config.get(key)) for key in keys} for parent in parents]
    if all(one == said[0] for one in said):
        return {**said[0], "target_modules": said[0]["target_modules"] or []}
    if not any(one[key] for one in said for key in _CHOOSING):
        return {"target_modules": sorted({name for parent in parents for name in parent.lora.target_modules})}
    names = sorted({base_module(module) for module in modules if not _is_parameter(module, parents)})
    if len(names) > _MOST_NAMES:
        raise PipelineError(
            FailureReason.ADAPTER,
            f"The parents choose their modules differently and have {len(names)} of them, of which a configuration lists at most "
            f"{_MOST_NAMES}; combine versions with the same target_modules, exclude_modules and layers_to_transform.",
        )
    return {"target_modules": names}


def _is_parameter(module: str, parents: Sequence[OpenParent]) -> bool:
    """Whether a module's A and B belong to one of its parameters; all parents agree on this."""
    adapters = (parent.adapter for parent in parents)
    return any(module in adapter.modules and adapter.parameters_of(module) for adapter in adapters)


def _pattern(ranks: Mapping[str, int], highest: int, lora: LoraConfig) -> dict[str, int]:
    """Return the ranks below the highest, by the last part of their modules' names if that is unambiguous."""
    parameters = OwnedParameters(lora.target_parameters, lora.target_modules)
    plain = {base_module(module): rank for module, rank in ranks.items()}
    named = {name: rank for module, rank in plain.items() for name in parameters.of(module) or [module]}
    alike: dict[str, set[int]] = {}
    for name, rank in named.items():
        alike.setdefault(name.rpartition(".")[2], set()).add(rank)
    found = {}
    for name, rank in named.items():
        last = name.rpartition(".")[2]
        found[last if len(alike[last]) == 1 else name] = rank
    return {name: rank for name, rank in sorted(found.items()) if rank != highest}


def _says(lora: LoraConfig, ranks: Mapping[str, int], experts: Mapping[str, int]) -> bool:
    """Whether a record gives each module its rank and the scale 1."""
    scales = ModuleScales(lora)
    for module, rank in ranks.items():
        found = scales.of(module, width=rank * experts[module])
        if found is None or (found.said, found.scale, found.experts) != (rank, 1.0, experts[module]):
            return False
    return True


def _record(config: Mapping[str, Any]) -> LoraConfig:
    try:
        return lora_of(config)
    except InvalidInput as error:
        raise PipelineError(FailureReason.ADAPTER, f"The combination has no configuration: {error.message}.") from error


def _sorted(value: Any) -> Any:
    """Return a value of a configuration in normal form: the order of names doesn't matter, and empty is null."""
    if isinstance(value, list):
        return sorted(set(value)) or None
    return value if value not in ("", {}) else None
