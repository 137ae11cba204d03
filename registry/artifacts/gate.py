"""The gate: what an adapter must be before a version of it becomes ready, judged by the facts of its two files.

>>> weights = WeightFacts(tensors=[])
>>> config = ConfigFacts(
...     rank=8, alpha=16, target_modules=["q_proj"], rank_pattern={}, alpha_pattern={},
...     use_rslora=False, use_dora=False, fan_in_fan_out=False,
... )
>>> judge(weights, config, lora=LoraConfig(rank=4, alpha=16, dropout=0, target_modules=["q_proj"]), base_tensors={})
Traceback (most recent call last):
registry.errors.Verification: adapter_config.json and the version's record disagree on rank; push again
"""

from __future__ import annotations

import re

from registry.artifacts.inspection import ConfigFacts, TensorFacts, WeightFacts
from registry.errors import Verification
from sdk.schemas.training import LoraConfig

_LORA_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>A|B)\.weight")
_EXTRA_KEY = re.compile(
    r"base_model\.model\..+\.(lora_magnitude_vector(\.weight)?|lora_embedding_(A|B)|lora_(A|B)\.bias)"
)


def judge(weights: WeightFacts, config: ConfigFacts, *, lora: LoraConfig, base_tensors: dict[str, list[int]]) -> None:
    """Check an adapter against its version's LoRA record and the base's shapes, which are {} where none are known.

    A is (r, in), B is (out, r) for a base weight of (out, in), or (in, out) where the base keeps it transposed.
    Raises Verification for a config that says something else than the record, a foreign key, a missing half, a wrong
    shape, or B zero throughout.
    """
    _judge_config(config, lora)
    _judge_weights(weights, lora, base_tensors, fan_in_fan_out=config.fan_in_fan_out)


def _judge_config(config: ConfigFacts, lora: LoraConfig) -> None:
    """Compare a config with a version's record, in all that decides what the adapter does."""
    differences = {
        "rank": config.rank != lora.rank,
        "target modules": config.target_modules != sorted(lora.target_modules),
        "alpha": config.alpha != lora.alpha,
        "rank_pattern": config.rank_pattern != lora.rank_pattern,
        "alpha_pattern": config.alpha_pattern != lora.alpha_pattern,
        "use_rslora": config.use_rslora != lora.use_rslora,
        "use_dora": config.use_dora != lora.use_dora,
    }
    if said := next((name for name, differs in differences.items() if differs), None):
        raise Verification(f"adapter_config.json and the version's record disagree on {said}; push again")


def _judge_weights(
    weights: WeightFacts, lora: LoraConfig, base_tensors: dict[str, list[int]], *, fan_in_fan_out: bool
) -> None:
    pairs: dict[str, dict[str, TensorFacts]] = {}
    for tensor in weights.tensors:
        if match := _LORA_KEY.fullmatch(tensor.name):
            pairs.setdefault(match["module"], {})[match["side"]] = tensor
        elif not _EXTRA_KEY.fullmatch(tensor.name) and not _is_saved_module(tensor.name, lora):
            raise Verification(
                f"tensor {tensor.name!r} is no LoRA weight; an adapter that loads without effect often has such names. "
                "Save it again with PEFT's save_pretrained"
            )
    if not pairs:
        raise Verification("the adapter has no LoRA weights at all; save it again from the trained model")
    for module, sides in sorted(pairs.items()):
        _judge_pair(module, sides, lora, base_tensors, fan_in_fan_out=fan_in_fan_out)
    if all(tensor.zero or _starts_nonzero(tensor.name) for tensor in weights.tensors):
        raise Verification("every lora_B is zero: this adapter changes nothing. Train it, or push the trained one")


def _starts_nonzero(name: str) -> bool:
    """Whether an untrained adapter has values there too: A is random, DoRA's magnitudes are the base's norms."""
    match = _LORA_KEY.fullmatch(name)
    return match["side"] == "A" if match else ".lora_magnitude_vector" in name or name.endswith(".lora_embedding_B")


def _is_saved_module(name: str, lora: LoraConfig) -> bool:
    return any(f".{module}." in name for module in lora.modules_to_save)


def _judge_pair(
    module: str,
    sides: dict[str, TensorFacts],
    lora: LoraConfig,
    base_tensors: dict[str, list[int]],
    *,
    fan_in_fan_out: bool,
) -> None:
    if set(sides) != {"A", "B"}:
        raise Verification(f"{module} has only one of lora_A and lora_B; save the adapter again")
    if not any(module == target or module.endswith("." + target) for target in lora.target_modules):
        raise Verification(f"{module} is not among the target modules {', '.join(lora.target_modules)}")
    a, b = sides["A"].shape, sides["B"].shape
    rank = next(
        (r for pattern, r in lora.rank_pattern.items() if re.fullmatch(rf"(.*\.)?({re.escape(pattern)})", module)),
        lora.rank,
    )
    if len(a) < 2 or len(b) < 2 or a[0] != rank or b[1] != rank:
        raise Verification(
            f"{module}: A is {list(a)} and B is {list(b)}, which is not of rank {rank} as the configuration says"
        )
    weight = _base_weight(module, base_tensors)
    if weight is None:
        if base_tensors:
            raise Verification(f"the base has no module {module}; the adapter belongs to another base")
        return
    if sorted(weight[:2]) != sorted((b[0], a[1])):
        raise Verification(
            f"{module}: B·A is {b[0]}×{a[1]}, the base's weight is {'×'.join(map(str, weight))}; the adapter belongs to another base"
        )
    # Only a true flag is to be trusted: PEFT keeps one for all modules, the last one's, and leaves it false where a
    # 4-bit Linear stands in for GPT-2's Conv1D. Convolutions, which have more than two dimensions, ignore it.
    if fan_in_fan_out and len(weight) == 2 and weight != [a[1], b[0]]:
        raise Verification(
            f"adapter_config.json says fan_in_fan_out, but the base keeps {module} as (out, in); set it to false and push again"
        )


def _base_weight(module: str, base_tensors: dict[str, list[int]]) -> list[int] | None:
    exact = base_tensors.get(module + ".weight")
    if exact is not None:
        return exact
    # Some weight files leave out the model's own prefix ("transformer."), or carry one more ("model.").
    wanted = module + ".weight"
    return next(
        (shape for name, shape in base_tensors.items() if wanted.endswith("." + name) or name.endswith("." + wanted)),
        None,
    )
