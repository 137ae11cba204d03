"""Which models GGUF can represent exactly, and their dimensions, read from the config alone.

For Llama and Mistral llama.cpp rotates neighbouring rows of q and k, while transformers rotates rows that are half a head apart:
`GgufModel.rotated` says that rows must be reordered. For all other models both do the latter.

>>> config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "vocab_size": 300,
...           "num_attention_heads": 4, "num_key_value_heads": 2}
>>> adapted_model(config).heads_of("self_attn.k_proj"), adapted_model(config).shape_of("self_attn.k_proj")
(2, (32, 64))
>>> adapted_model({"model_type": "opt"})
Traceback (most recent call last):
sdk.errors.InvalidBase: adapters over OPT models can't be exported to GGUF, those over Gemma 2, Gemma 3, Llama, Mistral, Qwen3 \
can; merge it and serve the merged model another way
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdk.errors import InvalidBase


@dataclass(frozen=True)
class _Family:
    #: The name that people use.
    title: str
    #: `general.architecture`, as llama.cpp calls it.
    architecture: str
    #: Whether llama.cpp rotates neighbouring rows of q and k.
    rotated: bool
    #: transformers' defaults for what a config leaves out; None: the hidden size divided by the number of heads.
    head_dim: int | None
    tied: bool


#: By `model_type`.
_FAMILIES = {
    "gemma2": _Family("Gemma 2", "gemma2", rotated=False, head_dim=256, tied=True),
    "gemma3": _Family("Gemma 3", "gemma3", rotated=False, head_dim=256, tied=True),
    "gemma3_text": _Family("Gemma 3", "gemma3", rotated=False, head_dim=256, tied=True),
    "llama": _Family("Llama", "llama", rotated=True, head_dim=None, tied=False),
    "mistral": _Family("Mistral", "llama", rotated=True, head_dim=None, tied=False),
    "qwen3": _Family("Qwen3", "qwen3", rotated=False, head_dim=128, tied=False),
}
#: Models that can be exported whole, and the class in their `architectures`.
_WHOLE = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen3": "Qwen3ForCausalLM"}
#: The most that each number of a config may be: llama.cpp has no more than 512 layers; others are written in 32 bits.
_MOST = {"num_hidden_layers": 512}
_MOST_WHOLE = 2**32 - 1
_MOST_REAL = 3e38
#: transformers' default of a Mistral's sliding_window, in tokens, where the config has no such key.
_MISTRAL_WINDOW = 4096

#: The linear modules of a layer, as transformers names them.
LAYER_MODULES = frozenset(
    {*(f"self_attn.{one}_proj" for one in "qkvo"), *(f"mlp.{one}_proj" for one in ("gate", "up", "down"))}
)
#: The classes of models that can be exported whole.
WHOLE_MODELS = frozenset(_WHOLE.values())


@dataclass(frozen=True)
class GgufModel:
    """The dimensions of a model that GGUF can represent."""

    title: str
    #: `general.architecture`.
    architecture: str
    rotated: bool
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    #: Whether the output head is the embeddings.
    tied: bool

    def shape_of(self, name: str) -> tuple[int, int]:
        """Return (out, in) of a layer's linear module, of "embed_tokens" or of "lm_head". Raises KeyError for others."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "mlp.gate_proj": (self.feed_forward, self.hidden),
            "mlp.up_proj": (self.feed_forward, self.hidden),
            "mlp.down_proj": (self.hidden, self.feed_forward),
            "embed_tokens": (self.vocabulary, self.hidden),
            "lm_head": (self.vocabulary, self.hidden),
        }[name]

    def heads_of(self, name: str) -> int | None:
        """Return the number of heads within which a module's rows are reordered; None if they are not."""
        if not self.rotated:
            return None
        return {"self_attn.q_proj": self.heads, "self_attn.k_proj": self.kv_heads}.get(name)


def adapted_model(config: Mapping[str, Any]) -> GgufModel:
    """Return the dimensions of a base whose adapters can be exported. Raises InvalidBase."""
    kind = str(config.get("model_type"))
    family = _FAMILIES.get(kind)
    if family is None:
        titles = ", ".join(sorted({family.title for family in _FAMILIES.values()}))
        raise InvalidBase(
            f"adapters over {_called(kind)} models can't be exported to GGUF, those over {titles} can; merge it and serve the "
            "merged model another way",
            param="base",
        )
    inner = config.get("text_config")
    text = {**config, **inner} if isinstance(inner, Mapping) else config
    heads = _whole(text, "num_attention_heads")
    hidden = _whole(text, "hidden_size")
    return GgufModel(
        title=family.title,
        architecture=family.architecture,
        rotated=family.rotated,
        layers=_whole(text, "num_hidden_layers"),
        hidden=hidden,
        feed_forward=_whole(text, "intermediate_size"),
        heads=heads,
        kv_heads=_whole(text, "num_key_value_heads", heads),
        head_dim=_whole(text, "head_dim", family.head_dim or hidden // heads),
        vocabulary=_whole(text, "vocab_size"),
        tied=_flag(text, "tie_word_embeddings", family.tied),
    )


def whole_model(config: Mapping[str, Any]) -> GgufModel:
    """Return the dimensions of a model that can be exported whole. Raises InvalidBase that names what is not supported."""
    kind, named = str(config.get("model_type")), config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    if kind not in _WHOLE or architecture != _WHOLE[kind]:
        titles = ", ".join(_FAMILIES[known].title for known in _WHOLE)
        raise _unfit(f"is a {str(architecture or kind)[:80]}", f"export the causal models of {titles}")
    if config.get("quantization_config") is not None:
        raise _unfit("is quantised", "merge with --onto dequantized, or quantise the GGUF file afterwards")
    model = adapted_model(config)
    if config.get("hidden_act", "silu") != "silu":
        raise _unfit(f"has the activation {str(config['hidden_act'])[:40]!r}", "export models with silu")
    if model.head_dim % 2:
        raise _unfit("has heads of an odd size", "export another model")
    if kind == "qwen3":
        if config.get("attention_bias") is True:
            raise _unfit("is a Qwen3 whose attention has biases", "export another model")
        layers = config.get("layer_types")
        if config.get("use_sliding_window") is True or (isinstance(layers, list) and set(layers) - {"full_attention"}):
            raise _unfit("has a sliding window in some layers", "export a Qwen3 whose layers see the whole text")
    rope_of(config)
    norm_epsilon(config)
    longest_context(config)
    return model


@dataclass(frozen=True)
class Rope:
    """How positions are turned into angles."""

    theta: float
    #: "default", "linear" or "llama3".
    kind: str
    settings: Mapping[str, float]


#: The settings that each kind of scaling needs.
_ROPE_SETTINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def rope_of(config: Mapping[str, Any]) -> Rope:
    """Return how a model turns positions into angles, as written by transformers 4 or 5. Raises InvalidBase."""
    # Where there are both, transformers 4 knows only rope_scaling, and transformers 5 prefers it.
    said = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(said, Mapping):
        raise _unfit("has rope_scaling or rope_parameters that are not an object", "correct its config.json")
    kind = str(said.get("rope_type", said.get("type", "default")))
    if kind not in _ROPE_SETTINGS:
        raise _unfit(f"scales its positions by {kind[:40]!r}", f"these can be exported: {', '.join(_ROPE_SETTINGS)}")
    if said.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) not in (None, 1, 1.0):
        raise _unfit("rotates only a part of each head", "export another model")
    theta = said.get("rope_theta", config.get("rope_theta", 10000.0))
    settings = {name: said.get(name) for name in _ROPE_SETTINGS[kind]}
    for name, value in {"rope_theta": theta, **settings}.items():
        if type(value) not in (int, float) or not 0 < value <= _MOST_REAL:
            raise _unfit(f"does not say its {name}", "correct its config.json")
    return Rope(float(theta), kind, {name: float(value) for name, value in settings.items() if value is not None})


def longest_context(config: Mapping[str, Any]) -> tuple[int, bool]:
    """Return up to how many tokens a whole model is the same in llama.cpp, and whether that is less than its own context.

    llama.cpp has no sliding window for Mistral; within one window it makes no difference.
    """
    positions = _whole(config, "max_position_embeddings")
    if config.get("model_type") != "mistral":
        return positions, False
    window = config.get("sliding_window", _MISTRAL_WINDOW)
    if window is None:
        return positions, False
    if type(window) is not int or window < 1:
        raise _unfit(f"has a sliding_window of {str(window)[:40]!r}", "write a number of tokens, or null for none")
    return min(window, positions), window < positions


def norm_epsilon(config: Mapping[str, Any]) -> float:
    """Return what the norms of a whole model add to the variance. Raises InvalidBase."""
    # transformers' default for Llama, Mistral and Qwen3.
    value = config.get("rms_norm_eps", 1e-6)
    if type(value) not in (int, float) or not 0 < value <= _MOST_REAL:
        raise _unfit(f"has a rms_norm_eps of {str(value)[:40]!r}", "correct its config.json")
    return float(value)


def _called(kind: str) -> str:
    return kind[:40].upper() if len(kind) <= 4 else kind[:40]


def _unfit(what: str, advice: str) -> InvalidBase:
    return InvalidBase(f"the model {what}, which can't be exported to GGUF; {advice}", param="target")


def _whole(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise InvalidBase(f"the base's config.json does not say its {key}; correct it, then export again", param="base")
    most = _MOST.get(key, _MOST_WHOLE)
    if value > most:
        raise InvalidBase(
            f"the base's config.json gives {str(value)[:20]} as its {key}, but llama.cpp takes {most} at most; correct it, then "
            "export again",
            param="base",
        )
    return value


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key)
    return value if type(value) is bool else default
