"""Real engines for tests: started over a base, and asked as the gateway asks them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from sdk.gateway.engines.engine import InferenceEngine
from sdk.gateway.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions
from sdk.gateway.engines.local import LocalEngine
from sdk.gateway.engines.vllm import VllmEngine
from sdk.worker_program import missing_libraries
from support.served_models import ServedModels

#: An engine, and the event loop that it lives in.
EngineInLoop = tuple[asyncio.Runner, InferenceEngine]
LOCAL, LLAMA_CPP, VLLM = "local", "llama.cpp", "vllm"
#: The Python of the environment that `make serve-peers` makes for vLLM.
VLLM_PYTHON = Path(__file__).resolve().parents[2] / "build" / "vllm" / "bin" / "python"
_VLLM = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "KMP_BLOCKTIME": "0",
    # Memory that it frees it takes again at once: without these, half of its time for adapters goes to the system.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
}


def require_torch() -> None:
    """Skip a test whose engines, or models, need torch where that isn't installed. It isn't imported."""
    if missing_libraries(["torch"]):
        pytest.skip("needs torch")


def local(base: Path) -> LocalEngine:
    """Our own engine in float32."""
    require_torch()
    return LocalEngine(base, dtype="float32")


def llama_cpp(base: Path, store: Path, **options: Any) -> LlamaCppEngine:
    """llama.cpp in float32 and one thread."""
    pytest.importorskip("xllamacpp", reason="xllamacpp, which is llama.cpp, has no wheel for this system")
    given = {"dtype": "f32", "context_tokens": 256, "threads": 1, "exact": True, **options}
    return LlamaCppEngine(base, fingerprint="f" * 64, store=store, options=LlamaCppOptions(**given))


class VllmServer:
    """vLLM in processes of its own."""

    def __init__(self, base: Path, folder: Path, *, options: tuple[str, ...] = (), **variables: str) -> None:
        self._base, self._folder, self._options, self._variables = base, folder, options, variables
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = "engine-key"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready_s: float = 400.0, words: list[str] | None = None) -> None:
        """Start it, and wait until it answers; `words` are another command than usual, after its Python."""
        options = ["--model", self._base, "--served-model-name", "base", "--host", "127.0.0.1", "--port", self.port]
        options += [
            "--enforce-eager",
            "--dtype",
            "float32",
            "--max-model-len",
            256,
            "--enable-lora",
            "--max-lora-rank",
            16,
        ]
        options += ["--max-loras", 4, "--max-cpu-loras", 16, "--api-key", self.key, *self._options]
        with (self._folder / "vllm.log").open("ab") as log:
            self._process = subprocess.Popen(
                [VLLM_PYTHON, *(words or ["-m", "vllm.entrypoints.openai.api_server", *map(str, options)])],
                stdout=log,
                stderr=log,
                env={**os.environ, **_VLLM, **self._variables},
                cwd=self._folder,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + ready_s
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "vllm.log").read_text()[-3000:]
            assert time.monotonic() < deadline_s, "vLLM isn't ready"
            time.sleep(0.3)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """Kill all of its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def engine(self, shared: Path, **options: Any) -> VllmEngine:
        """The engine as a gateway sees it."""
        return VllmEngine(self.url, shared=shared, api_key=self.key, **{"wait_s": 5.0, **options})


def require_peers() -> None:
    """Skip a test of what is installed for `make serve-peers` alone."""
    if os.environ.get("ADAPTERCTL_PEERS") != "1":
        pytest.skip("vLLM is tried by: make serve-peers")


@contextmanager
def vllm_server(base: Path, folder: Path, **options: Any) -> Iterator[VllmServer]:
    """A vLLM over a base; only in `make serve-peers`."""
    require_peers()
    server = VllmServer(base, folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def engine_of(kind: str, models: ServedModels, folder: Path) -> Iterator[Callable[[], InferenceEngine]]:
    """Return what makes an engine of one kind over a base; vLLM runs for the block."""
    if kind == LOCAL:
        yield lambda: local(models.base)
    elif kind == LLAMA_CPP:
        yield lambda: llama_cpp(models.base, models.base.parent / "store")
    else:
        with vllm_server(models.base, folder) as server:
            yield lambda: server.engine(folder / "shared")


@cache
def decoder(base: Path) -> Callable[[list[int]], str]:
    """Return what makes text of tokens as engines do."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    return lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True))


async def complete(engine: InferenceEngine, name: str | None, prompt: list[int], tokens: int, **more: Any) -> Any:
    """Ask an engine as the gateway does, for tokens; return what OpenAI's route answers."""
    upstream = engine.route(name)
    body = {"model": "-", "prompt": prompt, "max_tokens": tokens, "temperature": 0, **more, **upstream.fields}
    with upstream.running:
        answer = await upstream.client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@asynccontextmanager
async def up(engine: InferenceEngine) -> AsyncIterator[InferenceEngine]:
    """An engine that is up for the block."""
    try:
        await engine.facts()
        yield engine
    finally:
        await engine.close()
