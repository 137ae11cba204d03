"""The trainings that forecasts are held against: `benchmarks/forecast.py` runs them.

Random bases of real families with wide vocabularies and few layers, so that two steps take seconds and a gigabyte or more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

#: What rows are: whole texts, prompts with completions, preferences, or labelled texts.
RowKind = Literal["text", "prompts", "pairs", "labels"]

_SHAPE = {
    "num_hidden_layers": 4,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 64000,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
_GPT2 = {
    "n_layer": 6,
    "n_embd": 1024,
    "n_head": 16,
    "vocab_size": 50257,
    "n_positions": 1024,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
_QWEN_EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 384}
_MIXTRAL_EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 1024}


@dataclass(frozen=True)
class Case:
    """One training of two steps."""

    family: str
    #: What the base's config has otherwise than the others.
    shape: dict[str, Any] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16"] = "float32"
    rows: int = 2
    length: int = 512
    checkpointing: bool = False
    kind: RowKind = "text"
    #: Fields of the spec; a method is lora unless it is here.
    options: dict[str, Any] = field(default_factory=dict)
    #: Whether the formula was changed after a look at it, so that it proves nothing.
    tuned_on: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """The base's `config.json`."""
        shape = _GPT2 if self.family == "gpt2" else _SHAPE
        return {"model_type": self.family, "dtype": self.dtype, **shape, **self.shape}

    @property
    def name(self) -> str:
        """How a table has it."""
        shape = self.config
        tied = ", tied" if shape.get("tie_word_embeddings") or self.family in ("gpt2", "gemma3_text", "gemma2") else ""
        layers = shape.get("num_hidden_layers", shape.get("n_layer"))
        width = shape.get("hidden_size", shape.get("n_embd"))
        return f"{self.family} {layers} × {width}, {shape['vocab_size']:,} tokens{tied}"

    @property
    def asked(self) -> dict[str, Any]:
        """The fields of its spec."""
        fixed = {"method": "lora", "max_steps": 2, "grad_accum": 1, "lr": 1e-4}
        return {**fixed, "batch_size": self.rows, "max_length": self.length, **self.options}


_ALL = {"targets": "all-linear"}
_DORA = {"use_dora": True}
_TIED = {"tie_word_embeddings": True}
CASES: tuple[Case, ...] = (
    Case("llama"),
    Case("llama", checkpointing=True),
    Case("llama", {"num_hidden_layers": 8, "vocab_size": 32000}, "bfloat16", 4, options=_ALL),
    Case("llama", {"num_hidden_layers": 6, "hidden_size": 1024, "vocab_size": 32000}, "bfloat16", 4, options=_DORA),
    Case("llama", options=_DORA),
    Case("llama", {"num_hidden_layers": 6}, "bfloat16", 4, checkpointing=True, options=_DORA | _ALL),
    Case("qwen3", {"vocab_size": 128000, **_TIED}, "bfloat16", 4, checkpointing=True, options={"dropout": 0.0}),
    Case("qwen3", {"vocab_size": 128000, **_TIED}, length=256),
    Case("gemma3_text", {"vocab_size": 262144}, length=256, checkpointing=True, options=_ALL),
    Case("gemma3_text", {"vocab_size": 262144, "hidden_size": 640}, "bfloat16", length=384),
    Case("qwen3_moe", {"vocab_size": 32000, **_QWEN_EXPERTS}, rows=4, length=256),
    Case("qwen3_moe", _QWEN_EXPERTS, "bfloat16", 4, checkpointing=True),
    Case("mixtral", {"vocab_size": 32000, **_MIXTRAL_EXPERTS}),
    Case("mixtral", _MIXTRAL_EXPERTS, "bfloat16", 4, checkpointing=True),
    Case("llama", kind="pairs", length=256),
    Case("qwen3", {"vocab_size": 96000}, "bfloat16", 2, kind="pairs", checkpointing=True),
    Case("gpt2"),
    Case("phi3", {"vocab_size": 32000, "num_hidden_layers": 6}, "bfloat16", 6),
    Case("gemma2", {"vocab_size": 256000}, "bfloat16", 2, checkpointing=True),
    Case("llama", kind="prompts", rows=4),
    Case("qwen2", {"vocab_size": 152000}, "bfloat16", 4, kind="prompts", checkpointing=True),
    Case("llama", {"num_hidden_layers": 8}, "bfloat16", 4, options={"method": "qlora"}),
    Case("llama", {"vocab_size": 32000}, rows=1, length=2048, checkpointing=True),
    Case("llama", {"vocab_size": 32000, "num_hidden_layers": 6}, "bfloat16", 1, length=2048, options=_ALL),
    Case("gpt_neox", {"vocab_size": 50304}, rows=3, checkpointing=True),
    Case("olmo2", {"vocab_size": 100000}, length=384),
    Case(
        "mistral",
        {"vocab_size": 32000, "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 3},
        options={"rank": 64, **_ALL},
    ),
    Case("llama", {"num_hidden_layers": 10, "vocab_size": 8000}, rows=6, kind="labels"),
    Case("gemma3_text", {"vocab_size": 262144}, length=256, kind="prompts"),
)
