"""The decode loop: one base, its versions by name, and one thread that answers questions over them together.

Questions join between two passes and leave as soon as they end or are cancelled. A prompt is read alone, in parts, with
a pass of the answers in work after so many tokens.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sdk.formats.base_files import positions_of
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.causality import require_causal
from workers.pipelines.model.device import Device, DtypeName, choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.rotary import turns_at
from workers.serving.decoding.adapters import Adapters, HeldVersion
from workers.serving.decoding.batches import OpenAnswer
from workers.serving.decoding.errors import (
    BadQuestion,
    BaseChanged,
    BaseRefused,
    LoopEnded,
    NameTaken,
    NotLoaded,
    QueueFull,
    TooLong,
)
from workers.serving.decoding.joining import Decoding
from workers.serving.decoding.passes import Tree
from workers.serving.decoding.requests import DecodeQuestion, EndReason, OnPiece, ServedPlacement
from workers.serving.decoding.turns import DecodeTurns

#: The share of the memory that is available beside the base that caches may take.
_CACHE_SHARE = 0.25
#: How many tokens of prompts are read between two passes of the answers in work.
_PART_TOKENS = 256


class Running:
    """A question that was submitted."""

    def __init__(self, loop: DecodeLoop, asked: OpenAnswer) -> None:
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
        if cache_bytes is None:
            cache_bytes = int(_CACHE_SHARE * self.device.available_memory_bytes())
        self._cache_bytes = cache_bytes
        cache_tokens = cache_bytes // self._decoding.bytes_per_token
        #: How many tokens a prompt and its answer may have.
        self.context_tokens = min(positions_of(loaded.model.config.to_dict()) or cache_tokens, cache_tokens)
        self._turns = DecodeTurns(
            self._decoding,
            turning_tokens=turns_at(loaded.model),
            cache_tokens=cache_tokens,
            most_running=most_running,
            part_tokens=part_tokens,
        )
        self._most_queued = most_queued
        #: Guards what follows; notified when there is work.
        self._work = threading.Condition()
        self._versions: dict[str | None, HeldVersion] = {None: self._adapters.base}
        self._queue: deque[OpenAnswer] = deque()
        #: What the thread does between two passes, with where its result goes.
        self._orders: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        #: Versions whose name is gone, until their last answer ends.
        self._leaving: list[HeldVersion] = []
        self._closed = False
        #: Why it broke; None while it works.
        self._broken: str | None = None
        #: One version at a time is loaded.
        self._loading = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="decode loop", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """How many questions are in work."""
        return len(self._turns)

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

    def load(self, name: str, folder: Path) -> ServedPlacement:
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
            try:
                prepared = self._adapters.prepare(name, folder)
                version: HeldVersion = self._between_passes(lambda: self._admit(prepared))
            except BaseChanged as error:
                # Whatever is answered from now on would be wrong.
                with self._work:
                    self._broken, self._closed = str(error), True
                    self._work.notify()
                raise
            return version.placement

    def _admit(self, prepared: HeldVersion) -> HeldVersion:
        beside = [
            each for name, each in self._versions.items() if name and each.placement is ServedPlacement.SHARES_A_BATCH
        ]
        version = self._adapters.admit(prepared, beside[-1] if beside else None)
        with self._work:
            self._versions[version.name] = version
        return version

    def release(self, name: str) -> None:
        """Forget a version: from now on its name isn't known, and its memory is free after its last answer in work. One that
        isn't loaded is fine.
        """
        with self._work:
            version = self._versions.pop(name, None) if name else None
            if version is not None:
                self._leaving.append(version)
                self._work.notify()

    def submit(self, question: DecodeQuestion, on_piece: OnPiece) -> Running:
        """Ask a question; `on_piece` gets its pieces. Raises NotLoaded, BadQuestion, TooLong, QueueFull, LoopEnded."""
        with self._work:
            self._require_open()
            version = self._versions.get(question.adapter)
            if version is None:
                raise NotLoaded(f"no version {question.adapter} is loaded; load it first")
            self._require_answerable(question, version)
            if len(self._queue) >= self._most_queued:
                raise QueueFull(f"{self._most_queued} requests wait already; ask again later")
            asked = OpenAnswer(question, version, on_piece)
            self._queue.append(asked)
            self._work.notify()
        return Running(self, asked)

    def _require_answerable(self, question: DecodeQuestion, version: HeldVersion) -> None:
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
        with self._work:
            self._require_open()
            self._orders.append((order, done))
            self._work.notify()
        return done.result()

    def _require_open(self) -> None:
        if self._closed:
            raise LoopEnded(self._broken or "the engine is ending; ask again later")

    def _run(self) -> None:
        try:
            while self._take_work():
                self._turns.turn()
        except BaseException as error:
            with self._work:
                self._broken = f"the engine broke ({type(error).__name__}); start it again"
            raise
        finally:
            self._end()

    def _end(self) -> None:
        """Tell all who wait that the loop ended."""
        with self._work:
            self._closed = True
            left = [*self._turns.asked(), *self._queue]
            orders = list(self._orders)
            self._queue.clear()
            self._orders.clear()
        self._turns.clear()
        for asked in left:
            asked.end(EndReason.FAILED if self._broken else EndReason.CANCELLED, self._broken)
        for _, done in orders:
            done.set_exception(LoopEnded(self._broken or "the engine is ending; load it again later"))

    def _take_work(self) -> bool:
        """Wait for work, and take it over; return whether to go on."""
        with self._work:
            while not (self._closed or self._orders or self._queue or self._leaving or len(self._turns)):
                self._work.wait()
            if self._closed:
                return False
            orders = list(self._orders)
            self._orders.clear()
            cancelled = [asked for asked in self._queue if asked.cancelled]
            for asked in cancelled:
                self._queue.remove(asked)
            used = {id(asked.version) for asked in (*self._turns.asked(), *self._queue)}
            free = [version for version in self._leaving if id(version) not in used]
            self._leaving = [version for version in self._leaving if id(version) in used]
            # In their order: a long text isn't overtaken for ever by short ones.
            while self._queue and self._turns.has_room(self._queue[0]):
                self._turns.begin(self._queue.popleft())
        for asked in cancelled:
            asked.end(EndReason.CANCELLED)
        for version in free:
            self._adapters.release(version)
        for order, done in orders:
            try:
                done.set_result(order())
            except BaseException as error:  # noqa: BLE001 - raised where the order was given
                done.set_exception(error)
        return True
