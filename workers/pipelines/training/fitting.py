"""How much of a step a training computes at once, and less if memory runs out: what is done then, in this order. Each rung takes less,
and the effective batch stays the same.

>>> start = Fit(micro_rows=4, checkpointing=False, chunk_tokens=85)
>>> limits = Limits(checkpointing=True, chunk_tokens=85, offloading=False)
>>> rungs = [start]
>>> while (lower := limits.below(rungs[-1])) is not None:
...     rungs.append(lower)
>>> [change(*each) for each in zip(rungs, rungs[1:])]
['2 rows a pass', '1 row a pass', 'gradient checkpointing', 'logits of 10 tokens at a time']
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.schemas.failures import FailureReason
from sdk.whole_files import write_whole
from workers.pipelines.cpu.heap import give_pages_back, map_large_pieces
from workers.pipelines.cpu.row_attention import take_rows_alone
from workers.pipelines.cpu.saved_tensors import narrow_saved
from workers.pipelines.data.batches import micro_batches, token_losses
from workers.pipelines.data.heads import Head
from workers.pipelines.data.objective import Batch, TokenLosses
from workers.pipelines.data.packing import packed
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.device import give_back
from workers.pipelines.orders import Fit, Rung

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
        said.append("gradient checkpointing")
    if after.chunk_tokens != before.chunk_tokens:
        said.append(f"logits of {after.chunk_tokens} tokens at a time")
    if after.offloading and not before.offloading:
        said.append("activations in main memory")
    return ", ".join(said)


#: Reports how a training fits.
Say = Callable[[str], None]


@dataclass
class Fitting:
    """How much is computed at once now, and why."""

    fit: Fit
    #: With which settings memory has run out so far, and what followed, in words.
    steps: list[str]
    limits: Limits
    head: Head | None
    #: What a forward pass draws at random: "dropout masks", "noise".
    draws: tuple[str, ...]
    #: The longest row of the training, in tokens.
    longest_tokens: int
    on_cuda: bool
    #: Rows of at least this many tokens don't share a pass with shorter ones.
    turns: int | None
    #: The type in which the model computes and keeps values for a backward pass.
    dtype: Any
    say: Say
    #: The file from which a worker reads the rung if this process was killed.
    rung_file: Path | None = None
    #: The most rows of a pass of a look at held-out rows: None: as many as requested; 0: there is no memory for one.
    most_look_rows: int | None = None

    @property
    def losses(self) -> TokenLosses:
        """The function that computes the losses of tokens."""
        if self.head is None or self.fit.chunk_tokens is None:
            return token_losses
        return self.head.losses(self.fit.chunk_tokens)

    def parts(self, batch: Batch, sequences: int) -> Iterator[Batch]:
        """Yield the passes over a batch, whose longest row comes first and whose rows have several sequences each."""
        if not self.on_cuda:
            # Passes have many lengths, so memory freed by one has gaps that the next one doesn't fill.
            give_pages_back()
        if self.fit.packed:
            return packed(batch, self.fit.micro_rows * self.longest_tokens, self.turns)
        return micro_batches(batch, self.fit.micro_rows, self.turns, sequences)

    def saving(self) -> AbstractContextManager[None]:
        """The context for forward passes, in which nothing is kept in more bits than it has; not on a card, which would
        wait for each inspection of a tensor.
        """
        return nullcontext() if self.on_cuda else narrow_saved(self.dtype)

    def begin(self, model: Any) -> None:
        """Make a model compute with this setting, and record it."""
        _let_compute(model, self.fit)
        if not self.on_cuda and (self.fit.checkpointing or self.steps):
            # Memory is scarce here, time is not.
            map_large_pieces()
        self._write()

    def lower(self, model: Any, where: str) -> None:
        """Make a model compute with less memory, since it ran out in `where`. Raises PipelineError ("oom") if nothing
        takes less.
        """
        give_back()
        below = self.limits.below(self.fit)
        if below is None:
            tried = "; ".join(self.steps) or "nothing could be made smaller"
            raise PipelineError(
                FailureReason.OOM,
                f"Memory ran out in {where} with the least that can be computed at once (tried: {tried}); shorten max_length, lower"
                " rank, or choose method qlora.",
            )
        self._go_on(below, f"memory ran out in {where}", where)
        self.begin(model)

    def fewer_rows(self, where: str) -> None:
        """Record that memory ran out in `where`, whose passes had more rows than a step's."""
        self._go_on(self.fit, f"memory ran out in {where}", where)
        self._write()

    def go_on_after(self, killed: Rung) -> None:
        """Continue a training whose process was killed on a rung, with less memory if possible."""
        self.fit, self.steps = killed.fit, list(killed.steps)
        if killed.look_rows is not None:
            self.most_look_rows = killed.look_rows // 2
            self.say(
                "the system killed the process for lack of memory in a look at held-out rows; fewer are scored at once"
            )
        elif killed.below is not None:
            self._go_on(killed.below, "the system killed the process for lack of memory", "killed")

    def _go_on(self, below: Fit, why: str, where: str) -> None:
        changed = change(self.fit, below) or rows_a_pass(below)
        if self.draws and below.micro_rows != self.fit.micro_rows:
            # They are drawn per pass, so they depend on its rows.
            changed += f" (other {' and '.join(self.draws)})"
        self.steps.append(f"{where}: {changed}")
        self.say(f"{why}; it goes on with {changed}, same effective batch")
        self.fit = below

    def record(self) -> str | None:
        """Return the text for a record about settings with which memory ran out; None: it never did."""
        return "; ".join(self.steps) or None

    def looking(self, rows: int | None) -> None:
        """Note that a look scores so many rows a pass; None: it is over."""
        self._write(rows)

    def _write(self, look_rows: int | None = None) -> None:
        if self.rung_file is None:
            return
        rung = Rung(fit=self.fit, steps=self.steps, below=self.limits.below(self.fit), look_rows=look_rows)
        write_whole(self.rung_file, rung.model_dump_json(), durable=False)


def _let_compute(model: Any, fit: Fit) -> None:
    base = model.get_base_model()
    take_rows_alone(base, fit.row_attention)
    if not fit.checkpointing:
        return
    how = {"use_reentrant": False}
    if hasattr(base, "activation_checkpointing_enable"):
        base.activation_checkpointing_enable(how, offload=fit.offloading)
    else:
        base.gradient_checkpointing_enable(how)
