"""Tiny random models of many architectures, in float32, as transformers itself makes them from a config."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from support import tiny

#: Values that nearly every config accepts.
_SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}
_WITH_HEADS = {**_GROUPED, "head_dim": 8}
#: By name: the config's class and its values.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_GROUPED, "tie_word_embeddings": False}),
    "llama-tied": ("LlamaConfig", {**_GROUPED, "tie_word_embeddings": True}),
    "llama-biased": ("LlamaConfig", {**_GROUPED, "tie_word_embeddings": False, "attention_bias": True}),
    "mistral": ("MistralConfig", {**_GROUPED, "tie_word_embeddings": False}),
    "qwen3": ("Qwen3Config", {**_WITH_HEADS, "tie_word_embeddings": True}),
    "qwen3.5": (
        "Qwen3_5TextConfig",
        {
            **_WITH_HEADS,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "phi3": ("Phi3Config", {**_GROUPED, "tie_word_embeddings": False}),
    "gemma2": ("Gemma2Config", _WITH_HEADS),
    "gemma3": ("Gemma3TextConfig", _WITH_HEADS),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": 300,
            "n_positions": 128,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "bos_token_id": None,
            "eos_token_id": 0,
            "initializer_range": 0.2,
        },
    ),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": 300,
            "hidden_size": 32,
            "ffn_dim": 48,
            "word_embed_proj_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "init_std": 0.2,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 1,
        },
    ),
    "mixtral": ("MixtralConfig", {**_GROUPED, "num_local_experts": 4, "tie_word_embeddings": False}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        {**_WITH_HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "bert": ("BertConfig", _SMALL),
    "gpt-neox": ("GPTNeoXConfig", {**_SMALL, "tie_word_embeddings": False}),
    "bloom": ("BloomConfig", {"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": (
        "FalconConfig",
        {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
}

#: Names of layers' linear modules are taken from these by the table in docs/models.md.
TITLES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen3": "Qwen3",
    "qwen3.5": "Qwen3.5",
    "phi3": "Phi-3",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3 (text)",
    "gemma3-vision": "Gemma 3 (multimodal)",
    "qwen2.5-vl": "Qwen2.5-VL",
    "gpt2": "GPT-2",
    "opt": "OPT",
    "mixtral": "Mixtral",
    "qwen3-moe": "Qwen3-MoE",
    "bert": "BERT",
    "gpt-neox": "GPT-NeoX",
    "bloom": "BLOOM",
    "falcon": "Falcon",
}
_VISION = {"intermediate_size": 48, "patch_size": 14}
#: Models of several parts: the config's class, its values, and those of the text part.
SEVERAL_PARTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3-vision": (
        "Gemma3Config",
        {
            "vision_config": {
                **_VISION,
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "image_size": 28,
            },
            "mm_tokens_per_image": 4,
            "image_token_index": 259,
            "boi_token_index": 258,
            "eoi_token_index": 257,
            "eos_token_id": 0,
        },
        _WITH_HEADS,
    ),
    "qwen2.5-vl": (
        "Qwen2_5_VLConfig",
        {
            "vision_config": {
                **_VISION,
                "hidden_size": 32,
                "depth": 1,
                "num_heads": 4,
                "out_hidden_size": 32,
                "fullatt_block_indexes": [0],
            },
            "image_token_id": 259,
            "video_token_id": 258,
            "vision_start_token_id": 257,
            "vision_end_token_id": 256,
            "tie_word_embeddings": False,
        },
        {**_GROUPED, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
    ),
}


def config_of(name: str) -> Any:
    """Return the config of an architecture."""
    import transformers

    if name in SEVERAL_PARTS:
        cls, values, text = SEVERAL_PARTS[name]
        values = {**values, "text_config": text}
    else:
        cls, values = ARCHITECTURES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, cls)(**values)


def save_model(folder: Path, name: str, *, seed: int = 1) -> Path:
    """Write a random model of an architecture, with a tokenizer of 300 tokens at most; return the folder."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    tiny.save_tokenizer(folder)
    torch.manual_seed(seed)
    config = config_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "bert":
            model = transformers.BertForMaskedLM(config)
        elif name in SEVERAL_PARTS:
            model = transformers.AutoModelForImageTextToText.from_config(config)
        else:
            model = transformers.AutoModelForCausalLM.from_config(config)
        # If biases stayed zero, as they begin, nobody could see what is done to them.
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder)
    return folder
