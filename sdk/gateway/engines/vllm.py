"""vLLM, which somebody else runs, with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and a folder that it sees too.

It reads an adapter's files again when it has evicted it from memory, and ends if they are gone. So they lie in a folder of the gateway's
own below the shared one, and stay there for a while after the version was unloaded, since a request whose caller has left may still be
in its queue.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from sdk.file_locks import locked
from sdk.formats.adapter_files import CONFIG_FILE
from sdk.gateway.engines.engine import EngineFacts, EngineRefused, Upstream
from sdk.gateway.engines.vllm_base import VllmBase, is_base
from sdk.gateway.engines.vllm_scores import VllmScores

#: The folder below the shared one, and the file by whose lock one gateway at a time uses it.
_FOLDER, _LOCK = "adapterctl-serving", ".lock"
#: How long a version's files stay after it was unloaded.
_STAY_S = 60.0
#: A rank that no adapter has, by which the engine shows that it reads a folder without loading anything.
_NO_RANK = 1_000_000
_VERSIONED = re.compile(r".+@v[1-9][0-9]{0,8}")
_WORKER_ERROR = re.compile(r"Worker failed with error '(.{1,500}?)', please check", re.DOTALL)
_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
#: A connection of its own for each request: the engine may end one that was kept in the moment in which it is used again.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=0)
_START = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"


class VllmEngine:
    """One vLLM server, reached by its URL."""

    def __init__(
        self,
        url: str,
        *,
        shared: Path,
        shared_as: str | None = None,
        api_key: str | None = None,
        wait_s: float = 60.0,
        stay_s: float = _STAY_S,
    ) -> None:
        """`shared` is a folder that the engine sees as `shared_as`. It may take `wait_s` until the engine answers for the first time."""
        self._url, self._wait_s, self._stay_s = url.rstrip("/"), wait_s, stay_s
        self._own = shared.absolute() / _FOLDER
        self._own_as = PurePosixPath(shared_as or str(shared.absolute())) / _FOLDER
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._client = httpx.AsyncClient(base_url=self._url, headers=headers, timeout=_TIMEOUT, limits=_LIMITS)
        self._held = ExitStack()
        self._is_held = False
        self._base = VllmBase(self._own, self._load_base, wait_s=wait_s)
        self._scores = VllmScores()
        #: The folders of what is loaded, by version, and of what the engine may have, whether it said so or not; and those that are
        #: to be removed, each with its time.
        self._folders: dict[str, Path] = {}
        self._given: dict[str, Path] = {}
        self._leaving: list[tuple[float, Path]] = []

    async def facts(self) -> EngineFacts:
        """Wait for the engine, and see that it takes adapters, sees the shared folder and has no other gateway. Raises EngineRefused."""
        models = await self._models_when_up()
        try:
            version = (await self._client.get("/version", timeout=10)).json().get("version")
        except (httpx.HTTPError, ValueError):
            version = None
        base = next((each for each in models if not each.get("parent")), None)
        if base is None:
            raise EngineRefused(f"{self._url} serves no model; {_START}")
        self._take_folder()
        self._look(models)
        self._require_alone(models)
        await self._require_sight()
        return EngineFacts(
            engine="vllm",
            version=version,
            base=str(base.get("root") or base["id"]),
            context_tokens=int(base.get("max_model_len") or 0),
            template=None,
            takes=frozenset({"response_format", "stop_token_ids", "tools"}),
        )

    async def load(self, name: str, folder: Path) -> None:
        """Give the engine a copy of a folder under a version's name. Raises EngineRefused, httpx.HTTPError."""
        await self._base.beside(name, folder)
        own = self._own / f"{name.replace('/', '+')}-{folder.name[:16]}"
        self._leaving = [(at, each) for at, each in self._leaving if each != own]
        await asyncio.to_thread(_copy, folder, own)
        self._given[name] = own
        self._scores.forget(name)
        answer = await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(self._seen(own))})
        if answer.status_code != httpx.codes.OK and await self._root_of(name) != str(self._seen(own)):
            del self._given[name]
            await asyncio.to_thread(shutil.rmtree, own, ignore_errors=True)
            raise EngineRefused(self._reason(name, answer))
        self._folders[name] = own

    def route(self, name: str | None) -> Upstream:
        """Return where requests for a version go. Raises KeyError."""
        if name is None:
            model, running = self._base.asked_as()
            return Upstream(self._client, {"model": model}, running)
        if name not in self._folders:
            raise KeyError(name)
        return Upstream(self._client, {"model": name})

    async def release(self, name: str) -> None:
        """Unload a version. Raises httpx.HTTPError, EngineRefused."""
        answer = await self._post("/v1/unload_lora_adapter", {"lora_name": name})
        if answer.status_code not in (httpx.codes.OK, httpx.codes.NOT_FOUND):
            raise EngineRefused(f"vLLM doesn't unload {name}: {_message(answer)}")
        self._folders.pop(name, None)
        folder = self._given.pop(name, None)
        if folder is not None:
            self._leaving.append((time.monotonic(), folder))

    async def loaded(self) -> frozenset[str]:
        """Return the versions that vLLM has from this gateway's folder, or had from it before. Raises httpx.HTTPError."""
        before = self._base.folder
        models = await self._models()
        if self._base.folder == before:
            # Else this answer may be older than that.
            self._look(models)
        now_s = time.monotonic()
        while self._leaving and now_s - self._leaving[0][0] >= self._stay_s:
            folder = self._leaving.pop(0)[1]
            # At once, under another name: a version that is loaded again meanwhile finds its folder whole, or none.
            gone = folder.with_name(f".gone-{os.urandom(8).hex()}")
            with suppress(OSError):
                folder.rename(gone)
                await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)
        found = set()
        for each in models:
            name, root = str(each["id"]), str(each.get("root"))
            loaded = self._folders.get(name)
            if not each.get("parent") or is_base(name):
                continue
            if root == str(self._seen(loaded)) if loaded else self._is_own(root):
                found.add(name)
        return frozenset(found)

    async def score(self, name: str | None, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """Return the log-probability, in nats, of each token of a continuation. Raises KeyError, httpx.HTTPError, EngineRefused."""
        if name is None:
            # One that was started again may have another base, and doesn't have the adapter by which this one is asked for it.
            await self.loaded()
            if self._base.folder is None:
                self._scores.forget(self.route(None).fields["model"])
        upstream = self.route(name)
        with upstream.running:
            return await self._scores.score(upstream, prompt, continuation)

    async def close(self) -> None:
        """Leave the engine as it is: it belongs to somebody else, and may still answer."""
        self._scores.close()
        await self._client.aclose()
        self._held.close()
        self._is_held = False

    def _seen(self, folder: Path) -> PurePosixPath:
        """Return how the engine sees a folder below our own."""
        return self._own_as / folder.relative_to(self._own).as_posix()

    def _is_own(self, root: str) -> bool:
        return PurePosixPath(root).is_relative_to(self._own_as)

    def _look(self, models: Sequence[dict[str, Any]]) -> None:
        """Take from what the engine has how its base is to be asked for, and keep those files."""
        itself = next((str(each["id"]) for each in models if not each.get("parent")), "")
        roots = {str(each["id"]): str(each.get("root")) for each in models if each.get("parent")}
        before = self._base.folder
        self._base.look(itself, {name for name, root in roots.items() if root == str(self._own_as / name)})
        if before is not None and before != self._base.folder:
            self._leaving.append((time.monotonic(), before))
        self._leaving = [(at, each) for at, each in self._leaving if each != self._base.folder]

    async def _load_base(self, name: str, folder: Path) -> str | None:
        answer = await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(self._seen(folder))})
        return None if answer.status_code == httpx.codes.OK else _message(answer)

    async def _models_when_up(self) -> list[dict[str, Any]]:
        deadline_s = time.monotonic() + self._wait_s
        while True:
            try:
                return await self._models()
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                    raise EngineRefused(
                        f"{self._url} doesn't take the key of the gateway; give the engine's --api-key"
                    ) from error
                if status < httpx.codes.INTERNAL_SERVER_ERROR:
                    raise EngineRefused(
                        f"{self._url} answers {status} to /v1/models, so it isn't vLLM; give its URL"
                    ) from error
                last: Exception = error
            except httpx.HTTPError as error:
                last = error
            except (ValueError, KeyError, TypeError) as error:
                raise EngineRefused(f"{self._url} doesn't answer as vLLM does; give its URL") from error
            if time.monotonic() >= deadline_s:
                raise EngineRefused(
                    f"{self._url} doesn't answer ({str(last)[:200] or type(last).__name__}); start vLLM, or give its URL"
                ) from last
            await asyncio.sleep(0.5)

    async def _models(self) -> list[dict[str, Any]]:
        answer = await self._client.get("/v1/models", timeout=10)
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        return found

    async def _root_of(self, name: str) -> str | None:
        return next((str(each.get("root")) for each in await self._models() if each["id"] == name), None)

    async def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        answer = await self._client.post(path, json=body)
        if answer.status_code in (
            httpx.codes.BAD_GATEWAY,
            httpx.codes.SERVICE_UNAVAILABLE,
            httpx.codes.GATEWAY_TIMEOUT,
        ):
            # What stands between says this while the engine is away.
            answer.raise_for_status()
        return answer

    def _take_folder(self) -> None:
        """Hold the folder for this gateway alone, and empty it of what one before it left. Raises EngineRefused."""
        if self._is_held:
            return
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            self._held.enter_context(locked(self._own / _LOCK, timeout_s=0.0))
        except BlockingIOError:
            raise EngineRefused(
                f"another gateway uses {self._own.parent} for this engine; stop it, or give each gateway an engine of its own"
            ) from None
        except OSError as error:
            raise EngineRefused(
                f"nothing can be written into {self._own.parent} ({error.strerror}); give another folder with --shared"
            ) from error
        self._is_held = True
        # The engine may still read what an earlier gateway gave it, until it was unloaded.
        now_s = time.monotonic()
        self._leaving = [(now_s, each) for each in self._own.iterdir() if each.is_dir()]

    def _require_alone(self, models: Sequence[dict[str, Any]]) -> None:
        for each in models:
            name, root = str(each["id"]), str(each.get("root"))
            if each.get("parent") and _VERSIONED.fullmatch(name) and not self._is_own(root):
                raise EngineRefused(
                    f"the engine has {name} from {root}, so another gateway serves through it; stop that one and unload the version, "
                    "or give each gateway an engine of its own"
                )

    async def _require_sight(self) -> None:
        """See that the engine reads the shared folder, by an adapter that it refuses for its rank. Raises EngineRefused."""
        folder = self._own / f"look-{os.urandom(4).hex()}"
        name = folder.name
        config = {"peft_type": "LORA", "r": _NO_RANK, "lora_alpha": 1, "target_modules": ["q_proj"]}
        try:
            folder.mkdir()
            (folder / CONFIG_FILE).write_text(json.dumps(config))
            answer = await self._post(
                "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(self._seen(folder))}
            )
        except httpx.HTTPError as error:
            raise EngineRefused(f"{self._url} doesn't answer ({error}); look at its log") from error
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        message = _message(answer)
        if "max_lora_rank" in message or str(_NO_RANK) in message:
            return
        if "No adapter found" in message:
            raise EngineRefused(
                f"the engine doesn't see {self._own.parent} as {self._own_as.parent}; give its path there with --shared DIR=PATH"
            )
        if answer.status_code == httpx.codes.OK:
            await self._post("/v1/unload_lora_adapter", {"lora_name": name})
        raise EngineRefused(f"the engine takes no adapters while it runs (it says: {message}); {_START}")

    def _reason(self, name: str, answer: httpx.Response) -> str:
        message = _message(answer)
        if "already been loaded" in message:
            return f"the engine has {name} from another folder, so another gateway serves through it; give each gateway an engine of its own"
        return f"vLLM doesn't load {name}: {message}; see: adapterctl compat {name} --engine vllm"


def _message(answer: httpx.Response) -> str:
    """Return what an answer says went wrong."""
    try:
        body = answer.json()
        text = str(body["error"]["message"] if isinstance(body.get("error"), dict) else body.get("detail") or body)
    except (ValueError, KeyError, TypeError, AttributeError):
        text = f"{answer.status_code} {answer.text[:200]}"
    found = _WORKER_ERROR.search(text)
    return (found[1] if found else text)[:500].rstrip(". ")


def _copy(folder: Path, own: Path) -> None:
    """Put a version's files into a folder of our own: as links if possible, since nobody edits them."""
    if own.is_dir():
        return
    partial = own.with_name(f".{own.name}.partial-{os.urandom(4).hex()}")
    partial.mkdir(mode=0o755)
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                try:
                    os.link(path, partial / path.name)
                except OSError:
                    shutil.copyfile(path, partial / path.name)
        partial.rename(own)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
