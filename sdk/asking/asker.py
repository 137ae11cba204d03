"""Asking: from a ref and a prompt to an answer, by whichever engine program holds the base.

A program that stays is found or started; it is asked at once, and what it lacks is loaded only if it says so, since a warm
answer is to begin within a fraction of a second.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from sdk.asking.connection import EngineAway, EngineRefusal, Stream, call, stream
from sdk.asking.memory import Memory
from sdk.asking.programs import BegunProgram, EngineBase, EngineProgram, missing_engine_libraries
from sdk.asking.prompts import Prompt, Sampling
from sdk.asking.residents import begin_resident, find_resident, owner_of, residents, start_resident
from sdk.asking.target import BASE, AskTarget
from sdk.config import Config, keep_warm_s
from sdk.errors import AdapterctlError, Conflict, InvalidInput, NotFound, Unavailable, disk_explained
from sdk.pulling.cache import Cache

if TYPE_CHECKING:
    from sdk.asking.finding import AskReach

T = TypeVar("T")
Dtype = Literal["float32", "bfloat16", "float16"]
#: How often an answer is begun again because the program ended just then.
_MOST_STARTS = 3
#: What a program says that is about to end.
_ENDING = "ending"
#: What it says of a conversation for which there is no template, in words of its routes.
_NO_TEMPLATE = "no_template"
#: What it says of a prompt that leaves too little of the context, and of what.
_TOO_LONG, _MOST_TOKENS = "context_length_exceeded", "max_tokens"


class AnswerPiece(NamedTuple):
    """Some text of an answer."""

    text: str
    is_reasoning: bool = False


@dataclass(frozen=True)
class Generation:
    """An answer. Fields are those of `generate --format json`."""

    ref: str
    prompt: str | list[dict[str, Any]]
    completion: str
    #: "stop": it ended by itself, or at a stop text; "length": all tokens that it may have were used.
    stop: str
    #: What it thought before, if it writes thoughts as its template or model does; None: nothing.
    reasoning: str | None


@dataclass(eq=False)
class Usage:
    """How many tokens an answer took; None: the program didn't say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(eq=False)
class RunningAnswer:
    """An answer as it comes: iterate it for its pieces, then read `generation`."""

    target: AskTarget
    prompt: Prompt
    _stream: Stream
    usage: Usage = field(default_factory=Usage)
    #: Why it ended; "" until then.
    stop: str = ""
    _texts: list[str] = field(default_factory=list)
    _thoughts: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[AnswerPiece]:
        """Yield its pieces. Raises Unavailable if the program ends meanwhile."""
        try:
            for event in self._stream:
                yield from self._pieces(event)
        except EngineAway as error:
            raise Unavailable(
                "the engine program ended before its answer did; run the same command again, which starts another"
            ) from error
        except EngineRefusal as error:
            raise _explained(error) from error

    def _pieces(self, event: dict[str, Any]) -> Iterator[AnswerPiece]:
        if usage := event.get("usage"):
            self.usage.prompt_tokens = usage.get("prompt_tokens")
            self.usage.completion_tokens = usage.get("completion_tokens")
        for choice in event.get("choices", ()):
            delta = choice.get("delta", {})
            if thought := delta.get("reasoning_content"):
                self._thoughts.append(thought)
                yield AnswerPiece(thought, is_reasoning=True)
            if text := delta.get("content") or choice.get("text"):
                self._texts.append(text)
                yield AnswerPiece(text)
            self.stop = choice.get("finish_reason") or self.stop

    def close(self) -> None:
        """Stop it; any thread may. What has come is what there is."""
        self._stream.close()

    @property
    def generation(self) -> Generation:
        """All that has come."""
        return Generation(
            ref=self.target.ref,
            prompt=self.prompt.shown,
            completion="".join(self._texts),
            stop=self.stop or "cancelled",
            reasoning="".join(self._thoughts) or None,
        )


class Asker:
    """Asks versions of one registry. Several threads may use it."""

    def __init__(
        self,
        reach: Callable[[], AskReach],
        *,
        config: Config,
        cache: Cache,
        dtype: Dtype | None = None,
        keeps: bool = True,
        on_start: Callable[[EngineBase], object] = lambda _base: None,
    ) -> None:
        """`reach` is called only if the registry must be asked. Unless it `keeps` them, programs that it starts end with it;
        `on_start` is called before a start.
        """
        self._reach, self._cache, self._dtype = reach, cache, dtype
        #: For how long a program that this starts waits for a question; 0: it ends with this.
        self.idle_s = keep_warm_s() if keeps else 0.0
        self._memory = Memory(cache, config, dtype)
        self._on_start = on_start
        self._lock = threading.Lock()
        #: The programs that end with this, and the sockets of all, by the keys of their bases.
        self._own: dict[str, EngineProgram] = {}
        self._sockets: dict[str, str] = {}
        #: The processes of programs that are about to end.
        self._leaving: dict[str, int] = {}
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        #: A program that imports its libraries while the registry is asked what it is to hold.
        self._begun: BegunProgram | None = None

    def target(self, ref: str, *, base_namespace: str | None = None, published: bool | None = None) -> AskTarget:
        """Return what a ref, or `base:ID`, names now; the last two say whose base is meant.

        Raises InvalidName, InvalidRef, InvalidInput for what can't be asked, NotFound, Conflict for a version in quarantine.
        """
        if ref.startswith(BASE) or base_namespace is not None or published:
            from sdk.asking.finding import find_base

            whose: dict[str, Any] = {"base_namespace": base_namespace, "published": published}
            with self._beginning():
                return find_base(self._reach(), ref, dtype=self._dtype, **whose)
        known = self._memory.recall(ref)
        # Without a program that holds it, starting one takes longer than asking the registry.
        if known is not None and find_resident(self._cache, known.base.key) is not None:
            return known
        with self._beginning():
            return self._found(ref)

    @contextmanager
    def _beginning(self) -> Iterator[None]:
        """Have a program import its libraries during the block if none runs: whatever the registry answers, one is needed then."""
        with self._lock:
            is_needed = self._begun is None and not self._own and not residents(self._cache)
            if is_needed and not missing_engine_libraries():
                with disk_explained("starting an engine program"):
                    self._begun = (
                        begin_resident(self._cache) if self.idle_s else BegunProgram(self._folder(), stays=False)
                    )
        try:
            yield
        except BaseException:
            with self._lock:
                self._forget_begun()
            raise

    def _folder(self) -> Path:
        """Return a new folder that is removed with this."""
        self._folders.append(tempfile.TemporaryDirectory(prefix="adapterctl-"))
        return Path(self._folders[-1].name)

    def _forget_begun(self) -> None:
        if self._begun is not None:
            self._begun.end()
            self._begun = None

    def _found(self, ref: str) -> AskTarget:
        from sdk.asking.finding import find_target

        target = find_target(self._reach(), ref, dtype=self._dtype)
        # On a full disk it is looked up again.
        with suppress(OSError):
            self._memory.remember(ref, target)
        return target

    def ask(self, target: AskTarget, prompt: Prompt, sampling: Sampling) -> RunningAnswer:
        """Begin an answer. Raises InvalidInput for a prompt that is too long, Unavailable, TimedOut, InvalidBase."""
        body = {
            "model": target.name,
            **prompt.body,
            **sampling.body,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if target.digest is None and target.stop_ids:
            # A version's own ones were given when it was loaded.
            body["stop_token_ids"] = list(target.stop_ids)
        return RunningAnswer(target, prompt, self._answered(target, prompt.route, body))

    def ready(self, target: AskTarget) -> None:
        """Have a program hold a target, ahead of the first question. Raises as `ask` does."""
        self._again(lambda: self._load(target, self._socket(target)), target)

    def close(self) -> None:
        """End the programs that don't stay."""
        with self._lock:
            for program in self._own.values():
                program.end()
            self._own.clear()
            self._forget_begun()
            for folder in self._folders:
                folder.cleanup()

    def _answered(self, target: AskTarget, route: str, body: dict[str, Any]) -> Stream:
        def begin() -> Stream:
            socket = self._socket(target)
            is_loaded = is_cut = False
            while True:
                try:
                    return stream(socket, route, body)
                except EngineRefusal as refusal:
                    if refusal.status == 404 and target.digest is not None and not is_loaded:
                        self._load(target, socket)
                        is_loaded = True
                    elif (refusal.code, refusal.param) == (_TOO_LONG, _MOST_TOKENS) and not is_cut:
                        # The answer then ends where the context does.
                        body["max_tokens"] = _tokens_left(socket, route, body)
                        is_cut = True
                    else:
                        raise

        return self._again(begin, target)

    def _again(self, do: Callable[[], T], target: AskTarget) -> T:
        """Do something with a program, with another one if it has ended."""
        for _ in range(_MOST_STARTS):
            try:
                return do()
            except EngineAway:
                self._left(target.base)
            except EngineRefusal as error:
                if error.code != _ENDING:
                    raise _explained(error) from error
                self._left(target.base)
        raise Unavailable(
            "engine programs start, and end before they answer; free some memory, then run the same command again"
        )

    def _left(self, base: EngineBase) -> None:
        """Note that the program of a base has ended, or ends just now: it may take a while, with the answers of others."""
        with self._lock:
            self._sockets.pop(base.key, None)
            if (found := find_resident(self._cache, base.key)) is not None:
                self._leaving[base.key] = found.pid

    def _load(self, target: AskTarget, socket: str) -> None:
        """Have a program load an adapter, whose folder is leased for as long as the program runs."""
        if target.digest is None:
            return
        with self._lock:
            stays = target.base.key not in self._own
        if stays:
            self._lease(target, target.digest)
        call(socket, "POST", "/load", target.loading)

    def _lease(self, target: AskTarget, digest: str) -> None:
        from sdk.pulling.leases import lease

        owner = owner_of(target.base.key)
        try:
            lease(self._cache, digest, owner)
        except NotFound:
            # The cache was pruned since the ref was looked up.
            self._memory.forget(target.ref)
            self._found(target.ref)
            lease(self._cache, digest, owner)

    def _socket(self, target: AskTarget) -> str:
        base = target.base
        with self._lock:
            if base.key not in self._sockets:
                self._sockets[base.key] = self._program(base)
            return self._sockets[base.key]

    def _program(self, base: EngineBase) -> str:
        """Return the socket of a program that holds a base: one that runs, or a new one."""
        if (dead := self._own.pop(base.key, None)) is not None:
            dead.end()
        found, leaving = find_resident(self._cache, base.key), self._leaving.get(base.key)
        if found is not None and found.pid != leaving:
            self._forget_begun()
            return found.socket
        begun, self._begun = self._begun, None
        try:
            if not self.idle_s:
                return self._own_program(base, begun)
            started = start_resident(
                self._cache,
                base,
                idle_s=self.idle_s,
                leaving=leaving,
                begun=begun,
                on_start=lambda: self._on_start(base),
            )
        except BaseException:
            if begun is not None:
                begun.end()
            raise
        if begun is not None and started.pid != begun.child.pid:
            # Another process was quicker.
            begun.end()
        return started.socket

    def _own_program(self, base: EngineBase, begun: BegunProgram | None) -> str:
        """Return the socket of a new program that ends with this."""
        self._on_start(base)
        with disk_explained("starting an engine program"):
            program = EngineProgram(base, self._folder() if begun is None else begun.folder, idle_s=None, begun=begun)
            try:
                program.ready()
            except BaseException:
                program.end()
                raise
        self._own[base.key] = program
        return program.socket


def _tokens_left(socket: str, route: str, body: dict[str, Any]) -> int:
    """Return how many tokens of an answer the context has room for, after a prompt that has some."""
    whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options", "seed", "stop")}
    asked = call(socket, "POST", route, {**whole, "max_tokens": 1})
    context = call(socket, "GET", "/health")["context_tokens"]
    return max(1, int(context) - int(asked["usage"]["prompt_tokens"]))


def _explained(error: EngineRefusal) -> AdapterctlError:
    """Return the error that a refusal of a program is."""
    message = error.message[:1].lower() + error.message[1:].rstrip(".")
    if error.status == 429 or error.status >= 500:
        return Unavailable(message)
    if error.status == 404:
        return NotFound(message)
    if error.status == 409:
        return Conflict(message)
    if error.code == _NO_TEMPLATE:
        return InvalidInput(
            "neither the version nor its base has a chat template, so messages can't be asked; give the prompt as one text,"
            " and leave out --chat",
            param="prompt",
        )
    return InvalidInput(message, param="prompt" if error.code == _TOO_LONG else None)
