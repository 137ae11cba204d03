"""Tokens whose rows of an embedding, or of a head, are trained, as PEFT's `trainable_token_indices` names them.

>>> highest_token([3, 5]), highest_token({"embed_tokens": [3], "lm_head": [7]}), highest_token([])
(5, 7, -1)
>>> missing_rows({"embed_tokens": [300, 301], "lm_head": [301]}, rows=300)
{'lm_head': 300}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Tokens of the input embedding, or of each module by the end of its name.
TrainedTokens = Sequence[int] | Mapping[str, Sequence[int]]


def highest_token(said: TrainedTokens | None) -> int:
    """Return the largest of the tokens; -1 if there are none."""
    return max((token for tokens in _by_module(said).values() for token in tokens), default=-1)


def missing_rows(said: TrainedTokens, *, rows: int) -> dict[str, int]:
    """Return the first token without a row by module, where tokens beyond the base's `rows` are trained: a vocabulary that
    grows needs one for each, up to the largest. "" is the input embedding of a list.
    """
    grown = range(rows, highest_token(said) + 1)
    if len(grown) > sum(map(len, _by_module(said).values())):
        # Some lack one, and a stranger may have written any number.
        grown = range(rows, rows + len(max(_by_module(said).values(), key=len)) + 1)
    lacking = {module: set(grown).difference(each) for module, each in _by_module(said).items()}
    return {module: min(tokens) for module, tokens in lacking.items() if tokens}


def _by_module(said: TrainedTokens | None) -> Mapping[str, Sequence[int]]:
    return said if isinstance(said, Mapping) else {"": said or ()}
