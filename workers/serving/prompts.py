"""Conversations rendered in a process of their own, which is ended if one takes too long, and started again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sdk.worker_program import PARENT_VARIABLE
from workers.pipelines.data.thoughts import Notation, Thoughts

#: What a rendering takes at most; the program's own limit is below it.
MOST_S = 15.0
#: The most bytes of a rendered conversation.
_MOST_BYTES = 64 * 1024 * 1024


class RenderingRefused(Exception):  # noqa: N818 - it reads as what happened
    """A conversation can't be rendered; the message is one sentence."""


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
    """The rendering program. Calls wait for each other."""

    def __init__(self, *, most_s: float = MOST_S) -> None:
        self._most_s, self._lock = most_s, threading.Lock()
        self._child: subprocess.Popen[bytes] | None = self._started()

    def prompt(self, template: TemplateInUse, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the text from which the next answer is generated. Raises RenderingRefused."""
        return str(self._ask({**template.request(), "messages": list(messages)})["text"])

    def thoughts(self, template: TemplateInUse) -> Thoughts:
        """Return how a template writes thoughts. Raises RenderingRefused."""
        found = self._ask(template.request())["thoughts"]
        notations = tuple(Notation(opens, tuple(closes)) for opens, closes in found["notations"])
        return Thoughts(notations, tuple(found["headers"]), found["closing"])

    def close(self) -> None:
        """End the program."""
        if self._child is not None:
            self._end(self._child)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._child is not None and self._child.poll() is not None:
                self._end(self._child)
                self._child = None
            child = self._child = self._child or self._started()
            assert child.stdin is not None
            assert child.stdout is not None
            late = threading.Timer(self._most_s, child.kill)
            late.start()
            line = b""
            try:
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(json.dumps(request, default=str).encode() + b"\n")
                    child.stdin.flush()
                    line = child.stdout.readline(_MOST_BYTES)
            finally:
                late.cancel()
                if not line.endswith(b"\n"):
                    self._end(child)
                    self._child = None
        if not line.endswith(b"\n"):
            raise RenderingRefused("the version's chat template takes too much to render this conversation; shorten it")
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise RenderingRefused(answer["refused"])
        return answer

    @staticmethod
    def _started() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "workers.serving.rendering"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        )

    @staticmethod
    def _end(child: subprocess.Popen[bytes]) -> None:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
