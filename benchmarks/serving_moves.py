"""How long a move takes, and whether streams stay whole meanwhile: SmolLM2 with adapters of about 50 MB, in front of each engine.

    python -m benchmarks.serving_moves OUT [--trained BASE ADAPTERS] [local] [llama.cpp] [vllm]

A move is from the table that says it to the first token of the new version, while four streams run; the version is in the cache, and
not in the engine. Prompts are those at which base and versions differ by 0.05 between the two greatest logits at each of 24 tokens.
`--trained`: another base, and a folder with adapters over it, v1 to v5 or more, as `adapterctl pull` writes them. vLLM runs in build/vllm, which `make serve-peers` makes. Prints a JSON line for each engine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.engines import VLLM, VllmServer, decoder, engine_of, llama_cpp
from support.moving import MovingWorld
from support.served import save_adapter
from support.served_models import ServedModels, choose

from benchmarks.training import example
from sdk.gateway.engines.engine import InferenceEngine
from sdk.gateway.moves import Bounds

#: Moves between versions that are loaded; streams; versions, of which those from the third on are loaded by their move.
MOVES, STREAMS, VERSIONS = 20, 16, 8
_RANK = 42  # 7 modules in 30 layers: 50 MB in float32


def models_of(folder: Path) -> ServedModels:
    """Return SmolLM2 with random adapters."""
    base = example("base").make_base(folder)
    tokenizer = _tokenizer(base)
    words = ["sea", "wind", "tree", "moon", "road", "door", "fish", "hand", "king", "song", "gold", "snow"]
    texts = [f"The {one} and the {two} went to the {three}" for one, two, three in itertools.permutations(words, 3)]
    rows = [row for row in (tokenizer(text)["input_ids"] for text in texts) if len(row) == 9][:160]
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapters = {}
    for number in range(1, VERSIONS + 1):
        made = folder / f"random-v{number}"
        if not (made / "adapter_config.json").is_file():
            save_adapter(base, made, seed=number, scale=0.004, r=_RANK, lora_alpha=_RANK, target_modules=targets)
        adapters[f"sql@v{number}"] = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return choose(base, adapters, rows, 4)


def trained(base: Path, adapters: Path) -> ServedModels:
    """Return a base with adapters that were trained, and prompts that tell all of them apart."""
    tokenizer = _tokenizer(base)
    names = [
        "parse", "read", "load", "save", "sort", "count", "merge", "split", "find", "check", "open", "send", "join", "copy",
        "build", "update", "remove", "print", "fetch", "clean", "write", "start", "stop", "move",
    ]  # fmt: skip
    texts = [f'def {name}_{what}(path):\n    """' for name in names for what in ("file", "list")]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    length = max(map(len, rows), key=[len(row) for row in rows].count)
    folders = {f"sql@v{n}": adapters / f"v{n}" for n in range(1, VERSIONS + 1) if (adapters / f"v{n}").is_dir()}
    return choose(base, folders, [row for row in rows if len(row) == length], 2)


def _tokenizer(base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


async def measure(engine: InferenceEngine, models: ServedModels) -> dict[str, Any]:
    """Return what happened."""
    world = MovingWorld(engine, models, decode=decoder(models.base), bounds=Bounds(wait_s=300, watch_s=0.5, spares=8))
    facts = await world.moves.start()
    try:
        await world.moved(1)
        await world.moved(2)
        done = asyncio.Event()
        streams = [asyncio.create_task(world.stream(at, done)) for at in range(STREAMS)]
        pointed_s = []
        for move in range(MOVES):
            pointed_s.append(await world.moved(1 + move % 2))
            before = world.answers.pure.total()
            while world.answers.pure.total() < before + STREAMS // 2 and not world.answers.errors:
                await asyncio.sleep(0.02)
        many = str(world.answers)
        done.set()
        await asyncio.gather(*streams)
        done.clear()
        streams = [asyncio.create_task(world.stream(at, done)) for at in range(4)]
        first_s, moved_s = [], []
        for number in range(3, len(models.adapters) + 1):
            began_s = time.monotonic()
            moved_s.append(await world.moved(number))
            async with world.moves.hold("sql@production") as held:
                assert held.version == f"sql@v{number}"
                body = {
                    "model": "-",
                    "prompt": models.prompts[0],
                    "max_tokens": 1,
                    "temperature": 0,
                    **held.upstream.fields,
                }
                answer = await held.upstream.client.post("/v1/completions", json=body)
                assert answer.status_code == 200, answer.text
            first_s.append(time.monotonic() - began_s)
        done.set()
        await asyncio.gather(*streams)
        return {
            "engine": facts.engine,
            "version": facts.version,
            "sixteen_streams": many,
            "moves_s": [round(each, 4) for each in pointed_s],
            "all": str(world.answers),
            "errors": world.answers.errors[:3],
            "moved_s": median(moved_s),
            "first_token_s": median(first_s),
            "first_token_all_s": [round(each, 2) for each in first_s],
            "load": os.getloadavg(),
        }
    finally:
        await world.moves.close()


def main() -> None:
    """Measure the engines that are named, or all."""
    out, given = Path(sys.argv[1]), sys.argv[2:]
    if given[:1] == ["--trained"]:
        models, given = trained(Path(given[1]), Path(given[2])), given[3:]
    else:
        models = models_of(out)
    print(json.dumps({"versions": list(models.adapters), "prompts": len(models.prompts)}), flush=True)
    kinds = given or ["local", "llama.cpp", VLLM]
    for kind in kinds:
        if kind == VLLM:
            server = VllmServer(models.base, out, options=("--max-lora-rank", "64"))
            server.start()
            try:
                print(json.dumps(asyncio.run(measure(server.engine(out / "shared"), models))), flush=True)
            finally:
                server.kill()
        elif kind == "llama.cpp":
            print(json.dumps(asyncio.run(measure(llama_cpp(models.base, out / "store"), models))), flush=True)
        else:
            with engine_of(kind, models, out) as make:
                print(json.dumps(asyncio.run(measure(make(), models))), flush=True)


if __name__ == "__main__":
    main()
