"""llama.cpp itself, in this process: runs a GGUF file with all numbers in 32 bits and one thread."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: A token of one ASCII byte in all tokenizers of the tests.
_LETTER = 36


class LlamaCpp:
    """One model, with or without an adapter; it lives as long as it is referenced."""

    def __init__(self, model: Path, *, lora: Path | None = None, context: int = 256) -> None:
        found = pytest.importorskip("xllamacpp", reason="xllamacpp, which is llama.cpp, has no wheel for this system")
        params = found.CommonParams()
        params.model.path = str(model)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 1, 0
        params.cache_type_k = params.cache_type_v = found.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = found.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.warmup = params.fit_params = False
        params.no_extra_bufts = True
        params.verbosity = -1
        if lora is not None:
            params.lora_adapters = [found.CommonAdapterLoraInfo(str(lora), 1.0)]
        self._server = found.Server(params)
        # If it is freed before its loop has begun, it never ends; the model's properties are answered without the loop.
        self._complete([_LETTER], 1)

    def log_probabilities(self, ids: list[int], vocabulary: int) -> Any:
        """Return the logarithm of each token's probability after a text, (vocab,) in float64."""
        # They are the ones before this token is chosen, which is a letter by itself: for half a character llama.cpp
        # gives none.
        (step,) = self._complete(ids, 1, n_probs=vocabulary, logit_bias=[[_LETTER, 1e4]])["completion_probabilities"]
        found = np.full(vocabulary, -np.inf)
        for token in step["top_logprobs"]:
            found[token["id"]] = token["logprob"]
        return found

    def greedy(self, ids: list[int], tokens: int) -> list[int]:
        """Return the likeliest continuation of a text, up to a token that ends answers, which is included if it
        came.
        """
        return self._complete(ids, tokens)["tokens"]

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """Return a text as tokens, with the ones that the file puts around it if `special`."""
        return self._post("/tokenize", {"content": text, "add_special": special})["tokens"]

    def properties(self) -> dict[str, Any]:
        """Return what the server says about the model, including its chat template."""
        with urllib.request.urlopen(f"{self._server.listening_address}/props", timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _complete(self, ids: list[int], tokens: int, **more: Any) -> Any:
        asked = {"prompt": ids, "n_predict": tokens, "temperature": 0, "cache_prompt": False, "return_tokens": True}
        return self._post("/completion", {**asked, **more})

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
