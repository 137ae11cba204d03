"""For how many tokens a training has logits at a time: the one rule for workers and for the forecasts of their memory.

>>> chunk_tokens(49_152, "cpu"), chunk_tokens(262_144, "cpu"), chunk_tokens(128_256, "cuda")
(85, 64, 523)
"""

from __future__ import annotations

from typing import Literal

#: The logits of a chunk take 16 MiB in float32 on a CPU, and 256 MiB on a card, which is as slow for few tokens as for many.
_LOGITS = {"cpu": 2**22, "cuda": 2**26}
#: With fewer tokens, reading the head's weights would take longer than computing with them.
_LEAST_TOKENS = {"cpu": 64, "cuda": 256}


def chunk_tokens(vocabulary: int, place: Literal["cuda", "cpu"]) -> int:
    """Return the number of tokens in a chunk for a vocabulary of this size."""
    return max(_LEAST_TOKENS[place], _LOGITS[place] // vocabulary)
