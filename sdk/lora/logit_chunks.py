"""How many tokens' logits a training has at a time: the one rule of workers, and of what forecasts their memory.

>>> chunk_tokens(49_152, "cpu"), chunk_tokens(262_144, "cpu"), chunk_tokens(128_256, "cuda")
(85, 64, 523)
"""

from __future__ import annotations

from typing import Literal

#: Logits of a chunk: in float32 16 MiB on a CPU, and 256 MiB on a card, which computes few tokens as slowly as many.
_LOGITS = {"cpu": 2**22, "cuda": 2**26}
#: With fewer tokens the head's weights are read more often than they are computed with.
_LEAST_TOKENS = {"cpu": 64, "cuda": 256}


def chunk_tokens(vocabulary: int, place: Literal["cuda", "cpu"]) -> int:
    """Return the tokens of one chunk over a vocabulary."""
    return max(_LEAST_TOKENS[place], _LOGITS[place] // vocabulary)
