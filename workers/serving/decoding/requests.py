"""What the decode loop is asked for, and what it says: tokens in, tokens out, no text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class ServedPlacement(StrEnum):
    """How a kind of adapter is served beside others."""

    SHARES_A_BATCH = "shares a batch"
    OWN_BATCH = "own batch"
    OWN_BASE = "own base"


class EndReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True)
class DecodeQuestion:
    """A prompt, and how it is answered."""

    prompt: tuple[int, ...]
    #: The versioned name of the adapter; None: the base.
    adapter: str | None
    max_tokens: int
    #: 0: greedy.
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop_ids: frozenset[int] = frozenset()
    #: How many of the likeliest tokens come with each token, besides its own log-probability; None: neither.
    logprobs: int | None = None
    #: Whether the prompt's own tokens are scored too; they come first.
    scores_prompt: bool = False
    #: The first of the prompt's tokens that is scored then; those before it come without.
    scores_from: int = 0


class Token(NamedTuple):
    """A token of an answer, or of a prompt that is scored."""

    id: int
    #: In nats, before temperature; None for a prompt's first token, and where none was asked for.
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


class Ended(NamedTuple):
    """The last thing that comes for a question."""

    reason: EndReason
    #: A sentence if it failed.
    error: str | None = None


#: Called in the loop's thread, in order, exactly once with `Ended`; it must not block.
OnPiece = Callable[[Token | Ended], None]
