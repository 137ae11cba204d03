"""Rotary frequencies that depend on the length of a sequence, so that rows in one pass would affect each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def turns_at(model: Any) -> int | None:
    """Return from how many tokens on a model uses other frequencies for a whole pass than for shorter ones; None: it
    never does.

    Bases of the type "longrope" (Phi-3 and Phi-4 with 128k tokens) have a second set of frequencies, for sequences
    beyond the length that they were first trained on (https://arxiv.org/abs/2402.13753); transformers chooses the set
    for a whole pass, by its longest row.
    """
    config = model.config.get_text_config()
    within = [
        said.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        for said in _said(config)
        if said.get("rope_type") == "longrope"
    ]
    return min((int(tokens) + 1 for tokens in within if tokens), default=None)


def follows_each_length(model: Any) -> bool:
    """Whether a model's frequencies depend on the longest sequence that it has seen, as for the type "dynamic"."""
    return any(said.get("rope_type") == "dynamic" for said in _said(model.config.get_text_config()))


def parts(lengths: Sequence[int], rows: int, turns: int | None, *, beyond: int | None = None) -> Iterator[slice]:
    """Yield the rows of each pass, the longest first: up to `rows` rows with the same frequencies, or up to `beyond`
    rows of at least `turns` tokens.

    >>> list(parts([9, 8, 3, 2, 1], 2, 9))
    [slice(0, 1, None), slice(1, 3, None), slice(3, 5, None)]
    """
    edge = 0 if turns is None else sum(length >= turns for length in lengths)
    for first, end, most in ((0, edge, beyond or rows), (edge, len(lengths), rows)):
        for start in range(first, end, most):
            yield slice(start, min(start + most, end))


def _said(config: Any) -> list[Mapping[str, Any]]:
    """Return a config's settings of frequencies: one, or one for each kind of layer."""
    said = getattr(config, "rope_parameters", None) or {}
    return [said, *(each for each in said.values() if isinstance(each, Mapping))]
