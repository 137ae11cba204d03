"""Which engine is put behind a gateway, made from what `adapterctl serve` was told."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import urlsplit

from sdk.api import bases
from sdk.errors import InvalidInput, NotFound, Unavailable
from sdk.gateway.engines.engine import InferenceEngine
from sdk.gateway.moves.proving import objection_of
from sdk.gateway.tables.last_answers import LastAnswers
from sdk.pushing.given_base import files_here
from sdk.schemas.catalog import BaseView
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.serving import ServedVersion
from sdk.worker_program import missing_libraries

if TYPE_CHECKING:
    from sdk.client import Client

EngineName = Literal["local", "llama.cpp", "vllm"]
ENGINES: tuple[str, ...] = get_args(EngineName)
#: The key of an engine that asks for one; it is given to nobody else.
KEY_VARIABLE = "ADAPTERCTL_ENGINE_KEY"


@dataclass(frozen=True)
class EngineChoice:
    """An engine by name, where it is, and a folder that it sees, perhaps by another path."""

    name: EngineName
    url: str | None = None
    shared: Path | None = None
    shared_as: str | None = None


@dataclass(frozen=True)
class ChosenEngine:
    """An engine, and what is known of it from here."""

    engine: InferenceEngine
    #: What requests call its base, after `base:`.
    base_id: str
    #: The base's folder; None: it isn't on this machine.
    base: Path | None
    #: Says why it can't serve what is in a folder.
    objection: Callable[[Path], str | None] | None


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def check(choice: EngineChoice) -> None:
    """Raise InvalidInput for options that don't go together."""
    if choice.name == "vllm":
        if choice.url is None or choice.shared is None:
            raise InvalidInput(
                "vllm is a server of its own; say where it is and a folder that it sees: --at URL --shared DIR",
                param="at",
            )
        if not _is_http(choice.url):
            raise InvalidInput(f"--at can't be {choice.url!a}; use a URL such as http://HOST:8000", param="at")
        if not choice.shared.is_dir():
            raise InvalidInput(f"{choice.shared} is not a folder; give one that the engine sees too", param="shared")
    elif choice.url is not None or choice.shared is not None:
        raise InvalidInput(f"{choice.name} is started by the gateway; leave --at and --shared out", param="at")


def choose(client: Client, choice: EngineChoice, ref: str, version: ServedVersion, store: Path) -> ChosenEngine:
    """Return the engine for the base of a version. Raises InvalidInput, NotFound, Unavailable."""
    check(choice)
    last = LastAnswers(store / "bases", client.config.url)
    view = last.ask(BaseView, version.base, lambda: bases.get(client.transport, version.base))
    folder = files_here(client.cache, version.base, view)
    base_id = version.base[:12] if view is None else view.id
    if choice.name == "vllm":
        from sdk.gateway.engines.vllm import VllmEngine

        assert choice.url is not None
        assert choice.shared is not None
        made: InferenceEngine = VllmEngine(
            choice.url, shared=choice.shared, shared_as=choice.shared_as, api_key=os.environ.get(KEY_VARIABLE) or None
        )
        return ChosenEngine(made, base_id, folder, objection_of("vllm", None, folder))
    if folder is None:
        raise NotFound(
            f"the base {base_id} is not on this machine; add its folder with: adapterctl base add DIR",
            param="base",
        )
    if choice.name == "llama.cpp":
        if missing := missing_libraries(("xllamacpp", "gguf", "numpy")):
            raise Unavailable(
                f"llama.cpp needs {' and '.join(missing)}, which this Python lacks; run: pip install xllamacpp 'adapterctl[local]'"
            )
        from sdk.gateway.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions

        # Our own engine's libraries read it themselves.
        threads = os.environ.get("OMP_NUM_THREADS", "")
        options = LlamaCppOptions(threads=int(threads) if threads.isdecimal() and int(threads) else None)
        made = LlamaCppEngine(folder, fingerprint=version.base, store=store / "gguf", options=options)
        return ChosenEngine(made, base_id, folder, objection_of("llama.cpp", None, folder))
    from sdk.gateway.engines.local import LocalEngine

    recipe = last.ask(QuantizationRecipe, version.digest, lambda: client.get(ref).info.quantization)
    quantization = None if recipe is None else recipe.model_dump(mode="json")
    made = LocalEngine(folder, fingerprint=version.base, quantization=quantization)
    return ChosenEngine(made, base_id, folder, None)
