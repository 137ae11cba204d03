"""llama.cpp's own server in a process of its own: `python -P -m sdk.gateway.engines.llama_cpp_program`, as `child` starts it."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from typing import Any


def main() -> None:
    """Serve until the standard input ends."""
    configuration = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        library: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        _refuse(f"llama.cpp can't be loaded ({error}); run: pip install xllamacpp")
    try:
        # It lives as long as it is referenced.
        server = library.Server(_params(library, configuration))
    except Exception as error:  # noqa: BLE001 - whatever llama.cpp throws is the reason
        _refuse(f"llama.cpp doesn't start ({str(error)[:300]}); see that there is enough memory for the base")
    _print({"ready": {"version": library.__version__}})
    threading.Event().wait()
    del server


def _params(library: Any, configuration: dict[str, Any]) -> Any:
    params = library.CommonParams()
    params.model.path = configuration["model"]
    params.model_alias = {configuration["name"]}
    params.hostnames = [configuration["socket"]]
    params.n_parallel = configuration["parallel"]
    # The context is shared by what runs at the same time.
    params.n_ctx = configuration["context_tokens"] * configuration["parallel"]
    params.n_gpu_layers = configuration["gpu_layers"]
    if configuration["threads"] is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = configuration["threads"]
    params.lora_adapters = [library.CommonAdapterLoraInfo(path, 1.0) for path in configuration["adapters"]]
    # What a request doesn't say, it means as OpenAI does; llama.cpp has ways of its own to cut off unlikely tokens.
    params.sampling.temp = params.sampling.top_p = 1.0
    params.sampling.top_k, params.sampling.min_p = 0, 0.0
    # States of prompts that were put aside are found again by their tokens alone, whatever adapter they were computed under.
    params.cache_ram_mib = 0
    params.cache_prompt = params.cache_idle_slots = False
    # A prompt that doesn't fit is refused, and none is cut.
    params.ctx_shift = False
    # Pages with prompts, and a user interface, are nobody's business.
    params.endpoint_slots = params.ui = False
    params.warmup = params.fit_params = False
    params.verbosity = -1
    if configuration["exact"]:
        params.cache_type_k = params.cache_type_v = library.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_extra_bufts = True
    return params


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def _refuse(reason: str) -> Any:
    _print({"refused": reason})
    # Threads of llama.cpp may be left.
    os._exit(1)


def _print(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
