"""Which options besides rank, alpha and targets a base can't be trained with, by the names and shapes of its tensors.

>>> from sdk.schemas.training import TrainingSpec
>>> shapes = {"model.embed_tokens.weight": [300, 8], "model.layers.0.q_proj.weight": [8, 8], "model.norm.weight": [8]}
>>> unfit_variant(TrainingSpec(trainable_token_indices="300"), shapes).said
'trains the token 300, and the base has 300, from 0; give ids of its own tokens'
>>> unfit_variant(TrainingSpec(modules_to_save="norm"), shapes) is None
True
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from sdk.formats.base_files import HEADS, INPUT_EMBEDDINGS
from sdk.formats.option_texts import write_numbers
from sdk.lora.linear_modules import is_text, layer_of, linear_modules
from sdk.lora.name_ends import NameEnds
from sdk.lora.planning.adapter import meant_by
from sdk.lora.planning.blueprint import UnknownFamilyError, blueprint_of
from sdk.lora.planning.families import ConfigError
from sdk.lora.targets import TargetsError, stacked_in_files
from sdk.schemas.training import TrainingSpec


class UnfitOption(NamedTuple):
    """Why a base can't be trained with an option."""

    #: The option.
    param: str
    #: The reason, to follow the option's name.
    said: str


def unfit_variant(
    spec: TrainingSpec,
    shapes: Mapping[str, Sequence[int]],
    linear: Collection[str] | None = None,
    *,
    exact: bool = False,
    tied: bool | None = None,
) -> UnfitOption | None:
    """Say which of a spec's options a base can't be trained with; None if all are fine, or if nothing is known about the base.

    `shapes` are its tensors' shapes by name: the model's own names (`exact`), or those in files, which may lack a
    library's prefix, so only the end of a name is compared. `tied`: whether the head is tied to the embedding; None: it
    is if no file has it. `linear` are its linear modules, if they are known already.
    """
    if not shapes:
        return None
    linear = linear_modules(shapes) if linear is None else linear
    owners = {name.rpartition(".")[0] for name in shapes}
    if tied is None:
        tied = not any(_last(owner) in HEADS for owner in owners)
    return (
        _layers(spec, linear)
        or _patterns(spec, owners, exact)
        or _biases(spec, shapes, linear)
        or _saved(spec, owners, linear, exact, tied)
        or _tokens(spec, shapes)
    )


def unfit_options(
    spec: TrainingSpec, files: Mapping[str, Sequence[int]], config: Mapping[str, Any]
) -> UnfitOption | None:
    """Say at a submission which of a spec's options a base can't be trained with, by the names and shapes of its files and its config."""
    linear = linear_modules(files)
    stacked = stacked_in_files(spec.targets, files, linear)
    return (
        unfit_variant(spec, files, linear)
        or (unfit_beside_parameters(spec, stacked) if stacked else None)
        or unfit_beside_targets(spec, _adapted(spec, config))
    )


def unfit_beside_targets(spec: TrainingSpec, adapted: Collection[str] | None) -> UnfitOption | None:
    """Say which pattern is for a module that the targets don't mean, or which adapted module is also to be trained whole.

    `adapted` are the model's own names of the modules that the targets mean; None: not known yet.
    """
    if adapted is None:
        return None
    ends = NameEnds(adapted)
    for param, names in (("rank_pattern", spec.ranks), ("alpha_pattern", spec.alphas)):
        if idle := next((name for name in names if not ends.has(name)), None):
            return UnfitOption(param, f"names {idle}, which is not among the targets; name adapted modules")
    if both := next((name for name in spec.saved_modules if ends.has(name)), None):
        return UnfitOption(
            "modules_to_save", f"names {both}, which the targets adapt too; leave it out of one of the two"
        )
    return None


def unfit_beside_parameters(spec: TrainingSpec, parameters: Sequence[str]) -> UnfitOption | None:
    """Say which option can't be used if targets mean stacked parameters: PEFT adapts these in another way."""
    named = ", ".join(parameters[:5])
    choices = {
        "use_dora": spec.use_dora,
        "init_lora_weights": spec.init_lora_weights is not None,
        "rank_pattern": spec.rank_pattern is not None,
        "alpha_pattern": spec.alpha_pattern is not None,
        "layers_to_transform": spec.layers_to_transform is not None,
        "bias": spec.bias != "none",
    }
    for param, chosen in choices.items():
        if chosen:
            return UnfitOption(
                param, f"can't be used with stacked parameters ({named}); leave it out, or these out of the targets"
            )
    return None


def _adapted(spec: TrainingSpec, config: Mapping[str, Any]) -> list[str] | None:
    """Return the model's own names of the modules that targets mean, from its config; None if only the model itself can
    tell.
    """
    if not (spec.ranks or spec.alphas or spec.saved_modules):
        return None
    try:
        blueprint = blueprint_of(config)
        # If there is a part for images, the text part's names have a longer prefix.
        return None if blueprint.left_out else meant_by(blueprint, spec).modules
    except (UnknownFamilyError, ConfigError, TargetsError):
        return None


def _layers(spec: TrainingSpec, linear: Collection[str]) -> UnfitOption | None:
    if spec.layers_to_transform is None:
        return None
    numbers = {layer_of(name) for name in linear if is_text(name)} - {None}
    absent = sorted(set(spec.layers or ()) - numbers)
    if absent and numbers:
        have = write_numbers(number for number in numbers if number is not None)
        return UnfitOption(
            "layers_to_transform", f"names the layer {absent[0]}, and the base has {have}; choose from these"
        )
    return None


def _patterns(spec: TrainingSpec, owners: Collection[str], exact: bool) -> UnfitOption | None:
    if spec.rank_pattern is None and spec.alpha_pattern is None:
        return None
    ends = NameEnds(owners)
    for param, names in (("rank_pattern", spec.ranks), ("alpha_pattern", spec.alphas)):
        for name in names:
            if not ends.has(_compared(name, exact)):
                return UnfitOption(param, f"names {name}, which is not a module of the base; name target modules")
    return None


def _biases(spec: TrainingSpec, shapes: Mapping[str, Sequence[int]], linear: Collection[str]) -> UnfitOption | None:
    if spec.bias == "none":
        return None
    text = {name.rpartition(".")[0] for name in shapes if name.endswith(".bias") and is_text(name)}
    if not text.isdisjoint(linear) or (spec.bias == "all" and text):
        return None
    return UnfitOption("bias", f"is {spec.bias!r}, and the base's text part has no such biases; leave it out")


def _saved(
    spec: TrainingSpec, owners: Collection[str], linear: Collection[str], exact: bool, tied: bool
) -> UnfitOption | None:
    if spec.modules_to_save is None:
        return None
    unfit = partial(UnfitOption, "modules_to_save")
    known = NameEnds({*owners, "lm_head"} if tied else owners)
    packed = NameEnds(linear) if spec.method == "qlora" else NameEnds(())
    for name in spec.saved_modules:
        compared = _compared(name, exact)
        if packed.has(compared):
            return unfit(
                f"names {name}, which is held in {8 if spec.quant_type == 'int8' else 4} bits ({min(packed.meant_by([compared]))}) and "
                "can't be trained whole; adapt it by targets, or train with the method lora",
            )
        if tied and _last(name) in (*INPUT_EMBEDDINGS, *HEADS):
            return unfit(
                f"names {name}, which the base ties to {'its head' if _last(name) in INPUT_EMBEDDINGS else 'its embedding'}, so that "
                "training one as a whole would part the two; train single tokens with trainable_token_indices",
            )
        if not known.has(compared):
            return unfit(f"names {name}, which is not a module of the base with weights of its own")
        # PEFT takes all modules whose names end in these letters.
        meant = known.count(name)
        if meant and known.count_ending_in(name) > meant:
            own = known.meant_by([name])
            other = min(name for name in known.ending_in(name) if name not in own)
            return unfit(
                f"names {name}, which PEFT takes for {other} too, since its name ends alike; write {min(own)}",
            )
    return None


def _tokens(spec: TrainingSpec, shapes: Mapping[str, Sequence[int]]) -> UnfitOption | None:
    if spec.trainable_token_indices is None:
        return None
    tokens = spec.tokens
    rows = [shape[0] for name, shape in shapes.items() if shape and _last(name.rpartition(".")[0]) in INPUT_EMBEDDINGS]
    if tokens and rows and tokens[-1] >= max(rows):
        return UnfitOption(
            "trainable_token_indices",
            f"trains the token {tokens[-1]}, and the base has {max(rows)}, from 0; give ids of its own tokens",
        )
    return None


def _compared(name: str, exact: bool) -> str:
    """Return what of a name is compared with the base's: files may lack a prefix that the model's own names have."""
    return name if exact else _last(name)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
