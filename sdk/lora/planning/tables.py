"""Plans for common bases, as Markdown for docs/planning.md: `python -m sdk.lora.planning.tables`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.cards import CARDS
from sdk.lora.planning.plan import plan_of
from sdk.lora.planning.recommending import Asked
from sdk.schemas.planning import CardFit, Plan

# Configs of popular bases, from their `config.json`, without keys that don't affect shapes: a real plan is made from the
# config of the base itself.
LLAMA_2_7B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
LLAMA_2_13B = LLAMA_2_7B | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 40,
}
LLAMA_3_8B = LLAMA_2_7B | {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}
LLAMA_3_70B = LLAMA_3_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
}
MISTRAL_7B = LLAMA_2_7B | {"model_type": "mistral", "intermediate_size": 14336, "num_key_value_heads": 8}
MIXTRAL_8X7B = MISTRAL_7B | {"model_type": "mixtral", "num_experts_per_tok": 2, "num_local_experts": 8}
LLAMA_3_2_1B = LLAMA_3_8B | {
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "tie_word_embeddings": True,
}
SMOLLM2_135M = LLAMA_3_2_1B | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}
QWEN2_5_7B = LLAMA_3_8B | {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
QWEN3_8B = LLAMA_3_8B | {
    "model_type": "qwen3",
    "head_dim": 128,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "vocab_size": 151936,
}
QWEN3_30B_A3B: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
}
#: The vocabulary size is the family's default, and not in the file.
GEMMA_3_27B: dict[str, Any] = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "head_dim": 128,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
    },
    "vision_config": {"model_type": "siglip_vision_model"},
}
GPT_2_MEDIUM: dict[str, Any] = {
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 1024,
    "n_head": 16,
    "n_layer": 24,
    "n_positions": 1024,
    "vocab_size": 50257,
}

#: By their common names, the smallest first.
COMMON_BASES: Mapping[str, Mapping[str, Any]] = {
    "SmolLM2-135M": SMOLLM2_135M,
    "GPT-2 medium": GPT_2_MEDIUM,
    "Llama-3.2-1B": LLAMA_3_2_1B,
    "Llama-2-7B": LLAMA_2_7B,
    "Mistral-7B": MISTRAL_7B,
    "Qwen2.5-7B": QWEN2_5_7B,
    "Llama-3-8B": LLAMA_3_8B,
    "Qwen3-8B": QWEN3_8B,
    "Llama-2-13B": LLAMA_2_13B,
    "Gemma-3-27B (text)": GEMMA_3_27B,
    "Qwen3-30B-A3B": QWEN3_30B_A3B,
    "Mixtral-8x7B": MIXTRAL_8X7B,
    "Llama-3-70B": LLAMA_3_70B,
}


_SIZES = sorted({card.memory_bytes for card in CARDS})


def markdown() -> str:
    """Return the table of bases and cards, the table of memory, and the cards with their sources."""
    plans = {name: plan_of(blueprint_of(config), Asked()) for name, config in COMMON_BASES.items()}
    return "\n".join([*_cards(plans), "", *_memory(plans), "", *_sources()]) + "\n"


def _cards(plans: dict[str, Plan]) -> Iterator[str]:
    yield "| base | " + " | ".join(f"{size // 10**9} GB" for size in _SIZES) + " |"
    yield "|---" * (len(_SIZES) + 1) + "|"
    for name, plan in plans.items():
        fits = {fit.memory_bytes: fit for fit in plan.cards}
        yield f"| {name} | " + " | ".join(_method(fits[size]) for size in _SIZES) + " |"


def _method(fit: CardFit) -> str:
    """The larger method that leaves room; in brackets if it takes nearly all of the card."""
    return (
        "LoRA" if fit.lora == "fits" else "QLoRA" if fit.qlora == "fits" else "(QLoRA)" if fit.qlora == "tight" else "–"
    )


def _memory(plans: dict[str, Plan]) -> Iterator[str]:
    yield "| base | parameters | trained | adapter | QLoRA | LoRA | full |"
    yield "|---|---|---|---|---|---|---|"
    for name, plan in plans.items():
        sizes = " | ".join(f"{plan.card_bytes[method] / 1e9:.1f} GB" for method in ("qlora", "lora", "full"))
        adapter = f"{plan.adapter_size_bytes / 1e6:.1f} MB"
        yield f"| {name} | {plan.parameters:,} | {plan.trainable:,} | {adapter} | {sizes} |"


def _sources() -> Iterator[str]:
    yield "| GPU | memory by |"
    yield "|---|---|"
    for card in CARDS:
        yield f"| {card.name} | {card.source} |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
