"""The decode loop: one base, its versions by name, and one thread that answers questions over them together.

Questions join between two passes and leave as soon as they end or are cancelled. A prompt is read alone, in parts, with
a pass of the answers in work between two of them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sdk.formats.base_files import positions_of
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.errors import PipelineError, first_line
from workers.pipelines.model.causality import require_causal
from workers.pipelines.model.device import Device, DtypeName, choose_device, give_back, is_out_of_memory
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.rotary import turns_at
from workers.serving.adapters import Adapters, HeldVersion
from workers.serving.batches import Asked, Batch, Reading, all_rows, widest
from workers.serving.errors import (
    BadQuestion,
    BaseRefused,
    LoopEnded,
    NameTaken,
    NotLoaded,
    QueueFull,
    ServingError,
    TooLong,
)
from workers.serving.joining import Decoding
from workers.serving.passes import Tree
from workers.serving.requests import EndReason, OnPiece, Placement, Question
from workers.serving.sampling import NotANumber

#: The share of the memory that is available beside the base that caches may take.
_CACHE_SHARE = 0.25
#: How many tokens of a prompt are read between two passes of the answers in work.
_PART_TOKENS = 256


class Running:
    """A question that was submitted."""

    def __init__(self, loop: DecodeLoop, asked: Asked) -> None:
        self._loop, self._asked = loop, asked

    def cancel(self) -> None:
        """End the answer before the next pass, from any thread; an answer that ended stays as it is."""
        self._asked.cancelled = True
        self._loop.wake()


class DecodeLoop:
    """One base in memory, its versions, and the thread that answers questions over them."""

    def __init__(
        self,
        base: Path,
        *,
        dtype: DtypeName | None = None,
        device: Device | None = None,
        quantization: QuantizationRecipe | None = None,
        kept: Path | None = None,
        most_running: int = 16,
        most_queued: int = 64,
        cache_bytes: int | None = None,
        part_tokens: int = _PART_TOKENS,
    ) -> None:
        """Load a base from its folder and look how it can be decoded. Raises BaseRefused.

        `dtype` is that of the weights and of the computation, by default the stored one; `quantization` holds the base
        in 4 or 8 bits, as a training over it did, and `kept` is where such weights are kept. `most_running` answers are
        decoded at once, and `most_queued` questions may wait; caches take up to `cache_bytes`, by default a quarter of
        the memory that is available.
        """
        self.device = device or choose_device()
        try:
            loaded = load_base(base, self.device, quantization=quantization, dtype=dtype, kept=kept)
            require_causal(loaded.model)
        except PipelineError as error:
            raise BaseRefused(error.message) from error
        self.loaded = loaded
        self._adapters = Adapters(loaded.model)
        self._decoding = Decoding(Tree(loaded.model))
        self._turns = turns_at(loaded.model)
        self._part_tokens = part_tokens
        self._most_running, self._most_queued = most_running, most_queued
        if cache_bytes is None:
            cache_bytes = int(_CACHE_SHARE * self.device.available_memory_bytes())
        self._cache_bytes = cache_bytes
        #: How many tokens the caches of all answers may have.
        self._cache_tokens = cache_bytes // self._decoding.bytes_per_token
        #: How many tokens a prompt and its answer may have.
        self.context_tokens = min(positions_of(loaded.model.config.to_dict()) or self._cache_tokens, self._cache_tokens)
        #: Guards what follows; notified when there is work.
        self._work = threading.Condition()
        self._versions: dict[str | None, HeldVersion] = {None: self._adapters.base}
        self._queue: deque[Asked] = deque()
        self._orders: deque[Callable[[], None]] = deque()
        self._leaving: list[HeldVersion] = []
        self._closed = False
        #: Only the thread's, but for their lengths.
        self._reading: deque[Reading] = deque()
        self._batches: list[Batch] = []
        self._loading = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="decode loop", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """How many questions are in work."""
        return len(self._reading) + sum(len(batch.rows) for batch in list(self._batches))

    @property
    def queued(self) -> int:
        """How many questions wait."""
        return len(self._queue)

    @property
    def joins(self) -> bool:
        """Whether answers over this base share batches at all."""
        return self._decoding.joins

    def versions(self) -> list[HeldVersion]:
        """Return the versions that are loaded, by name."""
        with self._work:
            return [version for name, version in sorted(self._versions.items(), key=lambda each: each[0] or "") if name]

    def load(self, name: str, folder: Path) -> Placement:
        """Make a version answer under its name; once it returns, it does. Answers in work go on.

        The same folder again is fine. Raises AdapterRefused, NameTaken, LoopEnded; then nothing of it is left.
        """
        with self._loading:
            with self._work:
                held = self._versions.get(name)
            if held is not None:
                if held.folder != folder:
                    raise NameTaken(f"{name} is loaded from another folder; release it first")
                return held.placement
            prepared = self._adapters.prepare(name, folder)
            return self._between_passes(lambda: self._admit(prepared)).placement

    def _admit(self, prepared: HeldVersion) -> HeldVersion:
        beside = [each for name, each in self._versions.items() if name and each.placement is Placement.SHARES_A_BATCH]
        version = self._adapters.admit(prepared, beside[-1] if beside else None)
        with self._work:
            self._versions[version.name] = version
        return version

    def release(self, name: str) -> None:
        """Forget a version: from now on its name isn't known, and its memory is free after its last answer in work. One that
        isn't loaded is fine.
        """
        with self._loading, self._work:
            version = self._versions.pop(name, None) if name else None
            if version is not None:
                self._leaving.append(version)
                self._work.notify()

    def submit(self, question: Question, on_piece: OnPiece) -> Running:
        """Ask a question; `on_piece` gets its pieces. Raises NotLoaded, BadQuestion, TooLong, QueueFull, LoopEnded."""
        with self._work:
            if self._closed:
                raise LoopEnded("the engine is ending; ask again later")
            version = self._versions.get(question.adapter)
            if version is None:
                raise NotLoaded(f"no version {question.adapter} is loaded; load it first")
            self._require_answerable(question, version)
            if len(self._queue) >= self._most_queued:
                raise QueueFull(f"{self._most_queued} requests wait already; ask again later")
            asked = Asked(question, version, on_piece)
            self._queue.append(asked)
            self._work.notify()
        return Running(self, asked)

    def _require_answerable(self, question: Question, version: HeldVersion) -> None:
        prompt, most = question.prompt, self.context_tokens
        if not prompt:
            raise BadQuestion("the prompt has no tokens; write something")
        if min(prompt) < 0 or max(prompt) >= version.vocabulary:
            odd = next(token for token in prompt if not 0 <= token < version.vocabulary)
            raise BadQuestion(
                f"the prompt has the token {odd}, and the model has {version.vocabulary}; check the tokenizer"
            )
        if len(prompt) + question.max_tokens > most:
            raise TooLong(
                f"the prompt has {len(prompt)} tokens and up to {question.max_tokens} may follow, which is more than the"
                f" {most} that this base takes here; shorten the prompt, or lower max_tokens"
            )
        numbers = len(prompt) * version.vocabulary * 8
        if question.scores_prompt and not self._decoding.joins and numbers > self._cache_bytes:
            raise TooLong(
                f"scoring a prompt of {len(prompt)} tokens takes {numbers / 1e6:.0f} MB over this base, and"
                f" {self._cache_bytes / 1e6:.0f} MB may be used; shorten the prompt"
            )

    def wake(self) -> None:
        """Let the thread look what changed."""
        with self._work:
            self._work.notify()

    def close(self) -> None:
        """Cancel what is in work or waits, and end the thread."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()

    def __enter__(self) -> DecodeLoop:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _between_passes(self, order: Callable[[], Any]) -> Any:
        """Carry out an order in the thread; return what it returns, or raise what it raises."""
        done: Future[Any] = Future()

        def carry_out() -> None:
            try:
                done.set_result(order())
            except BaseException as error:  # noqa: BLE001 - raised where the order was given
                done.set_exception(error)

        with self._work:
            if self._closed:
                raise LoopEnded("the engine is ending; ask again later")
            self._orders.append(carry_out)
            self._work.notify()
        return done.result()

    def _run(self) -> None:
        error: str | None = None
        try:
            while self._take_work():
                self._turn()
        except BaseException as broken:
            error = f"the engine broke ({type(broken).__name__}); start it again"
            raise
        finally:
            with self._work:
                self._closed = True
                left = [*self._queue, *(each.asked for each in self._reading), *all_rows(self._batches)]
                orders = list(self._orders)
                self._queue.clear()
                self._orders.clear()
            self._reading.clear()
            self._batches.clear()
            for asked in left:
                asked.end(EndReason.FAILED if error else EndReason.CANCELLED, error)
            for order in orders:
                order()

    def _take_work(self) -> bool:
        """Wait for work, and take it over; return whether to go on."""
        with self._work:
            while not (self._closed or self._orders or self._queue or self._leaving or self._reading or self._batches):
                self._work.wait()
            if self._closed:
                return False
            orders = list(self._orders)
            self._orders.clear()
            gone = [asked for asked in self._queue if asked.cancelled]
            for asked in gone:
                self._queue.remove(asked)
        for asked in gone:
            asked.end(EndReason.CANCELLED)
        for order in orders:
            order()
        return True

    def _turn(self) -> None:
        """Let go who left, take in who fits, and make one pass of each batch."""
        for asked in self._in_work():
            if asked.cancelled:
                asked.end(EndReason.CANCELLED)
        self._tidy()
        self._take_in()
        if self._reading:
            self._read_on()
        for batch in self._batches:
            self._pass(batch.step, batch.rows)
        self._tidy()
        self._read_again()

    def _tidy(self) -> None:
        self._reading = deque(each for each in self._reading if not each.asked.ended)
        for batch in self._batches:
            batch.drop()
        self._batches = [batch for batch in self._batches if batch.rows]
        with self._work:
            used = {id(asked.version) for asked in (*self._in_work(), *self._queue)}
            free = [version for version in self._leaving if id(version) not in used]
            self._leaving = [version for version in self._leaving if id(version) in used]
        for version in free:
            self._adapters.release(version)

    def _take_in(self) -> None:
        """Begin to read as many prompts as there is room for, in their order."""
        while True:
            with self._work:
                if not self._queue or self.running >= self._most_running:
                    return
                if not self._has_room(self._queue[0]):
                    return
                asked = self._queue.popleft()
                parts = self._part_tokens if self._decoding.joins and not self._turns_within(asked) else None
                self._reading.append(Reading(asked, part_tokens=parts))

    def _has_room(self, asked: Asked) -> bool:
        """Whether the caches stay within their bound with one more question."""
        in_work = list(self._in_work())
        return not in_work or widest([*in_work, asked]) <= self._cache_tokens

    def _read_on(self) -> None:
        reading = self._reading[0]
        asked = reading.asked
        done = self._pass(reading.step, [asked])
        if asked.ended:
            return
        if done:
            self._reading.popleft()
            self._begin(reading)

    def _begin(self, reading: Reading) -> None:
        asked = reading.asked
        if self._decoding.joins and not self._turns_within(asked):
            for batch in self._batches:
                if batch.tree is asked.version.tree and not self._turns_within(batch.rows[0]):
                    self._pass(lambda: batch.add(reading), [asked, *batch.rows])
                    return
        self._batches.append(Batch(reading))

    def _turns_within(self, asked: Asked) -> bool:
        """Whether a question may reach the length from which the base reads all of a text by other frequencies."""
        return self._turns is not None and asked.most_tokens >= self._turns

    def _read_again(self) -> None:
        """Read texts again that came to the length from which the base reads them by other frequencies."""
        for batch in self._batches:
            if self._turns is not None and any(len(row.tokens) == self._turns for row in batch.rows):
                self._reading.extend(Reading(row, part_tokens=None) for row in batch.rows)
                batch.rows = []
        self._batches = [batch for batch in self._batches if batch.rows]

    def _in_work(self) -> Iterator[Asked]:
        yield from (each.asked for each in self._reading)
        yield from all_rows(self._batches)

    def _pass(self, step: Callable[[], Any], rows: list[Asked]) -> Any:
        """Make a pass; if it fails, its answers fail, and the loop goes on."""
        try:
            return step()
        except NotANumber:
            message = "the model's numbers are not finite at this precision; serve it in float32"
        except Exception as error:  # noqa: BLE001 - whatever a model raises
            message = (
                f"the model failed ({first_line(error)}); ask again, or report this base and these library versions"
            )
            if is_out_of_memory(error):
                give_back()
                message = "memory ran out; ask again later, or shorten the prompt"
        for row in rows:
            row.end(EndReason.FAILED, message)
        return None


__all__ = ["DecodeLoop", "Running", "ServingError"]
