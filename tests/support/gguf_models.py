"""Tiny models as GGUF files for adapters: exported by the product, or written by hand for Gemma."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sdk.exporting.gguf import config_of
from sdk.schemas.export import ExportReport, ExportRequest


def export_folder(folder: Path, out: Path, **asked: Any) -> ExportReport:
    """Export the model of a folder in this process."""
    from workers.pipelines.exporting.model import export_model

    given = {"dtype": None, "name": folder.name, **asked}
    return export_model(
        ExportRequest(kind="model", folder=str(folder), config=config_of(folder), out=str(out), **given)
    )


def export_lora(folder: Path, base: Path, out: Path, **asked: Any) -> ExportReport:
    """Export the adapter of a folder in this process."""
    from workers.pipelines.exporting.adapter import export_adapter

    given = {"dtype": None, "name": folder.name, **asked}
    return export_adapter(
        ExportRequest(kind="adapter", folder=str(folder), config=config_of(base), out=str(out), **given)
    )


def write_gemma(folder: Path, out: Path) -> Path:
    """Write a tiny Gemma 2 or 3 of transformers by hand: its norms are 1 + the weight, and no rows are permuted."""
    import gguf
    from safetensors.numpy import load_file

    from workers.pipelines.data.tokenizer import load_tokenizer

    config = json.loads((folder / "config.json").read_text())
    arch = {"gemma2": "gemma2", "gemma3_text": "gemma3"}[config["model_type"]]
    writer = gguf.GGUFWriter(out, arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_sliding_window(config["sliding_window"])
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    else:
        writer.add_rope_freq_base(1_000_000.0)
    tokenizer = load_tokenizer(folder)
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(number, f"[PAD{number}]") for number in range(config["vocab_size"])])
    writer.add_token_types([1] * config["vocab_size"])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config["num_hidden_layers"])
    for name, tensor in sorted(load_file(folder / "model.safetensors").items()):
        shifted = tensor + 1.0 if name.endswith("norm.weight") else tensor
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.asarray(shifted, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
