"""Random LoRA configurations over tiny bases: an adapter as plain PEFT saves it, and the model's logits with it.

The logits of the model in memory, before it was saved, are the truth that admission, evaluation and merge are compared
with.
"""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: By base: its linear modules, its input embedding, and a module of each layer that no LoRA can adapt.
MODULES: dict[str, tuple[list[str], str, str]] = {
    "llama": (["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"], "embed_tokens", "input_layernorm"),
    "llama-tied": (["q_proj", "v_proj", "o_proj", "up_proj"], "embed_tokens", "input_layernorm"),
    "llama-biased": (["q_proj", "k_proj", "v_proj", "o_proj"], "embed_tokens", "input_layernorm"),
    "gpt2": (["c_attn", "c_fc", "attn.c_proj", "c_proj"], "wte", "ln_1"),
    "opt": (["q_proj", "v_proj", "out_proj", "fc1", "fc2"], "embed_tokens", "final_layer_norm"),
}
#: By how many tokens a vocabulary grows.
_GROWN = 3


@dataclass
class RandomLora:
    """How an adapter is made."""

    base: str
    settings: dict[str, Any]
    #: The argument of `save_pretrained`.
    save_embeddings: Any = "auto"
    #: Whether the vocabulary is made larger first.
    resized: bool = False

    def __str__(self) -> str:
        return f"{self.base} {self.settings} save_embeddings={self.save_embeddings} resized={self.resized}"


def draw(seed: int) -> RandomLora:
    """Return one configuration; the same for the same seed."""
    rng = random.Random(seed)
    base = rng.choice(sorted(MODULES))
    linear, embedding, norm = MODULES[base]
    targets = rng.sample(linear, rng.randint(1, min(3, len(linear))))
    settings: dict[str, Any] = {
        "r": rng.choice([1, 2, 4]),
        "lora_alpha": rng.choice([1, 4, 7]),
        "target_modules": targets,
        "lora_dropout": rng.choice([0.0, 0.1]),
    }

    def sometimes(share: float) -> bool:
        return rng.random() < share

    if sometimes(0.15):
        targets.append(rng.choice([embedding, "lm_head"]))
    if sometimes(0.15):
        settings["modules_to_save"] = rng.sample([embedding, "lm_head", norm], rng.randint(1, 2))
        settings["target_modules"] = [name for name in targets if name not in settings["modules_to_save"]]
    if sometimes(0.2):
        settings["rank_pattern"] = {rng.choice([*linear, r".*\.0\..*"]): 3}
    if sometimes(0.2):
        settings["alpha_pattern"] = {rng.choice([*linear, r".*\.1\..*"]): 5}
    for flag, share in (("use_rslora", 0.2), ("use_dora", 0.15), ("lora_bias", 0.15)):
        if sometimes(share) and not (flag == "lora_bias" and settings.get("use_dora")):
            settings[flag] = True
    if sometimes(0.15):
        settings["bias"] = rng.choice(["all", "lora_only"])
    if sometimes(0.1):
        settings["fan_in_fan_out"] = True
    if sometimes(0.2):
        settings["layers_to_transform"] = rng.choice([[0], [1], 1])
    if sometimes(0.1):
        settings["exclude_modules"] = [rng.choice([targets[0], "0." + linear[0]])]
    if sometimes(0.1) and base.startswith("llama") and not settings.keys() & {"use_dora", "lora_bias"}:
        settings["target_parameters"] = ["mlp.up_proj.weight"]
        settings["lora_dropout"] = 0.0
    if sometimes(0.1):
        settings["trainable_token_indices"] = rng.choice([[3, 5], {embedding: [2]}])
    if sometimes(0.1) and not settings.get("lora_bias"):
        settings["init_lora_weights"] = rng.choice(["gaussian", "pissa", "olora", "orthogonal", "pissa_niter_2"])
    if sometimes(0.05) and base.startswith("llama"):
        settings["layer_replication"] = [[0, 2], [1, 2]]
    if sometimes(0.05):
        settings["alora_invocation_tokens"] = [4, 5]
    return RandomLora(base, settings, rng.choice(["auto", "auto", "auto", True, False]), sometimes(0.1))


def save(made: RandomLora, base: Path, folder: Path, *, seed: int, input_ids: Any) -> Any:
    """Save the adapter with plain PEFT after changing everything that it trains; return the model's logits.

    Raises what PEFT raises for settings for which it has no adapter.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        if made.resized:
            model.resize_token_embeddings(model.config.vocab_size + _GROWN, mean_resizing=False)
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **made.settings))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * 0.1
        adapted.save_pretrained(folder, save_embedding_layers=made.save_embeddings)
        return logits(adapted.eval(), input_ids)


def logits(model: Any, input_ids: Any) -> Any:
    """Return (batch, seq, vocab) logits in float32."""
    import torch

    with torch.no_grad():
        return model(input_ids=input_ids, use_cache=False).logits.float()
