"""Aliases that move in front of a real engine while streams run, and what each stream got."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from sdk.gateway.engines.engine import EngineRefused, InferenceEngine
from sdk.gateway.moves.moves import Bounds, Moves, NotServed
from sdk.gateway.moves.proving import Proving
from sdk.gateway.moves.versions import Fetched
from sdk.schemas.serving import ServedAdapter, ServedProbe, ServedVersion
from support.served_models import TOKENS, ServedModels
from support.serving_engine import BASE, digest_of


class GivenFolders:
    """Versions' folders by digest; nothing is fetched."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        self.leased: list[Path] = []

    async def begin(self) -> None:
        self.leased.clear()

    async def fetch(self, name: str, digest: str) -> Fetched:
        self.leased.append(self._folders[digest])
        return Fetched(self._folders[digest])

    async def release(self, fetched: Fetched) -> None:
        self.leased.remove(fetched.folder)


@dataclass
class Answers:
    """What the requests got."""

    #: Texts that are whole and of one version, by version.
    pure: Counter[str] = field(default_factory=Counter)
    #: Texts that are no version's.
    mixed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        pure = ", ".join(f"{name or 'base'} {count}" for name, count in sorted(self.pure.items()))
        return f"{self.pure.total()} pure ({pure}), {len(self.mixed)} mixed, {len(self.errors)} errors"


class MovingWorld:
    """One adapter's versions in front of an engine."""

    def __init__(
        self,
        engine: InferenceEngine,
        models: ServedModels,
        *,
        decode: Callable[[list[int]], str],
        folders: Mapping[str, Path] | None = None,
        bounds: Bounds | None = None,
        unprobed: bool = False,
    ) -> None:
        self.engine, self.models = engine, models
        self.folders = dict(folders or models.adapters)
        by_digest = {digest_of(name): folder for name, folder in self.folders.items()}
        self.source, self.lines, self.answers = GivenFolders(by_digest), [], Answers()
        self._texts = models.texts(decode)
        proving = Proving(self._record, unprobed=unprobed, dtype="float32")
        self.moves = Moves(
            engine,
            refs=["sql@production"],
            base=BASE,
            folders=self.source,
            prove=proving,
            say=self.lines.append,
            bounds=bounds or Bounds(wait_s=120.0, watch_s=0.5),
        )

    def _record(self, name: str, digest: str) -> ServedProbe | None:
        return self.models.records.get(name)

    def point(self, number: int) -> None:
        """Move the alias."""
        versions = [
            ServedVersion(number=int(name.rpartition("v")[2]), digest=digest_of(name), state="ready", base=BASE)
            for name in self.folders
        ]
        self.moves.update([ServedAdapter(name="sql", latest=None, aliases={"production": number}, versions=versions)])

    def means(self) -> str | None:
        (name,) = self.moves.names()
        return name.serving

    async def moved(self, number: int) -> float:
        """Move the alias, and return the seconds until it has."""
        began_s = time.monotonic()
        self.point(number)
        async with asyncio.timeout(300):
            while self.means() != f"sql@v{number}":
                await asyncio.sleep(0.005)
        return time.monotonic() - began_s

    async def ask(self, at: int, model: str | None = "sql@production") -> str | None:
        """Run one stream to its end, and write down what it was; return the version that it got."""
        prompt = self.models.prompts[at % len(self.models.prompts)]
        try:
            async with self.moves.hold(model) as held:
                body = {"model": "-", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": True}
                text = ""
                async with held.upstream.client.stream(
                    "POST", "/v1/completions", json={**body, **held.upstream.fields}
                ) as stream:
                    if stream.status_code != 200:
                        await stream.aread()
                        self.answers.errors.append(f"{stream.status_code} {stream.text[:200]}")
                        return None
                    async for line in stream.aiter_lines():
                        if line.startswith("data: {"):
                            chunk = json.loads(line[6:])
                            if "error" in chunk:
                                self.answers.errors.append(str(chunk["error"]))
                                return None
                            text += "".join(each.get("text") or "" for each in chunk["choices"])
                version = held.version or ""
        except (httpx.HTTPError, NotServed, EngineRefused) as error:
            self.answers.errors.append(f"{type(error).__name__} {error}")
            return None
        if self._texts.get((at % len(self.models.prompts), text)) == version:
            self.answers.pure[version] += 1
        else:
            right = next(
                text
                for (row, text), name in self._texts.items()
                if (row, name) == (at % len(self.models.prompts), version)
            )
            whose = [key for key in self._texts.items() if key[0][1] == text]
            self.answers.mixed.append(f"{version}: {text!r} for {right!r}, {whose}")
        return version

    async def stream(self, at: int, until: asyncio.Event) -> None:
        """Ask again and again."""
        while not until.is_set():
            await self.ask(at)
            at += 1
