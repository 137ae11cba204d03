"""Which parameters the models of a family have, given the numbers of a config; a test checks this against transformers'
own models.

Shapes are (out, in) as torch.nn.Linear has them; GPT-2's Conv1D has (in, out).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

Shapes = dict[str, list[int]]
#: No model has more: a config may claim any number, and the names of all its tensors are generated.
_MOST_LAYERS = 1000
_MOST = 2**31


class ConfigError(ValueError):
    """A config lacks a needed number, or has an impossible one; the message is a clause."""


class Numbers:
    """The numbers of a config by their meaning, whatever the family's keys are. Raises ConfigError if one is missing."""

    def __init__(
        self, config: Mapping[str, Any], defaults: Mapping[str, Any], *, inner_times_hidden: int | None = None
    ) -> None:
        self.config = config
        self._defaults = defaults
        self._inner_times_hidden = inner_times_hidden

    def of(self, *names: str, default: int | None = None) -> int:
        """Return the first of several keys that the config has, or that the family has a default for."""
        for name in names:
            for said in (self.config, self._defaults):
                value = said.get(name)
                if value is None:
                    continue
                if type(value) is not int or not 0 < value <= _MOST:
                    shown = ascii(value)[:40]
                    raise ConfigError(f"says {name} = {shown}, which is not a whole number from 1 to {_MOST}")
                return value
        if default is None:
            raise ConfigError(f"says no {names[0]}")
        return default

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.of("hidden_size", "n_embd", "d_model")

    @property
    def layers(self) -> int:
        """Number of layers."""
        count = self.of("num_hidden_layers", "n_layer", "n_layers")
        if count > _MOST_LAYERS:
            raise ConfigError(f"says {count} layers, and no model has more than {_MOST_LAYERS}")
        return count

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.of("vocab_size")

    @property
    def heads(self) -> int:
        """Heads of queries."""
        return self.of("num_attention_heads", "n_head", "n_heads")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and of values."""
        return self.of("num_key_value_heads", default=self.heads)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        if self.config.get("head_dim") is None and "head_dim" not in self._defaults and self.hidden % self.heads:
            raise ConfigError(f"says a hidden size of {self.hidden} for {self.heads} heads, which does not divide")
        return self.of("head_dim", default=self.hidden // self.heads)

    @property
    def inner(self) -> int:
        """Width of a dense MLP."""
        times = self._inner_times_hidden
        if "intermediate_size" in self.config and self.config["intermediate_size"] is None and times is None:
            # transformers doesn't build such a model.
            raise ConfigError("says intermediate_size = null")
        return self.of(
            "intermediate_size", "n_inner", "ffn_dim", default=None if times is None else times * self.hidden
        )

    @property
    def moe_inner(self) -> int:
        """Width of an expert."""
        return self.of("moe_intermediate_size", "intermediate_size")

    @property
    def experts(self) -> int:
        """Experts of a layer."""
        return self.of("num_experts", "num_local_experts")

    @property
    def active_experts(self) -> int:
        """Experts that a token goes through."""
        return self.of("num_experts_per_tok")

    def says(self, name: str) -> bool:
        """Whether a switch of the config is on."""
        return self.config.get(name) is True


def tied(config: Mapping[str, Any], text: Mapping[str, Any], default: bool) -> bool:
    """Return whether the head is tied to the embedding, by the config, or its text model's config, or else the family."""
    said = [part["tie_word_embeddings"] for part in (config, text) if "tie_word_embeddings" in part]
    return bool(said[0]) if said else default


Layer = Callable[[Numbers, int], Shapes]


@dataclass(frozen=True)
class Family:
    """The models of one `model_type`."""

    #: The parameters of the layer with a given number, by their names within it.
    layer: Layer
    #: The part of a name before the number of a layer.
    path: str = "model.layers"
    embedding: str = "model.embed_tokens"
    last_norm: str = "model.norm"
    tied: bool = False
    transposed: bool = False
    #: Numbers that the MLP keeps for each unit of its inner width: three for SwiGLU.
    mlp_kept: int = 3
    norms: int = 2
    normed_queries: bool = False
    #: Whether one matrix makes queries, keys and values; the first two are rotated.
    joined_qkv: bool = False
    #: Whether there is dropout on attention if the config doesn't say.
    drops_attention: bool = False
    #: Whether transformers computes the model's attention without a matrix of all scores; not for Gemma 2, which
    #: soft-caps them.
    sdpa: bool = True
    #: Whether a token chooses experts.
    experts: bool = False
    #: LayerNorm has a bias, RMSNorm has none.
    norm_bias: bool = False
    #: Key for the number of learnt positions, and the name of their embedding.
    positions: tuple[str, str] | None = None
    #: transformers' defaults for keys that a config of such a model lacks.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: The width of an MLP as a multiple of the hidden size, if the config gives none.
    inner_times_hidden: int | None = None
    #: The part of a larger config besides this text model; it is not counted. None: there is no such config.
    beside: str | None = None

    def tensors(self, numbers: Numbers, *, tied: bool) -> Shapes:
        """Return name and shape of all parameters."""
        found: Shapes = {f"{self.embedding}.weight": [numbers.vocabulary, numbers.hidden]}
        if self.positions is not None:
            found[self.positions[1]] = [numbers.of(self.positions[0]), numbers.hidden]
        for number in range(numbers.layers):
            found |= {f"{self.path}.{number}.{name}": shape for name, shape in self.layer(numbers, number).items()}
        found |= norm(self.last_norm, numbers.hidden, bias=self.norm_bias)
        if not tied:
            found["lm_head.weight"] = [numbers.vocabulary, numbers.hidden]
        return found


def norm(name: str, width: int, *, bias: bool = False) -> Shapes:
    """Return a normalisation's parameters."""
    return {f"{name}.weight": [width]} | ({f"{name}.bias": [width]} if bias else {})


def linear(name: str, out: int, into: int, *, bias: bool = False) -> Shapes:
    """Return a linear module's parameters."""
    return {f"{name}.weight": [out, into]} | ({f"{name}.bias": [out]} if bias else {})


def _mlp(n: Numbers, *, bias: bool = False) -> Shapes:
    return (
        linear("mlp.gate_proj", n.inner, n.hidden, bias=bias)
        | linear("mlp.up_proj", n.inner, n.hidden, bias=bias)
        | linear("mlp.down_proj", n.hidden, n.inner, bias=bias)
    )


def _experts(n: Numbers) -> Shapes:
    """As transformers 5 stores them: all experts of a layer in one parameter, gate above up."""
    return {
        "mlp.gate.weight": [n.experts, n.hidden],
        "mlp.experts.gate_up_proj": [n.experts, 2 * n.moe_inner, n.hidden],
        "mlp.experts.down_proj": [n.experts, n.hidden, n.moe_inner],
    }


def _norms(n: Numbers, *names: str, bias: bool = False) -> Shapes:
    return {key: shape for name in names for key, shape in norm(name, n.hidden, bias=bias).items()}


_TWO = ("input_layernorm", "post_attention_layernorm")
_FOUR = (*_TWO, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def _llama_like(
    n: Numbers,
    _number: int,
    *,
    biases: tuple[bool, bool] | None = None,
    head_norms: bool = False,
    row_norms: bool = False,
    mlp_bias: bool = False,
    experts: bool = False,
    norms: tuple[str, ...] = _TWO,
) -> Shapes:
    """`biases` are of queries, keys and values, and of the output; None: as the config says."""
    queries, keys = n.heads * n.head_dim, n.kv_heads * n.head_dim
    qkv_bias, out_bias = biases or (n.says("attention_bias"),) * 2
    found = linear("self_attn.q_proj", queries, n.hidden, bias=qkv_bias)
    found |= linear("self_attn.k_proj", keys, n.hidden, bias=qkv_bias)
    found |= linear("self_attn.v_proj", keys, n.hidden, bias=qkv_bias)
    found |= linear("self_attn.o_proj", n.hidden, queries, bias=out_bias)
    if head_norms or row_norms:
        widths = (n.head_dim, n.head_dim) if head_norms else (queries, keys)
        found |= norm("self_attn.q_norm", widths[0]) | norm("self_attn.k_norm", widths[1])
    found |= _experts(n) if experts else _mlp(n, bias=mlp_bias and n.says("mlp_bias"))
    return found | _norms(n, *norms)


def _qwen3_moe(n: Numbers, number: int) -> Shapes:
    every = n.of("decoder_sparse_step", default=1)
    plain = n.config.get("mlp_only_layers")
    dense = (isinstance(plain, list) and number in plain) or (number + 1) % every
    return _llama_like(n, number, head_norms=True, experts=not dense)


def _phi3(n: Numbers, _number: int) -> Shapes:
    queries, keys = n.heads * n.head_dim, n.kv_heads * n.head_dim
    return (
        linear("self_attn.qkv_proj", queries + 2 * keys, n.hidden)
        | linear("self_attn.o_proj", n.hidden, queries)
        | linear("mlp.gate_up_proj", 2 * n.inner, n.hidden)
        | linear("mlp.down_proj", n.hidden, n.inner)
        | _norms(n, *_TWO)
    )


def _gpt_neox(n: Numbers, _number: int) -> Shapes:
    bias = n.config.get("attention_bias") is not False
    return (
        linear("attention.query_key_value", 3 * n.hidden, n.hidden, bias=bias)
        | linear("attention.dense", n.hidden, n.hidden, bias=bias)
        | linear("mlp.dense_h_to_4h", n.inner, n.hidden, bias=True)
        | linear("mlp.dense_4h_to_h", n.hidden, n.inner, bias=True)
        | _norms(n, *_TWO, bias=True)
    )


def _gpt2(n: Numbers, _number: int) -> Shapes:
    def conv1d(name: str, out: int, into: int) -> Shapes:
        return {f"{name}.weight": [into, out], f"{name}.bias": [out]}

    return (
        conv1d("attn.c_attn", 3 * n.hidden, n.hidden)
        | conv1d("attn.c_proj", n.hidden, n.hidden)
        | conv1d("mlp.c_fc", n.inner, n.hidden)
        | conv1d("mlp.c_proj", n.hidden, n.inner)
        | _norms(n, "ln_1", "ln_2", bias=True)
    )


_GEMMA3 = Family(
    partial(_llama_like, head_norms=True, norms=_FOUR),
    tied=True,
    norms=4,
    normed_queries=True,
    defaults={
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "intermediate_size": 9216,
        "vocab_size": 262208,
    },
    beside="its part for images",
)
#: By `model_type`.
FAMILIES: Mapping[str, Family] = {
    "llama": Family(partial(_llama_like, mlp_bias=True), defaults={"intermediate_size": 11008}),
    "mistral": Family(
        partial(_llama_like, biases=(False, False)), defaults={"num_key_value_heads": 8, "intermediate_size": 14336}
    ),
    "mixtral": Family(
        partial(_llama_like, biases=(False, False), experts=True),
        experts=True,
        defaults={
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "intermediate_size": 14336,
        },
    ),
    "qwen2": Family(
        partial(_llama_like, biases=(True, False)), defaults={"num_key_value_heads": 32, "intermediate_size": 22016}
    ),
    "qwen3": Family(
        partial(_llama_like, head_norms=True),
        normed_queries=True,
        defaults={"num_key_value_heads": 32, "head_dim": 128, "intermediate_size": 22016},
    ),
    "qwen3_moe": Family(
        _qwen3_moe,
        experts=True,
        normed_queries=True,
        defaults={
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
        },
    ),
    "gemma": Family(
        _llama_like, tied=True, defaults={"num_key_value_heads": 16, "head_dim": 256, "intermediate_size": 24576}
    ),
    "gemma2": Family(
        partial(_llama_like, norms=_FOUR),
        tied=True,
        norms=4,
        sdpa=False,
        defaults={"num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216},
    ),
    "gemma3_text": _GEMMA3,
    "olmo2": Family(
        partial(_llama_like, row_norms=True, norms=("post_attention_layernorm", "post_feedforward_layernorm")),
        normed_queries=True,
        defaults={"intermediate_size": 11008},
    ),
    "phi3": Family(_phi3, joined_qkv=True, defaults={"intermediate_size": 8192}),
    "gpt_neox": Family(
        _gpt_neox,
        path="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        last_norm="gpt_neox.final_layer_norm",
        defaults={"intermediate_size": 24576},
        # Attention and MLP normalise the same input, and a GELU keeps its input.
        mlp_kept=1,
        norms=1,
        joined_qkv=True,
        norm_bias=True,
    ),
    "gpt2": Family(
        _gpt2,
        drops_attention=True,
        path="transformer.h",
        embedding="transformer.wte",
        last_norm="transformer.ln_f",
        tied=True,
        transposed=True,
        mlp_kept=6,
        norm_bias=True,
        positions=("n_positions", "transformer.wpe.weight"),
        defaults={"n_positions": 1024},
        inner_times_hidden=4,
    ),
}
