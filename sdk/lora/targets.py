"""Which modules of a base a training adapts: presets, names and patterns, resolved against the model or against its files.

A preset's modules depend on the model: the linear modules of its layers, and which of these are in attention.

>>> names = [f"model.layers.0.{end}" for end in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")]
>>> resolve_targets("qv", "llama", names), resolve_targets("all-linear", "llama", names)
(['q_proj', 'v_proj'], ['q_proj', 'up_proj', 'v_proj'])
>>> resolve_targets("all-linear", "llama", names, exclude=r".*\\.mlp\\..*")
['model.layers.0.self_attn.q_proj', 'model.layers.0.self_attn.v_proj']
>>> unfit_targets("q_proj,nope", {"model.layers.0.self_attn.q_proj.weight": [64, 64]})
"has no linear module 'nope'; name some of these as targets: q_proj"
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from sdk.formats.option_texts import write_numbers
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, Targets
from sdk.lora.linear_modules import Layered, in_attention, is_text, layer_of, linear_modules, reads_queries_or_values
from sdk.lora.name_ends import NameEnds
from sdk.schemas.option_types import TARGET_PRESETS, is_pattern

#: `model_type` of a config to presets with a meaning other than what the model's layers suggest.
#: BERT-like models use the same name for attention's last matrix and both of the MLP's; common practice leaves it out
#: of attention.
_BERT = {"attention": ("query", "key", "value"), "all-linear": ("query", "key", "value", "dense")}
SPECIAL_CASES: Mapping[str, Mapping[str, Sequence[str]]] = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT}

#: Names in which presets are written if they mean exactly the preset's modules: checkpoints and digests of adapters
#: contain them.
_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_MLP = ("dense_h_to_4h", "dense_4h_to_h")
_CUSTOMARY: Mapping[str, Sequence[str]] = {
    "gpt_neox": ("query_key_value", "attention.dense", *_MLP),
    "falcon": ("query_key_value", "self_attention.dense", *_MLP),
    "bloom": ("query_key_value", "self_attention.dense", *_MLP),
}

#: State-space models use these weights without calling the modules: PEFT refuses `out_proj`, and no gradient reaches
#: `dt_proj`.
_STATE_SPACE = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
_NOT_CALLED = ("out_proj", "dt_proj")

#: The budget for a pattern on all modules of a model: a letter of a name takes about one step, and the largest models
#: have a thirtieth of this. Using it up takes some 0.3 s.
_STEPS = 2_000_000
#: No model has as many linear modules besides those of experts, but a claimed one may: planning for them takes seconds.
_MOST_MODULES = 16_384
#: The most names in a message, and the most of those that there are to choose from.
_MOST_NAMED, _MOST_OFFERED = 5, 20


class TargetsError(ValueError):
    """Targets mean nothing in the model, or something that can't be trained; the message says what there is."""


class NothingMeantError(TargetsError):
    """A preset or a pattern matches no module."""


def resolve_targets(
    targets: str,
    model_type: str,
    linear_names: Sequence[str],
    *,
    exclude: str | None = None,
    layers: Collection[int] | None = None,
) -> list[str]:
    """Return the sorted names of the modules that a preset, a comma-separated list or a pattern means, without excluded
    ones, and only those in `layers`, which are numbers.

    `linear_names` are the full names of the model's linear modules, without its output head. Names are the usual ones,
    or as short as they can be to mean only these modules. They are whole names for a pattern, if layers are chosen or
    something is excluded, or if the model has a part for images or sounds: text trains the text part alone. Raises
    TargetsError if that leaves none, or if a name means nothing, or a module in another part, or one that LoRA does not
    reach.
    """
    text = [name for name in linear_names if is_text(name) and not _is_bypassed(name, model_type)]
    ends = NameEnds(linear_names)
    asked = f"the preset {targets!r}" if targets in TARGET_PRESETS else "the targets"
    if targets in TARGET_PRESETS:
        wanted = _of_preset(targets, model_type, text)
        if not wanted:
            raise NothingMeantError(
                f"{asked} matches no linear module of this {model_type} model; name some of these as targets: {_offered(text)}."
            )
    elif is_pattern(targets):
        wanted = _chosen(targets, linear_names, "target_modules")
        if not wanted:
            raise NothingMeantError(
                f"the pattern {targets!r} matches no linear module of this {model_type} model (it must match a whole name); there"
                f" are: {_offered(text)}."
            )
    else:
        missing = [repr(name) for name in targets.split(",") if not ends.has(name)]
        if missing:
            raise TargetsError(
                f"{_named(missing)} among the targets match no linear module of this {model_type} model;"
                f" name some of these as targets: {_offered(text)}."
            )
        meant = ends.meant_by(targets.split(","))
        wanted = [full for full in linear_names if full in meant]
    left = _without(wanted, exclude)
    if not left:
        raise TargetsError(f"exclude leaves none of the {len(wanted)} modules that {asked} match; exclude fewer.")
    if layers is not None:
        left = _of_layers(left, layers)
    bypassed = sorted(name for name in left if _is_bypassed(name, model_type))
    if bypassed:
        raise TargetsError(
            f"{asked} include {_unreached(bypassed, model_type)}; name some of these as targets: {_offered(text)}."
        )
    foreign = sorted(set(left) - set(text))
    if foreign:
        raise TargetsError(f"{asked} include {_untrained(foreign)}.")
    if exclude is not None or layers is not None or is_pattern(targets):
        return sorted(set(left))
    if targets in TARGET_PRESETS:
        special = SPECIAL_CASES.get(model_type, {}).get(targets)
        if special:
            return sorted(special)
        return _customary(model_type, set(left), ends) or _shortest(left, ends)
    return sorted(set(targets.split(",")))


def unfit_targets(
    targets: str, tensors: Mapping[str, Sequence[int]], *, model_type: str = "", exclude: str | None = None
) -> str | None:
    """Say why a base can't be trained with these targets, given its files' shapes by name; the text follows the base's
    name. None if it can be.

    A library may use other prefixes than the files, and may join experts under other names: what depends on these is
    left to `resolve_targets`, which gets the model's own names.
    """
    names = linear_modules(tensors)
    if not names:
        return None
    try:
        require_plannable(names)
    except TargetsError as error:
        return _untrainable(error)
    if targets in TARGET_PRESETS or (is_pattern(targets) and exclude is None):
        try:
            resolve_targets(targets, model_type, names)
        except NothingMeantError as error:
            # The model's own names may be others.
            return None if is_pattern(targets) else _untrainable(error)
        except TargetsError as error:
            return _untrainable(error)
    if targets in TARGET_PRESETS or is_pattern(targets):
        return None
    if exclude is not None and (stacked := stacked_in_files(targets, tensors, names)):
        return f"can't be trained with these options: {not_excluded(stacked)}"
    if any("experts" in name.split(".") for name in tensors):
        return None
    # Only the last part is checked against the files.
    last_parts = set(map(_last_part, names))
    unknown = [name for name in targets.split(",") if _last_part(name) not in last_parts]
    if unknown:
        have = _listed(sorted(set(map(_last_part, filter(is_text, names)))))
        return (
            f"has no linear module {', '.join(map(repr, unknown[:_MOST_NAMED]))}; name some of these as targets: {have}"
        )
    wanted = set(targets.split(","))
    meant = NameEnds(name for name in names if _is_bypassed(name, model_type)).meant_by(wanted)
    bypassed = [name for name in names if name in meant]
    if bypassed and exclude is None:
        return f"can't be trained with these options: the targets include {_unreached(bypassed, model_type)}; leave them out"
    foreign = [name for name in names if _last_part(name) in wanted and not is_text(name)]
    if foreign and exclude is None:
        return f"can't be trained with these options: the targets include {_untrained(foreign)}"
    return None


def require_plannable(linear_names: Sequence[str]) -> None:
    """Raise TargetsError for more linear modules than any model has, by the shapes of a base."""
    if len(linear_names) > _MOST_MODULES:
        raise TargetsError(
            f"the base has {len(linear_names)} linear modules by the shapes that it was added with, and no model has more than"
            f" {_MOST_MODULES}; add it again with its own."
        )


def _untrainable(error: TargetsError) -> str:
    return f"can't be trained with these options: {str(error).rstrip('.')}"


def not_excluded(stacked: Sequence[str]) -> str:
    """Say why nothing can be excluded if targets mean stacked parameters."""
    return (
        f"exclude takes modules away, and {_named(stacked)} of the targets are stacked parameters; leave exclude out, and name"
        " what to train layer by layer, such as 'layers.1.mlp.experts.down_proj'"
    )


def mean_all(
    targets: str, exclude: str | None, names: Collection[str], *, layers: Collection[int] | None = None
) -> bool:
    """Whether targets that are not a preset match each of these modules, and `exclude` matches none of them; names are
    whole, and in exactly the given `layers`.
    """
    if layers is not None and {layer_of(name) for name in names} != set(layers):
        return False
    try:
        allowed = set(names)
        if is_pattern(targets):
            allowed = set(_chosen(targets, sorted(names), "target_modules"))
        elif targets not in TARGET_PRESETS:
            allowed = NameEnds(names).meant_by(targets.split(","))
        return bool(names) and allowed == set(names) and not (exclude and _excluded(sorted(names), exclude))
    except TargetsError:
        return False


def short_names(linear_names: Sequence[str]) -> list[str]:
    """Return the distinct last parts of module names, with one more part if a name occurs in two places."""
    last: dict[str, set[str]] = {}
    for name in linear_names:
        parts = name.split(".")
        last.setdefault(parts[-1], set()).add(".".join(p for p in parts[-2:] if not p.isdigit()))
    return sorted(name for short, longer in last.items() for name in ({short} if len(longer) == 1 else longer))


def _of_preset(preset: str, model_type: str, text: Sequence[str]) -> list[str]:
    special = SPECIAL_CASES.get(model_type, {}).get(preset)
    if special:
        meant = NameEnds(text).meant_by(special)
        return [name for name in text if name in meant]
    layered = Layered.of(text)
    if preset == "all-linear":
        return layered.names(layered.by_rest)
    attention = in_attention(layered.by_rest)
    return layered.names(attention if preset == "attention" else set(filter(reads_queries_or_values, attention)))


def _customary(model_type: str, wanted: set[str], ends: NameEnds) -> list[str]:
    """Return the usual names of such a model's modules if some of them mean exactly these; none otherwise."""
    meant = {name: ends.meant_by([name]) for name in _CUSTOMARY.get(model_type, _LLAMA)}
    within = {name: found for name, found in meant.items() if found and found <= wanted}
    return sorted(within) if set().union(*within.values()) == wanted else []


def _shortest(wanted: Collection[str], ends: NameEnds) -> list[str]:
    """Return the shortest ends of names that mean exactly these modules: one for each place in a layer, or else whole
    names.

    `ends` are those of all modules, of which `wanted` are some. An end of a place means all of its modules, so the rest
    follows from how many it means.
    """
    every = NameEnds(wanted)
    found: list[str] = []
    for rest, names in Layered.of(list(wanted)).by_rest.items():
        exact = _shortest_end(rest, partial(_means, ends, count=len(set(names))))
        within = exact or _shortest_end(rest, lambda end: ends.count(end) == every.count(end))
        found += names if within is None else [within]
    return sorted(set(found))


def _means(ends: NameEnds, end: str, *, count: int) -> bool:
    return ends.count(end) == count


def _shortest_end(name: str, fits: Callable[[str], bool]) -> str | None:
    """Return the shortest end of a dotted name that fits, None if none does; whatever is longer than one that fits also
    fits.
    """
    starts = [0, *(at + 1 for at, letter in enumerate(name) if letter == ".")]
    number = bisect_left(starts, True, key=lambda start: not fits(name[start:]))
    return name[starts[number - 1] :] if number else None


def _without(names: Sequence[str], exclude: str | None) -> list[str]:
    """Return the names that are not excluded, by a list of names or a pattern. Raises TargetsError if it excludes none."""
    if exclude is None:
        return list(names)
    out = set(_excluded(names, exclude))
    if not out:
        raise TargetsError(f"exclude, {exclude!r}, excludes none of the modules that the targets match; correct it.")
    return [name for name in names if name not in out]


def _of_layers(names: Sequence[str], layers: Collection[int]) -> list[str]:
    """Return the modules of some layers. Raises TargetsError for a layer that has none."""
    of = {name: layer_of(name) for name in names}
    numbers = sorted({number for number in of.values() if number is not None})
    layers = frozenset(layers)
    if absent := sorted(layers - set(numbers)):
        have = f"{write_numbers(numbers)} have" if numbers else "none has"
        raise TargetsError(
            f"layers_to_transform names the layer {absent[0]}, in which the targets match no module; of the layers {have} some."
        )
    return [name for name, number in of.items() if number in layers]


def _excluded(names: Sequence[str], exclude: str) -> list[str]:
    if is_pattern(exclude):
        return _chosen(exclude, names, "exclude_modules")
    meant = NameEnds(names).meant_by(exclude.split(","))
    return [name for name in names if name in meant]


def _chosen(pattern: str, names: Sequence[str], key: str) -> list[str]:
    try:
        chosen = Targets({"target_modules": pattern}, Budget(_STEPS))
        return [name for name in names if chosen.means(name)]
    except (ExpressionError, BudgetError) as error:
        why = "it takes too long to try on the names of all modules" if isinstance(error, BudgetError) else str(error)
        raise TargetsError(f"{key} {pattern[:200]!r} can't be used ({why}); write module names.") from error


def _named(names: Sequence[str]) -> str:
    return _listed(names, most=_MOST_NAMED)


def _offered(text: Sequence[str]) -> str:
    """Return the modules that there are to choose from; a model has few kinds of them, but a claimed one may have any."""
    return _listed(short_names(text))


def _listed(names: Sequence[str], *, most: int = _MOST_OFFERED) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def _is_bypassed(name: str, model_type: str) -> bool:
    return model_type in _STATE_SPACE and _last_part(name) in _NOT_CALLED


def _unreached(bypassed: Sequence[str], model_type: str) -> str:
    return f"{_named(bypassed)} too, which a {model_type} model uses in a way that LoRA has no effect on"


def _untrained(foreign: Sequence[str]) -> str:
    return (
        f"{_named(foreign)} too, which are not part of the text and which rows of text don't train; leave them out with exclude,"
        f" such as '{_exclusion(foreign[0])}', or choose a preset, which means the text part"
    )


def _exclusion(name: str) -> str:
    """Return a pattern for all modules in the same part of the model as this one."""
    parts = name.split(".")
    number = next((at for at, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    part = next((part for part in parts[:number] if not is_text(part)), parts[0])
    return rf".*{re.escape(part)}\..*"


def stacked_in_files(targets: str, tensors: Mapping[str, Sequence[int]], linear_names: Sequence[str]) -> list[str]:
    """Return the names that, by a base's files, mean no module but may mean stacked parameters.

    Files may store experts one by one that a library stacks.
    """
    experts = any("experts" in name.split(".") for name in tensors)
    stacked = NameEnds(name for name, shape in tensors.items() if len(shape) == 3)
    linear = NameEnds(linear_names)
    return sorted(
        name
        for name in set(targets.split(","))
        if ((experts and "experts" in name.split(".")) or stacked.has(name)) and not linear.has(name)
    )


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]
