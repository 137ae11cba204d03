"""What is done, in this order, if memory runs out in a step: each rung takes less, and the effective batch stays the same.

>>> start = Fit(micro_rows=4, checkpointing=False, chunk_tokens=85)
>>> limits = Limits(checkpointing=True, chunk_tokens=85, offloading=False)
>>> rungs = [start]
>>> while (lower := limits.below(rungs[-1])) is not None:
...     rungs.append(lower)
>>> [change(*each) for each in zip(rungs, rungs[1:])]
['2 rows a pass', '1 row a pass', 'activations computed twice', 'logits of 10 tokens at a time']
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.pipelines.training.order import Fit

#: The last chunks are this many times smaller than those that cost no time.
_SMALLER_CHUNKS = 8


@dataclass(frozen=True)
class Limits:
    """What a model on a device can do to take less memory."""

    #: Whether activations can be computed twice.
    checkpointing: bool
    #: Tokens in a chunk of logits that costs little time; None: all logits are in memory at once.
    chunk_tokens: int | None
    #: Whether there is other memory to which activations can be offloaded.
    offloading: bool

    def below(self, fit: Fit) -> Fit | None:
        """Return what takes less memory than `fit`; None: nothing does."""
        if fit.micro_rows > 1:
            return fit.model_copy(update={"micro_rows": fit.micro_rows // 2})
        if self.checkpointing and not fit.checkpointing:
            return fit.model_copy(update={"checkpointing": True})
        if self.chunk_tokens is not None:
            fewest = max(1, self.chunk_tokens // _SMALLER_CHUNKS)
            if fit.chunk_tokens is None or fit.chunk_tokens > fewest:
                return fit.model_copy(update={"chunk_tokens": fewest})
        if self.offloading and fit.checkpointing and not fit.offloading:
            return fit.model_copy(update={"offloading": True})
        return None


def rows_a_pass(fit: Fit) -> str:
    """Return in words how many rows a pass has."""
    return f"{fit.micro_rows} row{'s' if fit.micro_rows > 1 else ''} a pass"


def change(before: Fit, after: Fit) -> str:
    """Return in words what a lower rung changes."""
    said = []
    if after.micro_rows != before.micro_rows:
        said.append(rows_a_pass(after))
    if after.checkpointing and not before.checkpointing:
        said.append("activations computed twice")
    if after.chunk_tokens != before.chunk_tokens:
        said.append(f"logits of {after.chunk_tokens} tokens at a time")
    if after.offloading and not before.offloading:
        said.append("activations in main memory")
    return ", ".join(said)
