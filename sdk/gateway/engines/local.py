"""Our own engine program, in a process of its own: one base, whose versions share batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import httpx

from sdk.gateway.engines.child import EngineProcess
from sdk.gateway.engines.engine import EngineFacts, EngineRefused, Upstream
from sdk.worker_program import require_libraries

_MODULE = "workers.serving"
#: What the program calls the base.
_BASE = "base"
_MIDDLING = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE)


class LocalEngine:
    """The engine program, started with the gateway and ended with it."""

    def __init__(
        self,
        base: Path,
        *,
        fingerprint: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        quantization: dict[str, Any] | None = None,
        context_tokens: int | None = None,
        ready_s: float = 600.0,
    ) -> None:
        """`dtype` None: as the base is stored, and float32 on a CPU. `quantization` is the recipe by which its weights are held, as in
        versions' records.
        """
        require_libraries(("torch", "transformers", "peft"), doing="serving by the local engine")
        self._configuration = {
            "base": str(base),
            "fingerprint": fingerprint,
            "dtype": dtype,
            "quantization": quantization,
            "context_tokens": context_tokens,
        }
        self._ready_s = ready_s
        self._child: EngineProcess | None = None
        #: The folders of what is loaded, by version.
        self._folders: dict[str, Path] = {}

    async def facts(self) -> EngineFacts:
        """Start the program, or start it again if it has died, with none of its versions. Raises EngineRefused."""
        if self._child is None or not await self._child.answers():
            self._folders.clear()
            dead, self._child = self._child, None
            if dead is not None:
                await dead.end()
            self._child = await EngineProcess.start(
                _MODULE, self._configuration, ready_s=self._ready_s, what="the engine program"
            )
        health = await self._health()
        return EngineFacts(
            engine="local",
            version=None,
            base=str(health["base"]),
            context_tokens=int(health["context_tokens"]),
            template=health.get("template"),
            takes=frozenset({"echo", "stop_token_ids", "templates"}),
        )

    async def load(self, name: str, folder: Path) -> None:
        """Load a version. Raises EngineRefused, httpx.HTTPError."""
        answer = await self._post("/load", {"name": name, "folder": str(folder)})
        if answer.status_code != httpx.codes.OK:
            raise EngineRefused(_message(answer))
        self._folders[name] = folder

    def route(self, name: str | None) -> Upstream:
        """Return where requests for a version go. Raises KeyError."""
        if self._child is None or (name is not None and name not in self._folders):
            raise KeyError(name)
        return Upstream(self._child.client, {"model": _BASE if name is None else name})

    async def release(self, name: str) -> None:
        """Forget a version. Raises EngineRefused, httpx.HTTPError."""
        answer = await self._post("/release", {"name": name})
        if answer.status_code != httpx.codes.OK:
            raise EngineRefused(_message(answer))
        self._folders.pop(name, None)

    async def loaded(self) -> frozenset[str]:
        """Return the versions that the program has. Raises httpx.HTTPError while it is away."""
        have = {each["name"]: each["folder"] for each in (await self._health())["adapters"]}
        return frozenset(name for name, folder in self._folders.items() if have.get(name) == str(folder))

    async def score(self, name: str | None, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """Return the log-probability, in nats, of each token of a continuation. Raises KeyError, EngineRefused, httpx.HTTPError."""
        body = {"prompt": [*prompt, *continuation], "max_tokens": 0, "echo": True, "logprobs": 0, "temperature": 0}
        body["scores_from"] = len(prompt)
        answer = await self._post("/v1/completions", {**body, **self.route(name).fields})
        if answer.status_code != httpx.codes.OK:
            raise EngineRefused(_message(answer))
        scores = answer.json()["choices"][0]["logprobs"]["token_logprobs"]
        return [math.nan if each is None else float(each) for each in scores[len(prompt) :]]

    async def close(self) -> None:
        """End the program."""
        child, self._child = self._child, None
        self._folders.clear()
        if child is not None:
            await child.end()

    @property
    def pid(self) -> int | None:
        """The number of the program's process; None if there is none."""
        return None if self._child is None else self._child.pid

    async def _health(self) -> dict[str, Any]:
        answer = await self._alive().client.get("/health", timeout=30)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    async def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        answer = await self._alive().client.post(path, json=body)
        if answer.status_code in _MIDDLING:
            # It is about to end, or can't at the moment.
            answer.raise_for_status()
        return answer

    def _alive(self) -> EngineProcess:
        if self._child is None or not self._child.is_alive:
            raise httpx.ConnectError("the engine program isn't running")
        return self._child


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the engine program answers {answer.status_code}; see its log"
