"""Conversations rendered in a process of their own, which is ended if one takes too long, and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Any

from sdk.worker_program import start_program
from workers.pipelines.data.thoughts import Notation, Thoughts
from workers.serving.texts.rendering import PROCESSOR_S

_PROGRAM = "workers.serving.texts.rendering"
#: What a rendering takes at most; the program's own limit is below it.
MOST_S = 15.0
#: The processor time that a conversation gets before it is rendered apart, and how many may be or wait there.
_QUICK_S, _MOST_SLOW = 0.5, 4
#: The most bytes of a rendered conversation.
_MOST_BYTES = 64 * 1024 * 1024


class RenderingRefused(Exception):  # noqa: N818 - it reads as what happened
    """A conversation can't be rendered; the message is one sentence."""


class RenderingBusy(Exception):  # noqa: N818 - it reads as what is the case
    """Too many conversations that take long are being rendered; the message is one sentence."""


class RenderingTakesLong(RenderingRefused):
    """A conversation takes more than it was given here."""


#: How often a program that is at work is told to end.
_CLOSING_S = 0.05


@dataclass(frozen=True)
class TemplateInUse:
    """A chat template with what its tokenizer gives it."""

    text: str
    special_tokens: Mapping[str, Any]
    #: Matches the tokenizer's control tokens.
    controls: str
    #: The day that it writes; None: today.
    day: date | None = None

    def request(self) -> dict[str, Any]:
        """Return what the program is told of it."""
        day = self.day or date.today()  # noqa: DTZ011 - the day on this machine's clock, as transformers writes it
        return {
            "template": self.text,
            "special_tokens": dict(self.special_tokens),
            "controls": self.controls,
            "day": day.isoformat(),
        }


class PromptRenderer:
    """A rendering program. Calls wait for each other."""

    def __init__(self, *, processor_s: float, most_s: float = MOST_S, starts: bool = True) -> None:
        """`processor_s` is for each rendering; unless it `starts`, the program does so when it is first needed."""
        self._processor_s, self._most_s, self._lock = processor_s, most_s, threading.Lock()
        self._is_closed = False
        self._child: subprocess.Popen[bytes] | None = start_program(_PROGRAM) if starts else None

    def prompt(
        self,
        template: TemplateInUse,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Return the text from which the next answer is generated. Raises RenderingRefused, RenderingTakesLong."""
        asked = {"messages": list(messages), "tools": None if tools is None else list(tools)}
        return str(self._ask({**template.request(), **asked})["text"])

    def thoughts(self, template: TemplateInUse) -> Thoughts:
        """Return how a template writes thoughts. Raises RenderingRefused."""
        found = self._ask(template.request())["thoughts"]
        notations = tuple(Notation(opens, tuple(closes)) for opens, closes in found["notations"])
        return Thoughts(notations, tuple(found["headers"]), found["closing"])

    def close(self) -> None:
        """End the program, whatever it renders; no other is started."""
        self._is_closed = True
        while not self._lock.acquire(timeout=_CLOSING_S):
            if (child := self._child) is not None:
                child.kill()
        try:
            if self._child is not None:
                self._end(self._child)
                self._child = None
        finally:
            self._lock.release()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._is_closed:
                raise RenderingRefused("the engine program is ending; ask again")
            if self._child is not None and self._child.poll() is not None:
                self._end(self._child)
                self._child = None
            child = self._child = self._child or start_program(_PROGRAM)
            assert child.stdin is not None
            assert child.stdout is not None
            late = threading.Timer(self._most_s, child.kill)
            late.start()
            line = b""
            try:
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(
                        json.dumps({**request, "processor_s": self._processor_s}, default=str).encode() + b"\n"
                    )
                    child.stdin.flush()
                    line = child.stdout.readline(_MOST_BYTES)
            finally:
                late.cancel()
                if not line.endswith(b"\n"):
                    self._end(child)
                    self._child = None
        if not line.endswith(b"\n"):
            raise RenderingTakesLong(
                "the version's chat template takes too much to render this conversation; shorten it"
            )
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise (RenderingTakesLong if answer.get("costly") else RenderingRefused)(answer["refused"])
        return answer

    @staticmethod
    def _end(child: subprocess.Popen[bytes]) -> None:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class PromptRenderers:
    """Renders most conversations at once, and those that take long apart from them, so that nobody waits for these."""

    def __init__(self) -> None:
        self._quick = PromptRenderer(processor_s=_QUICK_S)
        self._patient = PromptRenderer(processor_s=PROCESSOR_S, starts=False)
        self._lanes = ThreadPoolExecutor(1, "rendering"), ThreadPoolExecutor(1, "slow rendering")
        self._slow = 0

    async def prompt(
        self,
        template: TemplateInUse,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Return the text from which the next answer is generated. Raises RenderingRefused, RenderingBusy."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._lanes[0], self._quick.prompt, template, messages, tools)
        except RenderingTakesLong:
            if self._slow >= _MOST_SLOW:
                raise RenderingBusy("other conversations that take long are being rendered; try again later") from None
        self._slow += 1
        try:
            return await loop.run_in_executor(self._lanes[1], self._patient.prompt, template, messages, tools)
        finally:
            self._slow -= 1

    def thoughts(self, template: TemplateInUse) -> Thoughts:
        """Return how a template writes thoughts. Raises RenderingRefused."""
        try:
            return self._quick.thoughts(template)
        except RenderingTakesLong:
            return self._patient.thoughts(template)

    def close(self) -> None:
        """End the programs and the threads."""
        self._quick.close()
        self._patient.close()
        for lane in self._lanes:
            lane.shutdown(wait=False, cancel_futures=True)
