"""Which options of a training can't be combined, whatever its base is."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from sdk.formats.base_files import INPUT_EMBEDDINGS

if TYPE_CHECKING:
    from sdk.schemas.training import TrainingSpec

_QUANTISING = {"quant_type", "double_quant"}


def both_held_out() -> str:
    """Say that held-out rows are given although a share is to be held out."""
    return "held-out rows are given, so none are held out of the others; leave out holdout, or eval_data"


def clash_of(spec: TrainingSpec, given: Collection[str] = ()) -> str | None:
    """Say which options of a spec contradict each other, and what to do; None if they can be combined.

    `given` are the options that a person wrote; a default value among them counts like any other.
    """
    if spec.use_rslora and spec.alpha is None:
        return (
            f"use_rslora scales the update by alpha/√rank, for which the usual alpha of 2·rank is too large; give alpha, such as "
            f"{max(1, round(2 * spec.rank**0.5))} for the scale 2"
        )
    quantising = not _QUANTISING.isdisjoint(given) or spec.quant_type != "nf4" or not spec.double_quant
    if spec.method == "lora" and quantising:
        return "quant_type and double_quant say how qlora quantises the base, and the method is lora; leave them out, or choose qlora"
    if spec.quant_type == "int8" and not spec.double_quant:
        return "int8 has a scale for each row, and none of these is quantised; leave double_quant out"
    if spec.eva_rho != 1 and spec.init_lora_weights is None:
        return "eva_rho moves ranks between modules whose A starts by EVA; give init_lora_weights eva, or leave eva_rho out"
    if spec.eva_rho != 1 and (spec.rank_pattern is not None or spec.alpha_pattern is not None):
        return "eva_rho chooses the ranks of modules, and rank_pattern and alpha_pattern say them; give one of the two"
    if spec.eva_rho != 1 and (spec.rank == 1 or spec.most_rank <= spec.rank):
        return (
            f"with rank {spec.rank} and eva_rho {spec.eva_rho:g} each module has the rank {spec.rank}: none may have less than 1, or more than "
            f"{spec.most_rank}; give a larger rank or eva_rho, or leave eva_rho out"
        )
    alphas = spec.alphas
    for name in alphas:
        if other := next((longer for longer in alphas if longer.endswith(f".{name}")), None):
            return f"rank_pattern has {name} and alpha_pattern {other}, which mean the same module; name it alike in both, or give alpha"
    if spec.holdout is None and (spec.holdout_by is not None or spec.holdout_seed):
        return "holdout_by and holdout_seed say which rows are held out, and no share is; give holdout, such as 0.1"
    saved = (spec.modules_to_save or "").split(",")
    if spec.bias != "none" and spec.modules_to_save is not None:
        return f"PEFT saves biases of modules_to_save twice under bias {spec.bias!r}; give one of the two"
    if spec.bias != "none" and spec.objective == "classify":
        return f"a classification has a head in modules_to_save, of which PEFT saves biases twice; leave bias {spec.bias!r} out"
    if spec.objective == "dpo" and spec.neftune_noise_alpha is not None:
        return "neftune_noise_alpha puts noise on what dpo compares with the base; leave it out"
    if spec.packing in ("auto", "on") and spec.objective in ("classify", "dpo"):
        return f"packing puts rows into one sequence, and {spec.objective} looks at whole sequences; leave it out"
    if spec.packing in ("auto", "on") and spec.neftune_noise_alpha is not None:
        return "the noise of neftune_noise_alpha depends on the length of a sequence, which packing changes; leave one of the two out"
    if spec.objective not in (None, "dpo") and "beta" in spec.further():
        return f"beta is an option of the objective dpo, and this is {spec.objective}; leave it out, or give rows of prompt, chosen and rejected"
    embedding = next((name for name in saved if name.rpartition(".")[2] in INPUT_EMBEDDINGS), None)
    if embedding and spec.trainable_token_indices is not None:
        return f"modules_to_save trains all of {embedding}, and trainable_token_indices some of its rows; give one of the two"
    return None
