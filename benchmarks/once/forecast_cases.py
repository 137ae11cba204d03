"""The trainings that forecasts are held against: `benchmarks/once/forecast.py` runs them.

Random bases of real families with wide vocabularies and few layers, so that two steps take seconds and a gigabyte or more.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sdk.schemas.training import TrainingSpec

#: What rows are: whole texts, prompts with completions, preferences, or labelled texts.
RowKind = Literal["text", "prompts", "pairs", "labels"]

_SHAPE = {
    "num_hidden_layers": 8,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
_GPT2 = {
    "n_layer": 8,
    "n_embd": 256,
    "n_head": 8,
    "vocab_size": 50257,
    "n_positions": 1024,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
_QWEN_EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 192}
_MIXTRAL_EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 448}


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
    def half(self) -> int:
        """Tokens of a prompt, and of what follows it without its end."""
        return self.length // 2 - 4

    @property
    def tokens(self) -> int:
        """Tokens of a row's longest sequence."""
        return self.length if self.kind in ("text", "labels") else 2 * self.half + 1

    @property
    def supervised_tokens(self) -> int | None:
        """Tokens of a pass that the loss is taken on; the first of a text is predicted by nothing."""
        each = {"text": self.length - 1, "prompts": self.half + 1, "pairs": 2 * (self.half + 1)}.get(self.kind)
        return None if each is None else self.rows * each

    @property
    def added(self) -> list[str]:
        """The tokens that it adds to the vocabulary, with which each text begins."""
        return TrainingSpec.model_validate(self.asked).added

    @property
    def asked(self) -> dict[str, Any]:
        """The fields of its spec."""
        fixed = {"method": "lora", "max_steps": 2, "grad_accum": 1, "lr": 1e-4}
        return {**fixed, "batch_size": self.rows, "max_length": self.length, **self.options}


_ALL = {"targets": "all-linear"}
_DORA = {"use_dora": True}
_TIED = {"tie_word_embeddings": True}
_ADDED = {"add_tokens": "<red>,<blue>"}
#: The formula was changed after a look at these, so they prove nothing.
_TUNED_ON = (
    Case("gpt2", rows=10),
    Case("llama", rows=16),
    Case("llama", {"num_hidden_layers": 4, "vocab_size": 49152}, rows=72, checkpointing=True),
    Case("llama", {"vocab_size": 16000}, "bfloat16", 20, options=_ALL),
    Case("llama", {"num_hidden_layers": 12, "vocab_size": 16000}, "bfloat16", 12, options=_DORA),
    Case("llama", rows=14, options=_DORA),
    Case("qwen3_moe", {"vocab_size": 24000, **_QWEN_EXPERTS}, rows=12),
    Case("llama", {"num_hidden_layers": 16, "vocab_size": 8000}, rows=8, kind="labels"),
    Case("gemma3_text", {"num_hidden_layers": 14, "vocab_size": 262144}, rows=8, length=384, kind="prompts"),
    Case(
        "qwen3",
        {"num_hidden_layers": 4, "vocab_size": 64000, **_TIED},
        "bfloat16",
        104,
        checkpointing=True,
        options={"dropout": 0.0},
    ),
    Case(
        "gemma3_text",
        {"num_hidden_layers": 3, "intermediate_size": 8192, "vocab_size": 262144},
        rows=10,
        checkpointing=True,
        options=_ALL,
    ),
    Case(
        "mistral",
        {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4},
        rows=12,
        options={"rank": 64, **_ALL},
    ),
    Case("mixtral", {"vocab_size": 48000, **_MIXTRAL_EXPERTS}, "bfloat16", 16),
    Case(
        "mixtral", {"num_hidden_layers": 3, "vocab_size": 32000, **_MIXTRAL_EXPERTS}, "bfloat16", 80, checkpointing=True
    ),
    Case("gemma3_text", {"num_hidden_layers": 16, "vocab_size": 262144}, "bfloat16", rows=18, length=256),
    Case("qwen3_moe", {"vocab_size": 24000, **_QWEN_EXPERTS}, "bfloat16", 14),
)
_FORECAST_ONLY = (
    Case("qwen3", {"vocab_size": 64000, **_TIED}, rows=12),
    Case("mixtral", {"vocab_size": 24000, **_MIXTRAL_EXPERTS}, rows=12),
    Case("llama", {"vocab_size": 56000}, rows=8, kind="pairs"),
    Case("qwen3", {"num_hidden_layers": 3, "vocab_size": 48000}, "bfloat16", 60, kind="pairs", checkpointing=True),
    Case("phi3", {"num_hidden_layers": 10}, "bfloat16", 20),
    Case(
        "gemma2",
        {"num_hidden_layers": 3, "intermediate_size": 2816, "vocab_size": 256000},
        "bfloat16",
        32,
        checkpointing=True,
    ),
    Case("llama", {"vocab_size": 64000}, kind="prompts", rows=16),
    Case(
        "qwen2",
        {"num_hidden_layers": 3, "intermediate_size": 2816, "vocab_size": 152000},
        "bfloat16",
        52,
        kind="prompts",
        checkpointing=True,
    ),
    Case("llama", {"vocab_size": 49152}, "bfloat16", 24, options={"method": "qlora"}),
    Case("llama", {"num_hidden_layers": 3, "vocab_size": 32000}, rows=20, length=2048, checkpointing=True),
    Case("llama", {"num_hidden_layers": 12}, "bfloat16", 4, length=2048, options=_ALL),
    Case(
        "gpt_neox",
        {"num_hidden_layers": 3, "intermediate_size": 2048, "vocab_size": 50304},
        rows=64,
        checkpointing=True,
    ),
    Case("olmo2", {"vocab_size": 50000}, rows=16, length=384),
    Case("qwen2", {"vocab_size": 64000, **_TIED}, "bfloat16", 24, options={"bias": "all", "rank": 32}),
    Case("mistral", {"vocab_size": 40000}, rows=10, options=_DORA | _ALL),
    Case(
        "qwen3",
        {"num_hidden_layers": 4, "vocab_size": 32000},
        "bfloat16",
        76,
        checkpointing=True,
        options=_DORA | {"rank": 16},
    ),
    Case(
        "qwen2",
        {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 3},
        rows=14,
        options={"rank": 32, **_ALL},
    ),
    Case(
        "qwen3_moe", {"num_hidden_layers": 3, "vocab_size": 24000, **_QWEN_EXPERTS}, "bfloat16", 60, checkpointing=True
    ),
    Case(
        "gemma3_text", {"num_hidden_layers": 20, "vocab_size": 262144}, "bfloat16", rows=14, length=256, kind="prompts"
    ),
    Case("mixtral", {"vocab_size": 16000, **_MIXTRAL_EXPERTS, "intermediate_size": 640}, "bfloat16", 12),
    Case(
        "llama",
        {"num_hidden_layers": 3, "vocab_size": 32000},
        "bfloat16",
        112,
        checkpointing=True,
        options={"method": "qlora"},
    ),
    Case("llama", {"num_hidden_layers": 4, "vocab_size": 64000}, rows=4, length=256, options=_ADDED),
    Case("qwen3", {"num_hidden_layers": 3, "vocab_size": 152000, **_TIED}, "bfloat16", 4, length=256, options=_ADDED),
    Case("gemma3_text", {"num_hidden_layers": 3, "vocab_size": 262144}, rows=2, length=64, options=_ADDED),
    Case(
        "qwen3",
        {"num_hidden_layers": 3, "vocab_size": 152000},
        "bfloat16",
        4,
        length=256,
        checkpointing=True,
        options=_ADDED,
    ),
)
CASES: tuple[Case, ...] = (*(replace(case, tuned_on=True) for case in _TUNED_ON), *_FORECAST_ONLY)
