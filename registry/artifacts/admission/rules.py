"""Admission: whether a version of an adapter may become ready, judged by the facts of its two files.

>>> weights = WeightFacts.of([])
>>> config = ConfigFacts(
...     rank=8, alpha=16, target_modules=["q_proj"], rank_pattern={}, alpha_pattern={}, modules_to_save=[], bias="none",
...     exclude_modules=[], layers_to_transform=[], layers_pattern=[], target_parameters=[],
...     use_rslora=False, use_dora=False, lora_bias=False, fan_in_fan_out=False, task_type=None, variants=[],
... )
>>> judge(weights, config, lora=LoraConfig(rank=4, alpha=16, dropout=0, target_modules=["q_proj"]), base_tensors={}, base_config={})
Traceback (most recent call last):
registry.errors.Verification: adapter_config.json and the version's record disagree on rank; push again
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from registry.artifacts.admission.adapted_modules import Modules, effect, judge_module
from registry.artifacts.admission.expected_modules import ConfigTargets, require_complete, require_whole
from registry.artifacts.admission.expected_shapes import (
    EMBEDDINGS,
    SAVE,
    BaseShapes,
    Ranks,
    changed_vocabulary,
    grown_vocabulary,
)
from registry.artifacts.admission.heads import is_head, judge_head
from registry.artifacts.admission.inspection import ConfigFacts, TensorFacts, Tensors, WeightFacts
from registry.errors import Verification
from sdk.formats.adapter_files import (
    CONFIG_FILE,
    HOLDS_EMBEDDINGS,
    MOSTLY_WHOLE,
    base_module,
    base_parameter,
    lora_key,
    unwrapped,
    variant_setting,
)
from sdk.formats.peft_patterns import suffixes
from sdk.lora.adapter import SavedModules, times
from sdk.lora.architectures import is_encoder, no_next_token
from sdk.lora.module_scales import scaling
from sdk.schemas.lora_config import LoraConfig

#: What PEFT calls models that tell labels apart.
_CLASSIFICATION = "SEQ_CLS"
_TOKENS = ".token_adapter.trainable_tokens_delta"
#: No model has this many.
_MOST_SAVED = 256
#: A module of experts has two or three stacked parameters.
_MOST_OWNED = 16
#: Weights of models are about 0.01 to 1, and a training adds less than that to them: so nothing as large as this is
#: intended.
_HUGE = 1e4
#: Anything smaller is lost in float32 if it is added to a weight of 0.01. With the smallest rates in use, 1e-6, AdamW's
#: first step alone makes the numbers of B 1e-6, and those of s·B·A 1e-8.
_FAINT = 1e-12
_HUGE_EXPONENT, _FAINT_EXPONENT = math.log2(_HUGE), math.log2(_FAINT)
#: float16 ends at 65,504.
_FLOAT16_EXPONENT = 16
#: How many names a warning lists at most.
_MOST_NAMED = 5
_WIDER = "use the adapter over a base in bfloat16 or float32, and check whether its training diverged"


def judge(
    weights: WeightFacts,
    config: ConfigFacts,
    *,
    lora: LoraConfig,
    base_tensors: dict[str, list[int]],
    base_config: Mapping[str, Any],
    labels: int | None = None,
    tokenizer: bool = False,
) -> list[str]:
    """Check an adapter against its version's LoRA record and the base's shapes and config, {} where they are not known.

    `labels` is how many the record says that it tells apart, `tokenizer` whether one comes with the adapter. A is (r, in), B is (out, r) for a base weight of (out,
    in), or (in, out) where the base keeps it transposed. Returns warnings, one sentence each, about what an adapter may
    have but seldom should. Raises Verification if the config contradicts the record, for a foreign key, a missing half
    or a wrong shape, and if s·B·A is zero, or too small or too large to be intended.
    """
    _judge_config(config, lora)
    _judge_task(config, base_config, labels)
    plain = BaseShapes(base_tensors, base_config)
    vocabulary = changed_vocabulary(weights, plain)
    grown = grown_vocabulary(lora, plain, tokenizer=tokenizer) if vocabulary is None else None
    base = plain.with_vocabulary(vocabulary or grown) if vocabulary or grown else plain
    modules, sizes = _sort(weights, config, lora, base)
    if config.task_type == _CLASSIFICATION:
        judge_head(weights.tensors(), base, base_config, labels=labels)
        # It has to be present, however large it is.
        sizes = {**sizes, "modules_to_save": 0}
    if not modules:
        raise Verification("the adapter has no LoRA weights at all; save it again from the trained model")
    ranks, targets, parameters = Ranks(config.rank_pattern, lora.rank), ConfigTargets(config), _owners(lora)
    for name in sorted(modules):
        judge_module(name, modules[name], config, base, ranks, targets, parameters)
    require_complete(modules, targets, base)
    require_whole(weights, lora, base)
    if lora.trainable_token_indices and (tied := next(filter(base.is_tied, map(base_module, modules)), None)):
        raise Verification(
            f"{tied} is adapted, and trainable_token_indices trains tokens of the same weight, since the base ties the two; PEFT "
            f"can't merge that: train again without {tied.rpartition('.')[2]} among the target modules"
        )
    # Admission can't tell whether these differ from the base's own: the base's weights may not be here.
    replaces = bool(lora.modules_to_save or lora.trainable_token_indices or sizes["other"] or vocabulary)
    warnings = _judge_effects(modules, config, lora, ranks, replaces=replaces)
    beyond = [tensor.name for tensor in weights.tensors() if not tensor.zero and tensor.exponent > _FLOAT16_EXPONENT]
    unused = set(lora.target_modules)
    for module in modules:
        unused.difference_update(suffixes(base_module(module)))
    return [*warnings, *_warn_whole(beyond, sorted(unused), sizes), *_warn_vocabulary(vocabulary, tokenizer)]


def require_few_names(lora: LoraConfig) -> None:
    """Raise Verification for a record with more names of a kind than can be looked for in each of an adapter's tensors."""
    if len(lora.modules_to_save) > _MOST_SAVED:
        raise Verification(f"modules_to_save has more than {_MOST_SAVED} names; name the modules, not their parts")
    _owners(lora)


def _judge_effects(
    modules: Modules, config: ConfigFacts, lora: LoraConfig, ranks: Ranks, *, replaces: bool
) -> list[str]:
    """Check how much each module changes. Raises Verification if none changes and nothing is replaced, or if one
    changes far too much.
    """
    alphas = Ranks(config.alpha_pattern, lora.alpha, key="alpha_pattern")
    huge, faint, idle, too_large = [], [], [], []
    for name in sorted(modules):
        plain = base_module(name)
        scale = scaling(abs(alphas.of(plain)), ranks.of(plain), by_root=config.use_rslora)
        size = effect(modules[name], scale)
        if size.product > _HUGE_EXPONENT:
            huge.append(name)
        if size.most == -math.inf:
            idle.append(name)
        elif size.most < _FAINT_EXPONENT:
            faint.append(name)
        elif size.most > _FLOAT16_EXPONENT:
            too_large.append(name)
    if huge:
        raise Verification(
            f"s·B·A exceeds {_HUGE:g} in {_named(huge)}, where weights are about 1: the training diverged, or alpha "
            "is wrong. Lower the learning rate and train again, or combine versions by smaller weights"
        )
    if len(idle) + len(faint) == len(modules) and not replaces:
        found = "s·B·A is zero" if len(idle) == len(modules) else f"no value of s·B·A reaches {_FAINT:g}"
        raise Verification(
            f"{found} in any of the {len(modules)} adapted modules, and nothing of the base is replaced: this adapter changes "
            "nothing. A training needs a higher learning rate or more rows, a combination weights that don't cancel its "
            "versions, and a push the adapter as it was saved after training"
        )
    return list(_warn_effects(idle, faint, too_large))


#: Fields that a config and a record must have alike, as they are.
_AS_RECORDED = ("alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "bias")


def _judge_config(config: ConfigFacts, lora: LoraConfig) -> None:
    """Compare a config with a version's record in everything that determines what the adapter does."""
    differences = {
        "rank": config.rank != lora.rank,
        "target modules": config.target_modules is None or set(config.target_modules) != set(lora.target_modules),
        **{name: getattr(config, name) != getattr(lora, name) for name in _AS_RECORDED},
        "modules_to_save": config.modules_to_save != sorted(lora.modules_to_save),
        # They determine how A and B of stacked experts are read.
        "target_parameters": config.target_parameters != sorted(lora.target_parameters),
        # A version is used as its record says.
        "task_type": (config.task_type == _CLASSIFICATION) != (lora.task_type == _CLASSIFICATION),
    }
    if said := next((name for name, differs in differences.items() if differs), None):
        raise Verification(f"{CONFIG_FILE} and the version's record disagree on {said}; push again")
    if any(rank < 1 for rank in lora.rank_pattern.values()):
        raise Verification("rank_pattern has a rank below 1; correct it and push again")
    require_few_names(lora)


def _judge_task(config: ConfigFacts, base: Mapping[str, Any], labels: int | None) -> None:
    if labels is not None and config.task_type != _CLASSIFICATION:
        raise Verification(
            f"the record names labels, but {CONFIG_FILE} does not say {_CLASSIFICATION}; save the adapter again"
        )
    if config.task_type == "CAUSAL_LM" and is_encoder(base):
        raise Verification(
            f"{CONFIG_FILE} says CAUSAL_LM, but the base is not causal: {no_next_token(base.get('model_type'))}"
        )


def _sort(
    weights: WeightFacts, config: ConfigFacts, lora: LoraConfig, base: BaseShapes
) -> tuple[Modules, dict[str, int]]:
    """Return LoRA's tensors by module, and the bytes of each class. Raises Verification for a key that is in no
    class.
    """
    tensors = Tensors(weights)
    modules = Modules(tensors)
    sizes = {"lora": 0, "embeddings": 0, "modules_to_save": 0, "other": 0}
    saved, tokens = SavedModules(lora.modules_to_save), _Tokens(lora.trainable_token_indices)
    biases = array("I")
    for index, tensor in enumerate(tensors):
        if key := lora_key(tensor.name):
            modules.put(key.module, index)
            kind = "lora"
        elif variant_setting(tensor.name) in config.variants:
            kind = "lora"
        else:
            kind = _judge_whole(tensor, lora, saved, tokens, base)
            if kind == "other":
                biases.append(index)
        sizes[kind] += tensor.size_bytes
    if lora.bias == "lora_only":
        for tensor in map(tensors.__getitem__, biases):
            name = base_parameter(tensor.name) or ""
            # It is next to A and B, in the layer that they adapt.
            if name.removesuffix(".base_layer.bias").removesuffix(".bias") not in modules:
                raise _foreign(tensor)
    return modules, sizes


def _foreign(tensor: TensorFacts) -> Verification:
    return Verification(
        f"tensor {tensor.name!r} is not a LoRA weight; an adapter that loads without effect often has such names. "
        "Save it again with PEFT's save_pretrained"
    )


def _judge_whole(tensor: TensorFacts, lora: LoraConfig, saved: SavedModules, tokens: _Tokens, base: BaseShapes) -> str:
    """Return the class of a tensor that replaces one of the base's, or is added to it. Raises Verification."""
    parameter = base_parameter(tensor.name)
    if parameter is None:
        raise _foreign(tensor)
    parameter = unwrapped(parameter)
    if parameter.endswith(_TOKENS) and lora.trainable_token_indices:
        _judge_tokens(tensor, parameter.removesuffix(_TOKENS), tokens, base)
        return "embeddings"
    module, _, kind = parameter.rpartition(".")
    embedding = kind == "weight" and module.rpartition(".")[2] in EMBEDDINGS
    shapes = base.shapes(parameter)
    if saved.have(module):
        # A head that was added for a task is not the base's.
        if shapes and not (lora.task_type == _CLASSIFICATION and is_head(parameter)):
            _require_shape(tensor, shapes)
        return "embeddings" if embedding else "modules_to_save"
    if lora.bias != "none" and kind == "bias":
        if base.known:
            _require_shape(tensor, shapes)
        return "other"
    # PEFT saves embeddings unasked if they are adapted or were resized; a tied head is a copy of them.
    if embedding and (not base.known or shapes):
        if base.known:
            _require_shape(tensor, shapes)
        return "embeddings"
    raise _foreign(tensor)


def _require_shape(tensor: TensorFacts, shapes: Sequence[list[int]]) -> None:
    if list(tensor.shape) not in shapes:
        has = times(shapes[0]) if shapes else "none"
        raise Verification(
            f"tensor {tensor.name!r} is {times(tensor.shape)}, the base's is {has}; the adapter belongs to another base"
        )


class _Tokens:
    """The tokens whose rows a record says are trained: one list for the embedding, or one for each module."""

    def __init__(self, said: list[int] | dict[str, list[int]]) -> None:
        lists = [said] if isinstance(said, list) else list(said.values())
        # A tied head repeats the rows of the embedding that the record names.
        self.counts = set(map(len, lists))
        self.highest = max((max(tokens) for tokens in lists if tokens), default=None)


def _judge_tokens(tensor: TensorFacts, module: str, tokens: _Tokens, base: BaseShapes) -> None:
    """Check the rows of single tokens, (tokens, dimension), against the record and the embedding."""
    shapes = base.shapes(f"{module}.weight")
    if (
        len(tensor.shape) != 2
        or tensor.shape[0] not in tokens.counts
        or (shapes and tensor.shape[1] not in {shape[-1] for shape in shapes if shape})
    ):
        raise Verification(
            f"tensor {tensor.name!r} is {times(tensor.shape)}, which fits neither trainable_token_indices nor the "
            "base's embedding; save the adapter again"
        )
    if shapes and tokens.highest is not None and tokens.highest >= max(shape[0] for shape in shapes if shape):
        raise Verification(
            f"trainable_token_indices has the token {tokens.highest}, which is beyond the base's vocabulary; {SAVE}"
        )


def _owners(lora: LoraConfig) -> dict[str, list[str]]:
    """Return the modules with `target_parameters`, and the names of these."""
    owners: dict[str, list[str]] = {}
    for target in lora.target_parameters:
        module, _, parameter = target.rpartition(".")
        owners.setdefault(module, []).append(parameter)
    crowded = next((module for module, names in owners.items() if len(names) > _MOST_OWNED), None)
    if crowded is not None:
        raise Verification(
            f"target_parameters names more than {_MOST_OWNED} parameters of {crowded or 'any module'}; name those that were "
            "trained, with their modules"
        )
    return owners


def _named(names: Sequence[str]) -> str:
    """Return a few names, and say how many more there are."""
    shown = [name if len(name) <= 100 else name[:99] + "…" for name in names[:_MOST_NAMED]]
    return ", ".join(shown) + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")


def _warn_effects(idle: Sequence[str], faint: Sequence[str], too_large: Sequence[str]) -> Iterator[str]:
    if idle:
        yield f"s·B·A is zero in {_named(idle)}: these modules were not trained; check whether these modules were trained"
    if faint:
        yield f"no value of s·B·A reaches {_FAINT:g} in {_named(faint)}: their update has no effect"
    if too_large:
        yield f"s·B·A may reach beyond 65504, where float16 ends, in {_named(too_large)}: {_WIDER}"


def _warn_whole(beyond: Sequence[str], unused: Sequence[str], sizes: dict[str, int]) -> Iterator[str]:
    if beyond:
        yield f"there are numbers beyond 65504, where float16 ends, in {_named(beyond)}: {_WIDER}"
    if unused:
        yield f"there are no weights for the target modules {_named(unused)}; check whether all of the adapter was saved"
    total, whole = sum(sizes.values()), sizes["embeddings"] + sizes["modules_to_save"]
    if whole * 2 > total:
        parts = ", ".join(f"{name} {_size(size)}" for name, size in sizes.items() if size)
        yield (
            f"{MOSTLY_WHOLE}{_size(whole)} of {_size(total)} ({parts}); if they were not trained, "
            "leave them out with save_pretrained(FOLDER, save_embedding_layers=False) or a shorter modules_to_save"
        )


def _warn_vocabulary(vocabulary: int | None, tokenizer: bool) -> Iterator[str]:
    if vocabulary is not None:
        which = (
            "use it with the tokenizer that comes with it"
            if tokenizer
            else "no tokenizer came with it, and with the base's it can't read the other tokens; push it together with its tokenizer's files"
        )
        yield f"{HOLDS_EMBEDDINGS}{vocabulary} tokens, and the base has another number: {which}"


def _size(size_bytes: int) -> str:
    amount, unit = next((size_bytes / n, u) for n, u in ((10**6, "MB"), (10**3, "kB"), (1, "B")) if size_bytes >= n)
    return f"{amount:.1f} {unit}" if unit != "B" else f"{size_bytes} B"
