"""Configs of popular bases, from their `config.json`, without keys that don't affect shapes.

They are for the tables of docs/planning.md: a real plan is made from the config of the base itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
