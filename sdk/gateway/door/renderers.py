"""Untrusted templates rendered in processes of their own, each version's in its own: one that hangs keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sdk.gateway.door.refusals import Declined
from sdk.worker_program import start_program_beside

_PROGRAM = "workers.serving.texts.rendering"
#: The most processes, and the most conversations of one version that wait for its process.
MOST_PROCESSES, MOST_WAITING = 4, 32
#: How long one conversation may take, with the start of its process, in seconds, and how much of a processor its rendering.
RENDERED_S, PROCESSOR_S = 20.0, 4.0
#: The longest line that comes back, in bytes: a template may make 16 times what is in a conversation.
_LINE_BYTES = 64 * 1024 * 1024


class _Process:
    """One renderer; it answers one conversation after the other."""

    def __init__(self, rendered_s: float) -> None:
        self._rendered_s = rendered_s
        self._turn = asyncio.Lock()
        self.waiting = 0
        self._child: asyncio.subprocess.Process | None = None

    async def ask(self, line: bytes) -> dict[str, Any]:
        """Return its answer. Raises TimeoutError, and ConnectionError if it ended instead."""
        self.waiting += 1
        try:
            async with self._turn:
                try:
                    async with asyncio.timeout(self._rendered_s):
                        return await self._answer(line)
                except BaseException:
                    # What comes from it later would be taken for the next one's answer.
                    self.end()
                    raise
        finally:
            self.waiting -= 1

    async def _answer(self, line: bytes) -> dict[str, Any]:
        if self._child is None or self._child.returncode is not None:
            self._child = await start_program_beside(_PROGRAM, line_bytes=_LINE_BYTES)
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(line)
        await child.stdin.drain()
        answer = await child.stdout.readline()
        if not answer.endswith(b"\n"):
            raise ConnectionError
        found: dict[str, Any] = json.loads(answer)
        return found

    def end(self) -> None:
        """End it, if it runs."""
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, 9)


class Renderers:
    """The processes by the version whose template they render; the one that was used longest ago makes room for another."""

    def __init__(self, *, rendered_s: float = RENDERED_S, processor_s: float = PROCESSOR_S) -> None:
        self._rendered_s, self._processor_s = rendered_s, processor_s
        self._processes: OrderedDict[str, _Process] = OrderedDict()

    async def render(
        self,
        version: str,
        *,
        template: str,
        messages: Sequence[Mapping[str, Any]],
        special_tokens: Mapping[str, str],
        day: str,
    ) -> str:
        """Return the prompt for the next answer. Raises Declined."""
        process = self._process(version)
        if process.waiting >= MOST_WAITING:
            raise _busy(version)
        request = {
            "template": template,
            "messages": messages,
            "special_tokens": special_tokens,
            "day": day,
            "processor_s": self._processor_s,
        }
        try:
            answer = await process.ask(json.dumps(request, ensure_ascii=False).encode() + b"\n")
        except (TimeoutError, OSError, ValueError):
            raise Declined(
                400,
                "invalid",
                "the version's chat template takes too much to render this conversation; shorten it",
                param="messages",
            ) from None
        if isinstance(text := answer.get("text"), str):
            return text
        raise Declined(400, "invalid", str(answer.get("refused"))[:500], param="messages")

    def _process(self, version: str) -> _Process:
        process = self._processes.get(version)
        if process is None:
            if len(self._processes) >= MOST_PROCESSES:
                idle = next((name for name, each in self._processes.items() if not each.waiting), None)
                if idle is None:
                    raise _busy(version)
                self._processes.pop(idle).end()
            process = self._processes[version] = _Process(self._rendered_s)
        self._processes.move_to_end(version)
        return process

    def close(self) -> None:
        """End all of them."""
        for process in self._processes.values():
            process.end()
        self._processes.clear()


def _busy(version: str) -> Declined:
    return Declined(
        429,
        "rate_limited",
        f"too many conversations wait to be rendered for {version}; try again shortly",
        headers={"Retry-After": "1"},
    )
