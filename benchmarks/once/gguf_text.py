"""Whether llama.cpp writes what PEFT does: SmolLM2 with an adapter, from the GGUF files of base and adapter, and from the merged one.

    python -m benchmarks.once.gguf_text ADAPTER [CACHE]

ADAPTER is the folder of an adapter for SmolLM2-135M-Instruct, such as `make demo` pulls. All weights and the cache of keys and
values are in 32 bits. Where two greedy texts part, the gap between PEFT's two likeliest tokens there is told: a choice that
rounding may decide.

Its figures in docs/exporting.md are of 2026-11-27.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoTokenizer

import sdk
from benchmarks.merged_text import NEW_TOKENS, in_float32, load, merged, prompts_of
from examples.docstrings.base import make_base

xllamacpp: Any = importlib.import_module("xllamacpp")


class LlamaCpp:
    """llama.cpp's server in this process, over a model and perhaps an adapter."""

    def __init__(self, model: Path, lora: Path | None = None) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.n_ctx, params.n_parallel, params.n_gpu_layers, params.verbosity = 2048, 1, 0, -1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.warmup = params.fit_params = False
        if lora is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
        self._server = xllamacpp.Server(params)

    def write(self, ids: list[int]) -> list[int]:
        """Return the likeliest continuation, up to a token that ends answers."""
        asked = {"prompt": ids, "n_predict": NEW_TOKENS, "temperature": 0, "cache_prompt": False, "return_tokens": True}
        answer = httpx.post(f"{self._server.listening_address}/completion", json=asked, timeout=300)
        tokens: list[int] = answer.raise_for_status().json()["tokens"]
        return tokens


def run(adapter: Path, cache: Path) -> dict[str, Any]:
    """Return for both ways how many texts are the same, and the gaps where they part; and what the first one says."""
    stored = make_base(cache)
    tokenizer = AutoTokenizer.from_pretrained(stored)
    prompts = prompts_of(cache)
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        base = in_float32(stored, folder / "base")
        trained = load(base, adapter, torch.float32)
        expected = [_by_peft(trained, each) for each in ids]
        sdk.versions.export(base, folder / "base.gguf")
        sdk.versions.export(adapter, folder / "adapter.gguf", base=str(base))
        sdk.versions.export(merged(base, adapter, folder / "merged"), folder / "merged.gguf")
        beside = LlamaCpp(folder / "base.gguf", folder / "adapter.gguf")
        whole = LlamaCpp(folder / "merged.gguf")
        return {
            "prompts": len(ids),
            "new_tokens": NEW_TOKENS,
            "beside": _compared(beside, ids, expected),
            "merged": _compared(whole, ids, expected),
            "prompt": prompts[0],
            "answer": tokenizer.decode(whole.write(ids[0]), skip_special_tokens=True),
            "bare_answer": tokenizer.decode(LlamaCpp(folder / "base.gguf").write(ids[0]), skip_special_tokens=True),
        }


def _by_peft(model: Any, ids: list[int]) -> tuple[list[int], list[float]]:
    """Return what PEFT's model writes, and before each token the gap of the two largest logits."""
    given = torch.tensor([ids])
    written = model.generate(
        input_ids=given,
        attention_mask=torch.ones_like(given),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        output_scores=True,
        return_dict_in_generate=True,
    )
    gaps = [float(best[0] - second[0]) for best, second in (step[0].topk(2).values.split(1) for step in written.scores)]
    return written.sequences[0, len(ids) :].tolist(), gaps


def _compared(model: LlamaCpp, ids: list[list[int]], expected: list[tuple[list[int], list[float]]]) -> dict[str, Any]:
    gaps = []
    for each, (tokens, gap) in zip(ids, expected, strict=True):
        written = model.write(each)
        parted = next((n for n, pair in enumerate(zip(tokens, written, strict=False)) if pair[0] != pair[1]), None)
        if parted is not None:
            gaps.append(gap[parted])
    return {"same": len(ids) - len(gaps), "gaps_where_they_part": gaps}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    root = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.gettempdir()) / "adapterctl-benchmarks"
    print(json.dumps(run(Path(sys.argv[1]), root), indent=1))
