"""Predictions of a Llama, Mistral, Qwen 2 or Qwen 3 in numpy, in float32, from weight files that are read once.

To measure a plain merge of a small model, importing torch and transformers takes four times as long as the passes themselves.
What these models compute is in the papers: RMSNorm (arXiv:1910.07467), rotary positions (arXiv:2104.09864), SwiGLU
(arXiv:2002.05202), grouped queries (arXiv:2305.13245). A config with anything that is not known here to be without an effect is
left to transformers. Two models go through together, which share all weights that a merge copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

EMBEDDING = "model.embed_tokens.weight"
#: Keys of a config without an effect on predictions; those of `_read` have one, which is computed here.
_WITHOUT_EFFECT = frozenset(
    {
        "_model_name_or_path",
        "_name_or_path",
        "architectures",
        "attention_bias",
        "attention_dropout",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "intermediate_size",
        "is_encoder_decoder",
        "is_llama_config",
        "label2id",
        "max_position_embeddings",
        "max_window_layers",
        "mlp_bias",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "rope_interleaved",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "unk_token_id",
        "use_cache",
        "vocab_size",
    }
)
_READ = frozenset(
    {
        "head_dim",
        "hidden_act",
        "hidden_size",
        "layer_types",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "pretraining_tp",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "tie_word_embeddings",
        "use_sliding_window",
    }
)
_SPARED = frozenset({"rope_theta", "rope_type", "type"})
_EPSILON, _THETA = 1e-6, 10000.0


@dataclass(frozen=True)
class PlainModel:
    """The sizes of a model that is computed here."""

    layers: int
    heads: int
    key_value_heads: int
    epsilon: float
    #: Of rotary positions, (head dimension / 2), in radians per token.
    frequencies: Array
    is_tied: bool
    has_query_norms: bool

    def logits(
        self,
        ids: Array,
        *,
        embedding: Callable[[Array], Array],
        vector: Callable[[str], Array | None],
        multiplied: Callable[[str, Array], Array],
    ) -> Array:
        """Return the logits of both models for token ids (texts, seq), (2, texts, seq, vocabulary) in float32.

        `embedding` returns the rows of the embedding for tokens; `vector` a norm's weights or a bias, None if there is none;
        `multiplied` the products of inputs (2, tokens, in) with both models' weights of a name, (2, tokens, out).
        """
        texts, length = ids.shape
        embedded = embedding(ids.reshape(-1))
        x = np.broadcast_to(embedded, (2, *embedded.shape))
        turns = np.arange(length, dtype="<f4")[:, None] * self.frequencies
        cos, sin = (np.concatenate([each, each], axis=1) for each in (np.cos(turns), np.sin(turns)))

        def linear(name: str, inputs: Array) -> Array:
            found = multiplied(f"{name}.weight", inputs)
            bias = vector(f"{name}.bias")
            return found if bias is None else np.add(found, bias)

        def normed(name: str, values: Array) -> Array:
            weights = vector(f"{name}.weight")
            assert weights is not None
            scaled: Array = values / np.sqrt(np.square(values).mean(-1, keepdims=True) + self.epsilon)
            return scaled * weights

        def in_heads(name: str, inputs: Array, heads: int, norm: str | None) -> Array:
            """Return (2·texts, heads, seq, dimension of a head)."""
            found = linear(name, inputs).reshape(2 * texts, length, heads, -1)
            if norm is not None and self.has_query_norms:
                found = normed(norm, found)
            return found.transpose(0, 2, 1, 3)

        for number in range(self.layers):
            layer = f"model.layers.{number}"
            attention, inputs = f"{layer}.self_attn", normed(f"{layer}.input_layernorm", x)
            q = in_heads(f"{attention}.q_proj", inputs, self.heads, f"{attention}.q_norm")
            k = in_heads(f"{attention}.k_proj", inputs, self.key_value_heads, f"{attention}.k_norm")
            v = in_heads(f"{attention}.v_proj", inputs, self.key_value_heads, None)
            mixed = _attended(_turned(q, cos, sin), _turned(k, cos, sin), v)
            x = x + linear(f"{attention}.o_proj", mixed.transpose(0, 2, 1, 3).reshape(2, ids.size, -1))
            inputs = normed(f"{layer}.post_attention_layernorm", x)
            gate, up = linear(f"{layer}.mlp.gate_proj", inputs), linear(f"{layer}.mlp.up_proj", inputs)
            x = x + linear(f"{layer}.mlp.down_proj", _silu(gate) * up)
        x = normed("model.norm", x)
        found: Array = multiplied(EMBEDDING if self.is_tied else "lm_head.weight", x).reshape(2, texts, length, -1)
        return found


def plain_model(config: Mapping[str, Any], *, longest: int) -> PlainModel | None:
    """Return the model of a config whose shapes are known to be right, for texts up to a length; None if it is not known here."""
    if not config.keys() <= _WITHOUT_EFFECT | _READ or config.get("hidden_act", "silu") != "silu":
        return None
    if config.get("pretraining_tp", 1) != 1 or config.get("rope_interleaved"):
        return None
    # A window over more than the texts is none.
    window = config.get("sliding_window")
    if window is not None and not (type(window) is int and window >= longest):
        return None
    if not set(config.get("layer_types") or ()) <= {"full_attention", "sliding_attention"}:
        return None
    heads = config["num_attention_heads"]
    dimension = config.get("head_dim") or config["hidden_size"] // heads
    frequencies = _frequencies(config, dimension)
    epsilon = config.get("rms_norm_eps", _EPSILON)
    if frequencies is None or not isinstance(epsilon, float) or not epsilon > 0:
        return None
    return PlainModel(
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config["num_key_value_heads"],
        epsilon=epsilon,
        frequencies=frequencies,
        is_tied=bool(config.get("tie_word_embeddings", False)),
        has_query_norms=config["model_type"] == "qwen3",
    )


def _frequencies(config: Mapping[str, Any], dimension: int) -> Array | None:
    """Return the angles of rotary positions per token, None for a way of stretching them that is not known here."""
    said = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(said, Mapping):
        return None
    kind = said.get("rope_type", said.get("type", "default"))
    theta = said.get("rope_theta", config.get("rope_theta", _THETA))
    if not _is_size(theta) or dimension % 2:
        return None
    plain: Array = (1.0 / theta ** (np.arange(0, dimension, 2, dtype="<f4") / np.float32(dimension))).astype("<f4")
    if kind == "default" and said.keys() <= _SPARED:
        return plain
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    if kind != "llama3" or said.keys() - _SPARED != set(names) or not all(_is_size(said[name]) for name in names):
        return None
    factor, low, high, length = (float(said[name]) for name in names)
    if not high > low:
        return None
    # Of waves that are long beside the texts of the first training, fewer turns; between both, a mean.
    share = np.clip((length * plain / (2 * math.pi) - low) / (high - low), 0.0, 1.0)
    stretched: Array = ((1 - share) * plain / factor + share * plain).astype("<f4")
    return stretched


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _turned(values: Array, cos: Array, sin: Array) -> Array:
    """Rotate (…, seq, dimension) by the angles of the positions."""
    half = values.shape[-1] // 2
    swapped = np.concatenate([-values[..., half:], values[..., :half]], axis=-1)
    turned: Array = values * cos + swapped * sin
    return turned


def _attended(q: Array, k: Array, v: Array) -> Array:
    """Return softmax(q·kᵀ/√d)·v without what comes later, (texts, heads, seq, dimension)."""
    groups, length = q.shape[1] // k.shape[1], q.shape[2]
    k, v = (np.repeat(each, groups, axis=1) for each in (k, v))
    scores = np.matmul(q, k.transpose(0, 1, 3, 2)) * np.float32(q.shape[-1] ** -0.5)
    scores[..., np.triu(np.ones((length, length), dtype=bool), 1)] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed: Array = np.matmul(shares / shares.sum(-1, keepdims=True), v)
    return mixed


def _silu(values: Array) -> Array:
    """Return x/(1 + e⁻ˣ), whose power of e may overflow to an infinity, and the result is 0 then."""
    with np.errstate(over="ignore"):
        found: Array = values / (1 + np.exp(-values))
    return found
