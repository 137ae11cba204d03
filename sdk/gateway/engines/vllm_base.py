"""The base of a vLLM, asked for by an adapter that changes nothing.

On a CPU (seen with 0.32, open upstream) vLLM applies the adapter in its last place to every request for the base itself that shares a
batch with an adapter's, and to all of them if that adapter is one of the head: the place of "no adapter" is -1, which is an index
there. The texts are wrong, not their probabilities alone, and vLLM doesn't say what it runs on. A request under an adapter of zeros
has a place of its own and gets the base's answer in any batch; it costs one of `--max-loras`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Set
from pathlib import Path

from sdk.formats.adapter_files import CONFIG_FILE, PREFIX, WEIGHTS_FILE, lora_key
from sdk.formats.safetensors import ITEM_BYTES, Header, SafetensorsError, read_header
from sdk.formats.safetensors_header import TensorEntry, written_header
from sdk.gateway.engines.engine import EngineRefused, RunningCount

_NAME = re.compile("adapterctl-base-[0-9a-f]{8}")
#: Modules that engines treat apart, and which are taken only if an adapter has no others.
_SPECIAL = ("lm_head", "embed_tokens", "score")


class VllmBase:
    """How the base is asked for: itself until the first version comes, then as an adapter without effect.

    That one has a new name each time it is loaded: two under one name in one batch end vLLM.
    """

    def __init__(self, own: Path, load: Callable[[str, Path], Awaitable[str | None]], *, wait_s: float) -> None:
        """`own` is the gateway's folder. `load` gives the engine a folder below it under a name, and returns why it doesn't take it.
        Requests for the base that began before the first version are waited for, up to `wait_s`.
        """
        self._own, self._load, self._wait_s = own, load, wait_s
        self._itself, self._running = "", RunningCount()
        self._folder: Path | None = None
        self._lock = asyncio.Lock()

    @property
    def folder(self) -> Path | None:
        """The files that the engine may read; None: it has no such adapter."""
        return self._folder

    def look(self, itself: str, names: Set[str]) -> None:
        """Take what the engine has now: the base's own name, and the names of the adapters that lie in our folder under these.

        One that an earlier gateway loaded from here goes on being used.
        """
        self._itself = itself
        if self._folder is None or self._folder.name not in names:
            found = (self._own / name for name in sorted(names) if is_base(name))
            self._folder = next((each for each in found if each.is_dir()), None)

    def asked_as(self) -> tuple[str, RunningCount]:
        """Return the model's name for requests to the base, and what counts them."""
        if self._folder is None:
            return self._itself, self._running
        return self._folder.name, RunningCount()

    async def beside(self, name: str, version: Path) -> None:
        """Make the base right beside a version, which is loaded next. Raises EngineRefused, httpx.HTTPError."""
        async with self._lock:
            if self._folder is None:
                await self._load_empty(name, version)
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._running.idle()
            except TimeoutError:
                raise EngineRefused(
                    "requests to the base that began before any version was loaded are still running, and vLLM may answer them wrongly "
                    f"while {name} loads; wait until they have ended, {name} is tried again by itself"
                ) from None

    async def _load_empty(self, name: str, version: Path) -> None:
        folder = self._own / f"adapterctl-base-{os.urandom(4).hex()}"
        try:
            is_written = await asyncio.to_thread(write_empty, version, folder)
        except (OSError, SafetensorsError) as error:
            raise EngineRefused(
                f"the weights of {name} can't be read ({error}); run: adapterctl verify {name}"
            ) from error
        if not is_written:
            # Experts or embeddings alone. vLLM has no such adapters on a CPU, so the base itself is asked.
            return
        # While the engine is away it may get it or not, so the files stay.
        reason = await self._load(folder.name, folder)
        if reason is not None:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise EngineRefused(
                f"vLLM doesn't load an adapter without effect, by which it is asked for the base next to {name}: {reason}; see: "
                f"adapterctl compat {name} --engine vllm"
            )
        self._folder = folder


def is_base(name: str) -> bool:
    """Whether an engine's model is the adapter that stands for its base."""
    return _NAME.fullmatch(name) is not None


def write_empty(version: Path, folder: Path) -> bool:
    """Write a LoRA of rank 1 in which A and B are 0, for one module that a version adapts; return False if it adapts no linear one.

    Raises OSError, SafetensorsError.
    """
    weights = version / WEIGHTS_FILE
    with weights.open("rb") as file:
        header = read_header(file, weights.stat().st_size)
    found = _linear(header)
    if found is None:
        return False
    module, dtype, width, height = found
    item = int(ITEM_BYTES[dtype])
    tensors = [
        TensorEntry(f"{PREFIX}{module}.lora_A.weight", dtype, (1, width), width * item),
        TensorEntry(f"{PREFIX}{module}.lora_B.weight", dtype, (height, 1), height * item),
    ]
    folder.mkdir(mode=0o755)
    (folder / WEIGHTS_FILE).write_bytes(
        written_header(tensors, {"format": "pt"}) + bytes(sum(each.size_bytes for each in tensors))
    )
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 1,
        "lora_alpha": 1,
        "target_modules": [module.rpartition(".")[2]],
        "bias": "none",
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    return True


def _linear(header: Header) -> tuple[str, str, int, int] | None:
    """Return a module with A and B of two dimensions, with their dtype, and how wide its input and its output are."""
    shapes = {header.name(at): header.kind(at) for at in range(len(header))}
    modules = []
    for name, kind in shapes.items():
        key = lora_key(name)
        if key is None or key.part != "A" or len(kind.shape) != 2:
            continue
        other = shapes.get(f"{PREFIX}{key.module}.lora_B.weight")
        if other is not None and len(other.shape) == 2:
            modules.append((key.module, kind.dtype, kind.shape[1], other.shape[0]))
    return min(modules, key=lambda each: each[0].endswith(_SPECIAL), default=None)
