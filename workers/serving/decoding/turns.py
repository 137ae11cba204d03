"""Who is read and who is answered in each turn of the decode loop. Only its thread comes here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from workers.pipelines.errors import first_line
from workers.pipelines.model.device import give_back, is_out_of_memory
from workers.serving.decoding.batches import (
    NOT_FINITE,
    Batch,
    OpenAnswer,
    PromptReading,
    most_places,
    read_together,
)
from workers.serving.decoding.joining import Decoding
from workers.serving.decoding.requests import EndReason
from workers.serving.decoding.sampling import NotANumber


class DecodeTurns:
    """The questions in work: prompts that are being read, and batches that are being decoded."""

    def __init__(
        self, decoding: Decoding, *, turning_tokens: int | None, cache_tokens: int, most_running: int, part_tokens: int
    ) -> None:
        """`turning_tokens`: from how many tokens on the base reads all of a text by other frequencies, as `turns_at` returns."""
        self._decoding, self._turning_tokens = decoding, turning_tokens
        self._cache_tokens, self._most_running, self._part_tokens = cache_tokens, most_running, part_tokens
        self._reading: deque[PromptReading] = deque()
        self._batches: list[Batch] = []

    def __len__(self) -> int:
        """Return how many questions are in work; any thread may ask."""
        return len(self._reading) + sum(len(batch.rows) for batch in self._batches)

    def asked(self) -> Iterator[OpenAnswer]:
        """Yield the questions in work."""
        yield from (each.asked for each in self._reading)
        for batch in self._batches:
            yield from batch.rows

    def has_room(self, asked: OpenAnswer) -> bool:
        """Whether one more question may be in work, and all caches stay within their bound whatever is answered."""
        if len(self) >= self._most_running:
            return False
        return not len(self) or most_places([*self.asked(), asked]) <= self._cache_tokens

    def begin(self, asked: OpenAnswer) -> None:
        """Put a question to work."""
        parts = self._part_tokens if self._may_join(asked) else None
        self._reading.append(PromptReading(asked, part_tokens=parts))

    def turn(self) -> None:
        """Let those go that were cancelled, read the next parts of prompts, and decode the next token of each answer."""
        for asked in self.asked():
            if asked.cancelled:
                asked.end(EndReason.CANCELLED)
        self._tidy()
        self._read()
        self._tidy()
        for batch in self._batches:
            _pass(batch.step, batch.rows)
        self._tidy()
        self._read_again()

    def clear(self) -> None:
        """Forget everything."""
        self._reading.clear()
        self._batches.clear()

    def _tidy(self) -> None:
        self._reading = deque(each for each in self._reading if not each.asked.ended)
        for batch in self._batches:
            batch.drop_ended()
        self._batches = [batch for batch in self._batches if batch.rows]

    def _read(self) -> None:
        """Read the next parts of prompts, until about as many tokens are read as one part may have."""
        tokens = self._part_tokens
        while together := self._scored_together(tokens):
            tokens -= len(together) * max(len(each.tokens) for each in together)
            self._score(together)
        for _ in range(len(self._reading)):
            if tokens <= 0:
                return
            reading = self._reading.popleft()
            tokens -= reading.next_tokens
            self._read_on(reading)

    def _scored_together(self, tokens: int) -> list[OpenAnswer]:
        """Take over texts that are only scored, over one tree, whose pass reads at most so many tokens, padding included; one
        alone is read as other prompts are.
        """
        taken: list[OpenAnswer] = []
        width = 0
        for asked in (each.asked for each in self._reading):
            if not (asked.only_scores and self._may_join(asked)):
                continue
            if taken and asked.version.tree is not taken[0].version.tree:
                continue
            wider = max(width, len(asked.tokens))
            if wider * (len(taken) + 1) <= tokens:
                taken.append(asked)
                width = wider
        if len(taken) < 2:
            return []
        self._reading = deque(each for each in self._reading if each.asked not in taken)
        return taken

    def _score(self, together: list[OpenAnswer]) -> None:
        rows = _pass(partial(read_together, together), together)
        for asked, logits in zip(together, rows or [], strict=False):
            _pass(partial(asked.score_end, logits), [asked])
            asked.end(EndReason.LENGTH)

    def _read_on(self, reading: PromptReading) -> None:
        asked = reading.asked
        read = _pass(reading.step, [asked])
        if asked.ended:
            return
        if not read:
            # Prompts take turns, so that a short one doesn't wait for a long one.
            self._reading.append(reading)
            return
        batch = next((each for each in self._batches if self._joins(asked, each)), None)
        if batch is None:
            self._batches.append(Batch(reading))
        else:
            _pass(partial(batch.add, reading), [asked, *batch.rows])

    def _joins(self, asked: OpenAnswer, batch: Batch) -> bool:
        return batch.tree is asked.version.tree and self._may_join(asked) and self._may_join(batch.rows[0])

    def _may_join(self, asked: OpenAnswer) -> bool:
        """Whether a question may be answered beside others, and read in parts: not if its text may reach the length from which
        the base reads it by other frequencies.
        """
        return self._decoding.joins and (self._turning_tokens is None or asked.most_tokens < self._turning_tokens)

    def _read_again(self) -> None:
        """Read texts again that came to that length, as transformers does."""
        for batch in self._batches:
            if self._turning_tokens is not None and len(batch.rows[0].tokens) == self._turning_tokens:
                # It is the only row.
                self._reading.append(PromptReading(batch.rows.pop(), part_tokens=None))
        self._batches = [batch for batch in self._batches if batch.rows]


def _pass(step: Callable[[], Any], rows: list[OpenAnswer]) -> Any:
    """Make a pass; if it fails, its answers fail, and the others go on. Return what it returns."""
    try:
        return step()
    except NotANumber:
        message = NOT_FINITE
    except Exception as error:  # noqa: BLE001 - whatever a model raises
        message = f"the model failed ({first_line(error)}); ask again, or report this base and these library versions"
        if is_out_of_memory(error):
            give_back()
            message = "memory ran out; ask again later, or shorten the prompt"
    for row in rows:
        row.end(EndReason.FAILED, message)
    return None
