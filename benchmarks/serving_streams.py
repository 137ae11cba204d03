"""OpenAI's own client, which streams answers from a gateway without an end, and judges each: whose it is, whole, or none."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import openai
from support.served_models import TOKENS, ServedModels


@dataclass
class JudgedAnswers:
    """What the streams got."""

    #: Whole answers by the version that the gateway named, "" for the base: all of them are that version's.
    pure: Counter[str] = field(default_factory=Counter)
    #: Those that are not what the version named would answer.
    mixed: list[str] = field(default_factory=list)
    #: Statuses other than 200, streams that broke off, and those without an end.
    errors: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many requests were answered, in whatever way."""
        return self.pure.total() + len(self.mixed) + len(self.errors)

    def document(self) -> dict[str, Any]:
        """Return the figures, and the first of what went wrong."""
        return {
            "answers": self.total,
            "by_version": {name or "base": count for name, count in sorted(self.pure.items())},
            "mixed": len(self.mixed),
            "errors": len(self.errors),
            "wrong": [*self.mixed[:3], *self.errors[:3]],
        }


class Streams:
    """Callers of one gateway."""

    def __init__(self, url: str, key: str, models: ServedModels, decode: Callable[[list[int]], str]) -> None:
        self._prompts, self._texts = models.prompts, models.texts(decode)
        self._client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=300)
        self.answers = JudgedAnswers()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False

    def begin(self, model: str, count: int) -> None:
        """Ask a model again and again, in so many streams."""
        self._is_over = False
        self._tasks += [asyncio.create_task(self._stream(model, at)) for at in range(count)]

    async def end(self) -> None:
        """Let each stream come to its end."""
        self._is_over = True
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    async def answered(self, more: int, of: str | None = None) -> None:
        """Wait until there are so many more whole answers, of one version or of any; no longer once something went wrong."""
        count = self._count(of) + more
        while self._count(of) < count and not self.answers.errors and not self.answers.mixed:
            await asyncio.sleep(0.02)

    async def ask(
        self, model: str, at: int = 0, *, on_first: Callable[[], None] = lambda: None
    ) -> tuple[str | None, float]:
        """Stream one answer to its end; return the version that the gateway named and the seconds to the first of its text, at which
        `on_first` is called.
        """
        begun_s = time.monotonic()
        place = at % len(self._prompts)
        text, end, first_s, version = "", None, 0.0, None
        try:
            answer = await self._client.completions.with_raw_response.create(
                model=model, prompt=self._prompts[place], max_tokens=TOKENS, temperature=0, stream=True
            )
            version = answer.headers["x-adapterctl-version"]
            async for chunk in answer.parse():
                for choice in chunk.choices:
                    text += choice.text or ""
                    end = choice.finish_reason or end
                if not first_s:
                    first_s = time.monotonic() - begun_s
                    on_first()
        except (openai.APIError, ValueError) as error:
            self.answers.errors.append(f"{version}: {type(error).__name__} {error}")
            return version, first_s
        if end is None:
            self.answers.errors.append(f"{version}: the stream has no end after {text!r}")
        else:
            self._judge(version or "", place, text)
        return version, first_s

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def _judge(self, version: str, place: int, text: str) -> None:
        name = "" if version.startswith("base:") else version
        whose = self._texts.get((place, text))
        if whose == name:
            self.answers.pure[name] += 1
            return
        right = _of(self._texts, name, place)
        self.answers.mixed.append(f"{version}, prompt {place}: {text!r}, which is {whose or 'nobody'}'s, for {right}")

    def _count(self, of: str | None) -> int:
        return self.answers.pure.total() if of is None else self.answers.pure[of]

    async def _stream(self, model: str, at: int) -> None:
        while not self._is_over:
            errors = len(self.answers.errors)
            await self.ask(model, at)
            if len(self.answers.errors) > errors:
                # Whoever is refused at once doesn't ask thousands of times.
                await asyncio.sleep(0.5)
            at += 1


def _of(texts: Mapping[tuple[int, str], str], name: str, place: int) -> list[str]:
    return [text for (at, text), whose in texts.items() if whose == name and at == place]
