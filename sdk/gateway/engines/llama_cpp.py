"""llama.cpp: it takes no adapter while it runs, so a new version is a new process, beside the old one until that has answered.

The new process gets no request before somebody asks for the version: until then its tokens are scored there, and whoever is answered by the
old process stays. Each request gives the scale of every adapter in its process, since llama.cpp takes an empty list for those of the
request before. No state of a prompt is used again: under load it was seen to come from another version's request. Scores of a process that
nobody else asks are the exception: each text has a slot of its own, which it fills first.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from sdk.errors import AdapterctlError
from sdk.exporting.gguf import config_of, export_adapter, export_model
from sdk.file_locks import locked
from sdk.gateway.engines.child import EngineProcess
from sdk.gateway.engines.engine import EngineFacts, EngineRefused, RunningCount, Upstream
from sdk.gateway.engines.llama_cpp_scores import score
from sdk.gateway.engines.private_folder import PrivateFolder
from sdk.schemas.export import GgufDtype

_MODULE = "sdk.gateway.engines.llama_cpp_program"


@dataclass(frozen=True)
class LlamaCppOptions:
    """How llama.cpp is run."""

    #: The type of the base's numbers in its file; None: as stored.
    dtype: GgufDtype | None = None
    #: The most tokens of a prompt with its answer, and how many requests are computed at the same time.
    context_tokens: int = 4096
    parallel: int = 4
    #: None: as llama.cpp chooses.
    threads: int | None = None
    gpu_layers: int = 0
    #: Whether the cache of keys and values is in 32 bits, and nothing is repacked: slower, and as PEFT computes in float32.
    exact: bool = False
    #: How long a process may take to start, and how long a version waits until the process before the last has answered.
    ready_s: float = 300.0
    drain_s: float = 600.0


@dataclass
class _Process:
    child: EngineProcess
    #: The files of adapters by version, in the order of their ids.
    files: Mapping[str, Path]
    #: How many requests it computes at the same time: those that have a slot of their own.
    slots: asyncio.Queue[int]
    running: RunningCount = field(default_factory=RunningCount)

    def fields(self, name: str | None) -> dict[str, Any]:
        """Return what a request for a version, or the base, says about adapters."""
        if not self.files:
            return {"cache_prompt": False}
        scales = [{"id": at, "scale": 1.0 if each == name else 0.0} for at, each in enumerate(self.files)]
        return {"lora": scales, "cache_prompt": False}


class LlamaCppEngine:
    """llama.cpp over one base; at most two processes of it."""

    def __init__(self, base: Path, *, fingerprint: str, store: Path, options: LlamaCppOptions | None = None) -> None:
        """`base` is the folder of the base with this fingerprint; its GGUF file is written into `store` once, and used again."""
        self._base, self._options = base, options or LlamaCppOptions()
        self._model = store / f"{fingerprint[:16]}-{self._options.dtype or 'as-stored'}.gguf"
        self._folder: PrivateFolder | None = None
        #: The versions that are to answer, and their files.
        self._files: dict[str, Path] = {}
        #: The leased folders that they were made from.
        self._sources: dict[str, Path] = {}
        self._current: _Process | None = None
        #: The process that has one version more, for which nobody has asked yet.
        self._next: _Process | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def facts(self) -> EngineFacts:
        """Start llama.cpp, or start it again with all of its versions if it has died, and return what it is. Raises EngineRefused."""
        async with self._lock:
            await self._converted()
            if self._next is not None and not await self._next.child.answers():
                lost, self._next = self._next, None
                await lost.child.end()
            if self._current is None or not await self._current.child.answers():
                dead, self._current = self._current, None
                if dead is not None:
                    await dead.child.end()
                await self._completed()
                self._current, self._next = self._next, None
                if self._current is None:
                    self._current = await self._started(self._files)
            properties = (await _asked(self._current.child, "/props")).json()
            template = properties.get("chat_template")
            return EngineFacts(
                engine="llama.cpp",
                version=_build(self._current.child.ready),
                base=str(self._base),
                context_tokens=int(properties["default_generation_settings"]["n_ctx"]),
                template=hashlib.sha256(template.encode()).hexdigest() if template else None,
                takes=frozenset({"response_format", "tools"}),
            )

    async def load(self, name: str, folder: Path) -> None:
        """Convert an adapter, and start a process that has it besides all others. Raises EngineRefused, httpx.HTTPError."""
        async with self._lock:
            if (newest := self._next or self._current) is None:
                raise httpx.ConnectError("llama.cpp isn't running")
            if self._has(newest, name):
                return
            file = self._private() / f"{hashlib.sha256(f'{name} {folder}'.encode()).hexdigest()[:32]}.gguf"
            try:
                await asyncio.to_thread(_convert, folder, file, self._base, name)
                await self._completed()
                self._advance()
                await self._until_retired()
                process = await self._started({**self._files, name: file})
            except BaseException:
                file.unlink(missing_ok=True)
                raise
            self._files[name], self._sources[name] = file, folder
            self._next = process

    def _has(self, process: _Process | None, name: str) -> bool:
        """Whether a process has what is to answer under a name; it may have another version that had the name before."""
        return process is not None and name in self._files and process.files.get(name) == self._files[name]

    def _advance(self) -> None:
        """Let the new process get all requests from now on, and the old one end after its last."""
        before, after = self._current, self._next
        if before is not None and after is not None:
            self._current, self._next = after, None
            self._retiring = asyncio.get_running_loop().create_task(_retire(before))

    def route(self, name: str | None) -> Upstream:
        """Return where requests for a version go. Raises KeyError."""
        if name is not None and not self._has(self._current, name) and self._has(self._next, name):
            self._advance()
        process = self._current
        if process is None or (name is not None and not self._has(process, name)):
            raise KeyError(name)
        return Upstream(process.child.client, process.fields(name), process.running)

    async def release(self, name: str) -> None:
        """Forget a version: it gets no request any more, and the next process doesn't have it."""
        async with self._lock:
            file = self._files.pop(name, None)
            self._sources.pop(name, None)
            if self._current is not None and self._next is not None:
                if self._next.files.get(name) == file != self._current.files.get(name):
                    # Refused, or not wanted any more, before anybody asked for it.
                    last, self._next = self._next, None
                    self._retiring = asyncio.get_running_loop().create_task(_retire(last))
                elif file is not None:
                    # The new version has taken its place.
                    self._advance()
            if file is not None:
                file.unlink(missing_ok=True)

    async def loaded(self) -> frozenset[str]:
        """Return the versions that llama.cpp has. Raises httpx.HTTPError while it is away."""
        if self._current is None or not self._current.child.is_alive:
            raise httpx.ConnectError("llama.cpp isn't running")
        process = self._next or self._current
        await _require_files(process.child, process.files)
        return frozenset(name for name in process.files if self._has(process, name))

    async def score(self, name: str | None, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """Return the log-probability, in nats, of each token of a continuation. Raises KeyError, httpx.HTTPError, EngineRefused."""
        process = self._next
        if process is None:
            upstream = self.route(name)
            with upstream.running:
                return await score(upstream, prompt, continuation)
        if name is not None and not self._has(process, name):
            raise KeyError(name)
        with process.running:
            slot = await process.slots.get()
            try:
                upstream = Upstream(process.child.client, process.fields(name), process.running)
                return await score(upstream, prompt, continuation, slot=slot)
            finally:
                process.slots.put_nowait(slot)

    async def close(self) -> None:
        """End the processes."""
        if self._retiring is not None:
            self._retiring.cancel()
            await asyncio.gather(self._retiring, return_exceptions=True)
        left = [each for each in (self._current, self._next) if each is not None]
        self._current = self._next = None
        for process in left:
            await process.child.end()
        if self._folder is not None:
            self._folder.close()

    @property
    def pid(self) -> int | None:
        """The number of the process that gets requests; None if there is none."""
        return None if self._current is None else self._current.child.pid

    def _private(self) -> Path:
        try:
            if self._folder is None:
                self._folder = PrivateFolder()
            return self._folder.path
        except OSError as error:
            raise EngineRefused(
                f"no folder can be made for adapters as llama.cpp reads them ({error.strerror}); make room for temporary files, or set TMPDIR"
            ) from error

    async def _completed(self) -> None:
        """Write the files again that a system has removed, as some do with what is old in their folder for temporary files. Raises
        EngineRefused.
        """
        for name, file in self._files.items():
            if not file.is_file():
                self._private()
                await asyncio.to_thread(_convert, self._sources[name], file, self._base, name)

    async def _converted(self) -> None:
        """Write the base's file, unless it is there. Raises EngineRefused."""
        if self._model.is_file():
            return
        self._model.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            await asyncio.to_thread(_convert_base, self._base, self._model, self._options.dtype)
        except AdapterctlError as error:
            raise EngineRefused(error.message) from error

    async def _started(self, files: Mapping[str, Path]) -> _Process:
        options = self._options
        child = await EngineProcess.start(
            _MODULE,
            {
                "model": str(self._model),
                "name": self._base.name,
                "adapters": [str(file) for file in files.values()],
                "parallel": options.parallel,
                "context_tokens": options.context_tokens,
                "threads": options.threads,
                "gpu_layers": options.gpu_layers,
                "exact": options.exact,
            },
            ready_s=options.ready_s,
            what="llama.cpp",
        )
        try:
            await _require_files(child, files)
        except BaseException:
            await child.end()
            raise
        slots = asyncio.Queue[int]()
        for slot in range(options.parallel):
            slots.put_nowait(slot)
        return _Process(child, dict(files), slots)

    async def _until_retired(self) -> None:
        """Wait until the process before the current one has ended: there are never three. Raises EngineRefused."""
        if self._retiring is None:
            return
        try:
            async with asyncio.timeout(self._options.drain_s):
                await asyncio.shield(self._retiring)
        except TimeoutError:
            raise EngineRefused(
                f"requests have been running in the older one of two processes of llama.cpp for {self._options.drain_s:.0f} s; wait until "
                "they end, or start the gateway again"
            ) from None


async def _retire(process: _Process) -> None:
    """End a process once its last request has ended; a route to it that was given is used, or not, before this begins."""
    try:
        await process.running.idle()
    finally:
        await process.child.end()


async def _require_files(child: EngineProcess, files: Mapping[str, Path]) -> None:
    """Raise EngineRefused unless the ids of adapters mean these files."""
    found = (await _asked(child, "/lora-adapters")).json()
    if [(each["id"], each["path"]) for each in found] != list(enumerate(map(str, files.values()))):
        raise EngineRefused("llama.cpp has other adapters than it was given; report it with its version")


async def _asked(child: EngineProcess, path: str) -> httpx.Response:
    answer = await child.client.get(path, timeout=30)
    return answer.raise_for_status()


def _convert(folder: Path, file: Path, base: Path, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        file.unlink()
    try:
        export_adapter(folder, file, base_config=config_of(base), name=name)
    except AdapterctlError as error:
        raise EngineRefused(error.message) from error


def _convert_base(base: Path, file: Path, dtype: GgufDtype | None) -> None:
    with locked(file.with_suffix(".lock")):
        if not file.is_file():
            export_model(base, file, dtype=dtype)


def _build(ready: Mapping[str, Any]) -> str | None:
    """Return the build of llama.cpp: the last part of xllamacpp's version, 2026.10.11549, is its number."""
    version = str((ready.get("ready") or {}).get("version", ""))
    number = version.rpartition(".")[2]
    return f"b{number}" if number.isdecimal() else None
