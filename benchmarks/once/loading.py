"""Bases that are loaded in 4 bits: quantised anew, quantised and kept in the node's cache, and read from there.

    python -m benchmarks.once.loading [--rounds N] BASE [BASE …]

BASE is a base's folder, or `random` for one in the shape of a small Llama of 0.99 billion parameters. Each load is in a process of its own;
importing the libraries is not counted. Prints JSON.

Its figures in RESULTS.md are of 2026-11-27.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROUNDS = 3
HOW = ("anew", "kept", "read")

_CHILD = """
import json, sys, time
from pathlib import Path
import workers.pipelines.training.train
from bitsandbytes.functional import dequantize_4bit
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.packed import default_recipe

device, kept = choose_device(), Path(sys.argv[2]) if len(sys.argv) > 2 else None
device.forget_peak()
before = device.peak_memory_bytes()
wall, cpu = time.perf_counter(), time.process_time()
loaded = load_base(Path(sys.argv[1]), device, quantization=default_recipe(device), held="packed", kept=kept)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak_bytes": device.peak_memory_bytes() - before, "said": loaded.said}))
"""


def make_random(folder: Path) -> Path:
    """Write a random base of 18 layers in bfloat16; return its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=18,
        num_attention_heads=32,
        tie_word_embeddings=True,
    )
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def run(bases: list[Path], rounds: int = ROUNDS) -> dict[str, Any]:
    """Return medians by base and way."""
    found: dict[str, Any] = {}
    for base in bases:
        taken: dict[str, list[dict[str, Any]]] = {how: [] for how in HOW}
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(dir=base.parent) as cache:
                for how in HOW:
                    taken[how].append(_load(base, () if how == "anew" else (f"{cache}/kept",)))
                kept_bytes = sum(path.stat().st_size for path in Path(cache).rglob("*.safetensors"))
        print(base.name, json.dumps(taken), file=sys.stderr)
        found[base.name] = {
            "stored_bytes": sum(path.stat().st_size for path in base.glob("*.safetensors")),
            "kept_bytes": kept_bytes,
            **{
                how: {
                    what: statistics.median(each[what] for each in some) for what in ("wall_s", "cpu_s", "peak_bytes")
                }
                for how, some in taken.items()
            },
        }
    return found


def _load(base: Path, kept: tuple[str, ...]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(base), *kept],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Load the bases that are named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("bases", nargs="+")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bases = [make_random(Path(folder) / name) if name == "random" else Path(name) for name in asked.bases]
        print(json.dumps(run(bases, asked.rounds), indent=2))


if __name__ == "__main__":
    main()
