"""How often the probe of an engine is wrong: real adapters, right and wrong ones, over engines of several precisions.

    python -m benchmarks.once.served_probe BASE OUT ENGINE ADAPTER…

BASE is the folder of a base and each ADAPTER one of a pulled version; records are made in float32 and kept in the folder OUT. ENGINE is
float32, bfloat16, float16 or nf4 (transformers and PEFT), or llama.cpp-f32 or llama.cpp-f16. Each version's record is held against the engine
with its own adapter, with none, with each of the others, with its own scaled, and over a base into which another adapter is merged by a
quarter or a whole; every decision is that of `sdk.gateway.moves.probe.prove`. Printed is how many passed, failed, and were undecidable, and how far
own and other adapters are from the records, as a multiple of the base's distance.

Its figures in docs/serving.md are of 2026-12-01, over nine adapters of ranks 1, 4 and 16 for SmolLM2-135M-Instruct (`benchmarks.true`).
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

import sdk
from benchmarks.merged_text import in_float32
from sdk.gateway.moves.probe import BaseScores, prove
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.serving import DtypeName, ServedProbe
from workers.pipelines.data.continuations import served_probe
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.model.adapters import load_adapter, unload
from workers.pipelines.model.device import DTYPES, choose_device
from workers.pipelines.model.loading import load_base

#: Scores a continuation after a prompt, in nats.
Score = Callable[[Sequence[int], Sequence[int]], list[float]]
#: The shares of another adapter that a wrong base has in it.
_MERGED = (0.25, 1.0)
_SCALES = (0.5, 0.9, 0.99)


class Scored:
    """An engine that answers from two functions."""

    def __init__(self, base: Score, version: Score) -> None:
        self._base, self._version = base, version

    async def score(self, name: str | None, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """As `InferenceEngine.score`."""
        return (self._base if name is None else self._version)(prompt, continuation)


def by_torch(model: Any) -> Score:
    """Return the scores of a model of transformers or PEFT, each row in a pass of its own."""

    def score(prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *continuation]]), use_cache=False).logits[0]
        predicted = logits[len(prompt) - 1 : -1].float().log_softmax(-1)
        return [float(row[token]) for row, token in zip(predicted, continuation, strict=True)]

    return score


def records_of(base: Path, adapters: Sequence[Path], out: Path) -> dict[str, ServedProbe]:
    """Return each version's record, made unless it is kept already; the names are those of the folders."""
    found, device = {}, choose_device()
    missing = [adapter for adapter in adapters if not (out / f"{adapter.name}.json").is_file()]
    if missing:
        model = load_base(base, device, quantization=None, dtype="float32").model
        tokenizer = load_tokenizer(base, missing[0], ends=True)
        for adapter in missing:
            worn, began = load_adapter(model, adapter), time.process_time()
            made = served_probe(worn, tokenizer, base, device.torch_device, quantization=None)
            print(f"record of {adapter.name[:8]}: {time.process_time() - began:.1f} CPU-seconds", file=sys.stderr)
            (out / f"{adapter.name}.json").write_text(made.model_dump_json())
            model = unload(worn)
    for adapter in adapters:
        found[adapter.name] = ServedProbe.model_validate_json((out / f"{adapter.name}.json").read_bytes())
    return found


class TorchEngine:
    """transformers and PEFT in one precision."""

    def __init__(self, base: Path, dtype: DtypeName, *, nf4: bool) -> None:
        self._base, self._dtype = base, dtype
        self._recipe = QuantizationRecipe(type="nf4", compute_dtype=dtype) if nf4 else None
        self._model = self._load()

    def _load(self) -> Any:
        return load_base(
            self._base,
            choose_device(),
            quantization=self._recipe,
            dtype=self._dtype,
            held="wide" if self._recipe else None,
        ).model

    def bare(self) -> Score:
        """The base."""
        return by_torch(self._model)

    @contextmanager
    def wearing(self, adapter: Path, scale: float = 1.0) -> Iterator[Score]:
        """The base with an adapter in this precision."""
        worn = load_adapter(self._model, adapter)
        for name, matrix in worn.named_parameters():
            if "lora_" in name:
                matrix.data = (matrix.data * (scale if "lora_B" in name else 1.0)).to(DTYPES[self._dtype])
        yield by_torch(worn)
        self._model = unload(worn)

    @contextmanager
    def merged(self, adapter: Path, share: float) -> Iterator[TorchEngine]:
        """Another base, which has a share of an adapter in it."""
        other = TorchEngine(self._base, self._dtype, nf4=self._recipe is not None)
        worn = load_adapter(other._model, adapter)
        for name, matrix in worn.named_parameters():
            if "lora_B" in name:
                matrix.data = matrix.data * share
        other._model = worn.merge_and_unload()
        yield other


class LlamaCppEngine:
    """llama.cpp in this process; its cache of keys and values is in 32 bits, and so are the adapters."""

    def __init__(self, base: Path, out: Path, *, narrow: bool) -> None:
        self._out, self._wide = out, out / "base-f32"
        self._model = out / ("base-f16.gguf" if narrow else "base-f32.gguf")
        if not self._model.is_file():
            if narrow:
                sdk.versions.export(base, self._model)
            else:
                sdk.versions.export(in_float32(base, self._wide), self._model)
        self._exported_over = base

    def bare(self) -> Score:
        """The base."""
        return self._served(None)

    @contextmanager
    def wearing(self, adapter: Path) -> Iterator[Score]:
        """The base with an adapter."""
        file = self._out / f"{adapter.name}.gguf"
        if not file.is_file():
            sdk.versions.export(adapter, file, base=str(self._exported_over))
        yield self._served(file)

    def _served(self, lora: Path | None) -> Score:
        found: Any = importlib.import_module("xllamacpp")
        params = found.CommonParams()
        params.model.path = str(self._model)
        params.n_ctx, params.n_parallel, params.n_gpu_layers, params.verbosity = 512, 1, 0, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.warmup = params.fit_params = False
        if lora is not None:
            params.lora_adapters = [found.CommonAdapterLoraInfo(str(lora), 1.0)]
        server = found.Server(params)

        def score(prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
            scores = []
            for at, token in enumerate(continuation):
                asked = {
                    "prompt": [*prompt, *continuation[:at]],
                    "n_predict": 1,
                    "temperature": 0,
                    "cache_prompt": True,
                }
                # The log-probabilities are those before the token is chosen.
                asked |= {"n_probs": 1, "logit_bias": [[token, 1e4]]}
                answer = httpx.post(
                    f"{server.listening_address}/completion", json=asked, timeout=300
                ).raise_for_status()
                (step,) = answer.json()["completion_probabilities"]
                if step["id"] != token:
                    raise RuntimeError(f"llama.cpp chose {step['id']}, and not the token {token}")
                scores.append(float(step["logprob"]))
            return scores

        return score


def run(base: Path, out: Path, engine: str, adapters: Sequence[Path]) -> dict[str, Any]:
    """Return what became of each case, and the distances."""
    out.mkdir(parents=True, exist_ok=True)
    records = records_of(base, adapters, out)
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    ratios: dict[str, list[float]] = defaultdict(list)
    noise, spent = [], []

    def judge(case: str, record: ServedProbe, bare: Score, version: Score) -> None:
        held, dtype = BaseScores(), _dtype_of(engine)
        verdict = asyncio.run(prove(Scored(bare, version), "v", record, held=held, dtype=dtype))  # type: ignore[arg-type]
        outcomes[case][verdict.outcome] += 1
        if verdict.base is not None and verdict.adapter is not None:
            ratios[case].append(verdict.adapter / max(verdict.base, 1e-9))
            if case == "own":
                noise.append(verdict.base)
                spent.append(verdict.tokens)

    if engine.startswith("llama.cpp"):
        served: Any = LlamaCppEngine(base, out, narrow=engine.endswith("f16"))
    else:
        dtype: Any = "float32" if engine == "nf4" else engine
        served = TorchEngine(base, dtype, nf4=engine == "nf4")
    # The bare model is read before an adapter is in it.
    bare = _held(served.bare(), records.values())
    for adapter in adapters:
        with served.wearing(adapter) as version:
            for name, record in records.items():
                judge("own" if name == adapter.name else "other", record, bare, version)
        judge("without effect", records[adapter.name], bare, bare)
        if isinstance(served, TorchEngine):
            for scale in _SCALES:
                with served.wearing(adapter, scale) as version:
                    judge(f"times {scale:g}", records[adapter.name], bare, version)
        print(f"{engine}: {adapter.name[:8]}", file=sys.stderr, flush=True)
    if engine == "float32" and isinstance(served, TorchEngine):
        for share in _MERGED:
            with served.merged(adapters[0], share) as other:
                bare = _held(other.bare(), records.values())
                for adapter in adapters[1:]:
                    with other.wearing(adapter) as version:
                        judge(f"over a base with {share:g} of another", records[adapter.name], bare, version)
    return {
        "engine": engine,
        "noise": [min(noise), max(noise)],
        "tokens": Counter(spent),
        "outcomes": {case: dict(found) for case, found in outcomes.items()},
        "times the base's distance": {
            case: [round(min(some), 2), round(max(some), 2)] for case, some in ratios.items()
        },
    }


def _held(score: Score, records: Any) -> Score:
    """Score all tokens of the records now, and answer from that."""
    rows = [
        (prompt.tokens, each.tokens) for record in records for prompt in record.prompts for each in prompt.continuations
    ]
    held: dict[tuple[tuple[int, ...], tuple[int, ...]], list[float]] = {}
    for prompt, continuation in rows:
        key = (tuple(prompt), tuple(continuation))
        if key not in held:
            scores = score(prompt, continuation)
            held |= {(key[0], key[1][:count]): scores[:count] for count in range(1, len(scores) + 1)}
    return lambda prompt, continuation: held[tuple(prompt), tuple(continuation)]


def _dtype_of(engine: str) -> DtypeName | None:
    named: dict[str, DtypeName] = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
    named |= {"llama.cpp-f32": "float16", "llama.cpp-f16": "float16"}
    return named.get(engine)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    base, out, engine, *adapters = sys.argv[1:]
    print(json.dumps(run(Path(base), Path(out), engine, sorted(map(Path, adapters))), indent=1))
