"""Numbers and switches of a `config.json` that no model can have: they are found before anything is planned or stored.

>>> config_fault({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 9})
'says num_experts_per_tok = 9 of 8 experts, more than there are'
>>> config_fault({"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 8}) is None
True
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sdk.lora.planning.families import FAMILIES

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_POSITIONS = ("max_position_embeddings", "n_positions")
_DTYPES = ("dtype", "torch_dtype")
#: The types as which transformers loads weights, by torch's names.
_FLOATING = re.compile(r"(torch\.)?(auto|half|double|float|bfloat16|float(16|32|64|[48]_[a-z0-9_]+))")
#: Families whose heads are rotated as a whole; others rotate a part, or learn positions.
_TURNED = FAMILIES.keys() - {"gpt2", "gpt_neox"}


def config_fault(config: Mapping[str, Any]) -> str | None:
    """Return what is impossible in a config, or in its text model's, as a clause that begins with "says"; None if
    nothing is.
    """
    text = config.get("text_config")
    parts = [config, text] if isinstance(text, Mapping) else [config]
    return next((fault for part in parts for fault in _faults(part)), None)


def _faults(part: Mapping[str, Any]) -> Iterator[str]:
    kind = part.get("model_type")
    defaults = FAMILIES[kind].defaults if isinstance(kind, str) and kind in FAMILIES else {}
    active, experts = _count(part, defaults, "num_experts_per_tok"), _count(part, defaults, *_EXPERTS)
    if active and experts and active > experts:
        if part.get("num_experts_per_tok") is None:
            yield f"says no num_experts_per_tok, and the family's own of {active} is more than the {experts} experts that there are"
        yield f"says num_experts_per_tok = {active} of {experts} experts, more than there are"
    heads, pairs = _count(part, defaults, *_HEADS), _count(part, {}, "num_key_value_heads")
    if heads and pairs and heads % pairs:
        yield f"says num_key_value_heads = {pairs} for {heads} heads, which does not divide"
    if isinstance(kind, str) and kind in _TURNED and _turns_all(part):
        yield from _odd_heads(part, defaults, heads)
    for name in _POSITIONS:
        if (said := part.get(name)) is not None and not _is_count(said):
            yield f"says {name} = {_shown(said)}, which is not a whole number above 0"
    if not isinstance(said := part.get("tie_word_embeddings"), bool | None):
        yield f"says tie_word_embeddings = {_shown(said)}, which is neither true nor false"
    for name in _DTYPES:
        said = part.get(name)
        # An object has one type for each part of a model.
        if not isinstance(said, Mapping | None) and not (isinstance(said, str) and _FLOATING.fullmatch(said)):
            yield f"says {name} = {_shown(said)}, which is not a type of floating-point numbers"


def _odd_heads(part: Mapping[str, Any], defaults: Mapping[str, Any], heads: int | None) -> Iterator[str]:
    """Rotary positions rotate the numbers of a head in pairs."""
    said, hidden = _count(part, defaults, "head_dim"), _count(part, defaults, *_WIDTHS)
    if said and said % 2:
        yield f"says head_dim = {said}, an odd number, which rotary positions have no pairs of"
    elif not said and heads and hidden and hidden % heads == 0 and hidden // heads % 2:
        yield f"says hidden_size = {hidden} for {heads} heads, an odd width of {hidden // heads}, which rotary positions have no pairs of"


def _turns_all(part: Mapping[str, Any]) -> bool:
    rope = part.get("rope_parameters")
    said = [each.get("partial_rotary_factor") for each in (part, rope) if isinstance(each, Mapping)]
    return all(share is None or share == 1 for share in said)


def _count(part: Mapping[str, Any], defaults: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of several keys with a number above 0; other checks judge other values."""
    found = (each.get(name) for each in (part, defaults) for name in names)
    return next((value for value in found if type(value) is int and value > 0), None)


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and value % 1 == 0


def _shown(value: object) -> str:
    return ascii(value)[:40]
