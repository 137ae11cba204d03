"""Expressions in an `adapter_config.json`, replaced with the names of the modules that they match in the adapter.

>>> config = {"r": 8, "target_modules": r".*\\.(q|v)_proj", "rank_pattern": {r".*\\.v_.*": 4}}
>>> expanded = expand(config, ["layers.0.q_proj", "layers.0.v_proj"])
>>> expanded["target_modules"], expanded["rank_pattern"]
(['layers.0.q_proj', 'layers.0.v_proj'], {'v_proj': 4})
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdk.errors import InvalidInput
from sdk.formats.adapter_files import base_module, lora_key
from sdk.formats.expressions import Automaton, Budget, BudgetError, ExpressionError
from sdk.formats.peft_patterns import SELECTION_KEYS, VALUE_KEYS, ModuleValues, Targets, is_name, unfit
from sdk.lora.tensors import read_tensors

#: The most steps for all patterns of a config: some three seconds.
_STEPS = 20_000_000
#: PEFT takes this for all linear modules, not for an expression.
_ALL_LINEAR = "all-linear"
#: Where PEFT takes a module's rank or alpha from if no pattern matches the module.
_DEFAULTS = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}
#: The most modules that a message names.
_MOST_NAMED = 5


def adapted_modules(weights: Path) -> list[str]:
    """Return the modules that a file of LoRA weights adapts, sorted, by their names in the base.

    Raises VerificationFailed.
    """
    found = map(lora_key, read_tensors(weights))
    return sorted({base_module(key.module) for key in found if key and key.part in ("A", "embedding_A")})


def expressions_of(config: Mapping[str, Any]) -> list[str]:
    """Return the keys of a config whose values hold expressions."""
    return [key for key in (*SELECTION_KEYS, *VALUE_KEYS) if _holds_expressions(key, config.get(key))]


def _holds_expressions(key: str, value: Any) -> bool:
    if key in SELECTION_KEYS:
        return isinstance(value, str)
    return isinstance(value, dict) and not all(map(is_name, value))


def matches(key: str, pattern: str, modules: Sequence[str]) -> str:
    """Return a clause that says which modules of an adapter a pattern matches."""
    budget = Budget(_STEPS)
    try:
        automaton = Automaton([pattern], after_dot=key in VALUE_KEYS)
        found = [module for module in modules if automaton.first(module, budget) is not None]
    except ExpressionError as error:
        return f"which of the adapter's modules it matches can't be determined: {error}"
    except BudgetError:
        return "working out which of the adapter's modules it matches would take too long"
    if not found:
        return "it matches none of the adapter's modules"
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return f"of the adapter's modules it matches {', '.join(found[:_MOST_NAMED])}{more}"


def expand(config: Mapping[str, Any], modules: Collection[str]) -> dict[str, Any]:
    """Return a config without expressions that means the same to PEFT, for an adapter of these modules.

    Modules are named as the base names them. The result is checked: with it, PEFT adapts the same modules with the
    same ranks and alphas. Raises InvalidInput if that is not possible.
    """
    held = expressions_of(config)
    if not held:
        return dict(config)
    budget = Budget(_STEPS)
    try:
        return _expanded(config, sorted(modules), held, budget)
    except ExpressionError as error:
        raise InvalidInput(
            f"one of the patterns of {', '.join(held)} can't be turned into names: {error}; save the adapter with lists of names",
            param="path",
        ) from error
    except BudgetError as error:
        raise InvalidInput(
            f"the patterns of {', '.join(held)} take too long to turn into names; save the adapter with lists of names",
            param="path",
        ) from error


def _expanded(config: Mapping[str, Any], modules: list[str], held: Sequence[str], budget: Budget) -> dict[str, Any]:
    # PEFT then adapts every linear module, so these are all of them.
    everything = str(config.get("target_modules")).lower() == _ALL_LINEAR
    plain = {**config, "target_modules": modules} if everything else dict(config)
    targets = Targets(plain, budget)
    meant = [module for module in modules if targets.means(module)]
    if not meant or (len(meant) < len(modules) and not config.get("target_parameters")):
        odd = next(module for module in modules if module not in meant) if modules else "none"
        raise InvalidInput(
            f"the patterns of {', '.join(held)} do not match all modules for which the adapter has weights, such as {odd}; "
            "PEFT would not load these: save the adapter again from the trained model",
            param="path",
        )
    expanded = dict(config)
    if any(key in held for key in SELECTION_KEYS):
        expanded["target_modules"] = meant
        if "exclude_modules" in held:
            # Excluded modules have no weights, and are not among the names.
            expanded["exclude_modules"] = None
    for key in VALUE_KEYS:
        if key in held:
            expanded[key] = _values(key, config, modules, budget)
    _read_back(config, expanded, modules, meant, budget)
    return expanded


def _values(key: str, config: Mapping[str, Any], modules: Iterable[str], budget: Budget) -> dict[str, Any]:
    """Return the ranks or alphas that differ from the default, by module.

    All modules whose names have the same last part are entered by that part if they have the same value, else each by
    its whole name.
    """
    default = config.get(_DEFAULTS[key])
    values = ModuleValues(config[key], default, budget)
    by_end: dict[str, dict[str, Any]] = {}
    for module in modules:
        by_end.setdefault(module.rpartition(".")[2], {})[module] = values.of(module)
    found = {}
    for end, group in by_end.items():
        alike = {end: next(iter(group.values()))} if len(set(group.values())) == 1 else group
        found.update({name: value for name, value in alike.items() if value != default})
    return dict(sorted(found.items()))


def _read_back(
    config: Mapping[str, Any], expanded: Mapping[str, Any], modules: list[str], meant: list[str], budget: Budget
) -> None:
    """Raise InvalidInput unless a config of names means what the one with expressions meant."""
    if too_many := next(unfit(expanded), None):
        raise InvalidInput(
            f"{too_many.key} can't be written as names, since {too_many.reason}; train with fewer different ranks or alphas",
            param="path",
        )
    now = Targets(expanded, budget)
    same = all(now.means(module) is (module in set(meant)) for module in modules)
    for key in VALUE_KEYS:
        default = config.get(_DEFAULTS[key])
        before, after = (ModuleValues(each.get(key) or {}, default, budget) for each in (config, expanded))
        same = same and all(before.of(module) == after.of(module) for module in modules)
    if not same:
        raise InvalidInput(
            "some module names of the adapter are the ends of others, so a list of names can't replace its patterns; "
            "save the adapter without patterns",
            param="path",
        )
