"""Merging beside PEFT's load, merge and save, and beside `cp -r` of the base: the time until all is on the disk, and memory.

    [AXOLOTL_PYTHON=VENV/bin/python] python benchmarks/merging.py [CACHE [PLOT.svg]]

Where `AXOLOTL_PYTHON` is the interpreter of an environment that has Axolotl, its merge shard by shard is measured, too.

Bases of random bfloat16 numbers in the shapes of Llama; an adapter of rank 16 on all linear layers. Each run is a process of
its own, in turn; all end with `sync`. Anonymous memory is what the process has above its own imports, every 20 ms.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RANK = 16
ROUNDS = 3
SHARDS = 4
#: One row of a results table: what was measured, our figure, the peer's, how many times better ours is, conditions.
Row = dict[str, Any]


@dataclass(frozen=True)
class Llama:
    """The shape of a Llama whose head is not tied."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int = 32_000

    def linears(self) -> Iterator[tuple[str, int, int]]:
        """Name, rows and columns of each linear layer's weight."""
        narrow = self.hidden // self.heads * self.key_value_heads
        for layer in range(self.layers):
            for name, rows, columns in (
                ("self_attn.q_proj", self.hidden, self.hidden),
                ("self_attn.k_proj", narrow, self.hidden),
                ("self_attn.v_proj", narrow, self.hidden),
                ("self_attn.o_proj", self.hidden, self.hidden),
                ("mlp.gate_proj", self.intermediate, self.hidden),
                ("mlp.up_proj", self.intermediate, self.hidden),
                ("mlp.down_proj", self.hidden, self.intermediate),
            ):
                yield f"model.layers.{layer}.{name}", rows, columns

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """All tensors by name, with their shapes."""
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for name, rows, columns in self.linears():
            found[f"{name}.weight"] = (rows, columns)
        for layer in range(self.layers):
            found[f"model.layers.{layer}.input_layernorm.weight"] = (self.hidden,)
            found[f"model.layers.{layer}.post_attention_layernorm.weight"] = (self.hidden,)
        return found | {"model.norm.weight": (self.hidden,), "lm_head.weight": (self.vocabulary, self.hidden)}

    def config(self) -> dict[str, Any]:
        """What its `config.json` says."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
        }


SMALL = Llama("0.3 B", 1024, 2816, 20, 16, 4)
ONE = Llama("1.1 B", 2048, 5632, 22, 32, 4)
THREE = Llama("3.4 B", 3200, 8640, 26, 32, 32)
_SHAPES = (SMALL, ONE, THREE)


def make_base(folder: Path, shape: Llama) -> Path:
    """Write a base of random numbers in `SHARDS` files, unless it is there."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tensors = shape.tensors()
    sizes = {name: 2 * int(np.prod(dimensions)) for name, dimensions in tensors.items()}
    limit = sum(sizes.values()) / SHARDS
    shards: list[list[str]] = [[]]
    for name in tensors:
        if sum(sizes[each] for each in shards[-1]) >= limit and len(shards) < SHARDS:
            shards.append([])
        shards[-1].append(name)
    random = np.random.default_rng(0)
    # The upper half of a float32's bits is a bfloat16.
    noise = (random.standard_normal(1 << 24, dtype=np.float32) * 0.02).view(np.uint32) >> 16
    block = noise.astype(np.uint16).tobytes()
    files = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        files |= dict.fromkeys(names, file)
        _write(folder / file, {name: ("BF16", tensors[name], sizes[name]) for name in names}, block)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(shape.config()))
    return folder


def make_adapter(folder: Path, shape: Llama) -> Path:
    """Write an adapter of rank `RANK` on all linear layers, in float32 as PEFT does."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": shape.name,
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    shapes = {}
    for name, rows, columns in shape.linears():
        for half, dimensions in (("A", (RANK, columns)), ("B", (rows, RANK))):
            key = f"base_model.model.{name}.lora_{half}.weight"
            shapes[key] = ("F32", dimensions, 4 * int(np.prod(dimensions)))
    block = (np.random.default_rng(1).standard_normal(1 << 22, dtype=np.float32) * 0.02).tobytes()
    _write(folder / "adapter_model.safetensors", shapes, block)
    return folder


def _write(file: Path, tensors: dict[str, tuple[str, tuple[int, ...], int]], block: bytes) -> None:
    """Write a safetensors file of tensors, (dtype, shape, bytes) by name, whose numbers are those of a block again and again."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        left = end
        while left:
            left -= out.write(block[: min(left, len(block))])


_CHILD = """
import json, os, sys, threading, time
from pathlib import Path
base, adapter, out = map(Path, sys.argv[1:])
{imports}

def anonymous_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])

def watch():
    while not ended.wait(0.02):
        seen.append(anonymous_kb())

before, seen, ended = anonymous_kb(), [0], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
started = time.perf_counter()
{work}
os.sync()
took_s = time.perf_counter() - started
ended.set()
thread.join()
print(json.dumps({{"s": took_s, "anonymous_bytes": 1024 * max(0, max(seen) - before)}}))
"""
_OURS_IMPORTS = """
from workers.pipelines.imports import import_libraries
import_libraries()
import workers.pipelines.merging.merge
from workers.pipelines.merging.prepare import prepare
from workers.pipelines.merging.read_back import read_back
from workers.pipelines.merging.writing import beside, write_shards
"""
_WRITING = """
def nothing(_written):
    pass

plan = prepare(base, adapter, classes=None, onto="original", dtype=None, recipe=None)
with beside(out, plan.digest) as folder:
    shards = write_shards(plan.base, plan.written, plan.blocks, folder, nothing)
"""
_CHECKED = _WRITING + "    read_back(plan, shards.folder, shards.digests, nothing)\n"
_PEFT_IMPORTS = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
"""
_PEFT = """
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
merged.save_pretrained(out, max_shard_size="600MB")
"""
_AXOLOTL_IMPORTS = """
from axolotl.cli.utils.lora_merge import merge_lora_sharded_efficient
"""
_AXOLOTL = """
merge_lora_sharded_efficient(
    base_model_path=base, lora_adapter_path=adapter, output_path=out, safe_tensors=True, device="cpu", simulate_nf4=False
)
"""
_WAYS = {
    "writing": (_OURS_IMPORTS, _WRITING),
    "checked": (_OURS_IMPORTS, _CHECKED),
    "peft": (_PEFT_IMPORTS, _PEFT),
}
if "AXOLOTL_PYTHON" in os.environ:
    _WAYS["axolotl"] = (_AXOLOTL_IMPORTS, _AXOLOTL)


def run(cache: Path | None = None, *, rounds: int = ROUNDS) -> list[Row]:
    """Merge into both bases `rounds` times in turn, alone and beside one and two busy cores; the median counts."""
    cache = cache or Path(tempfile.gettempdir()) / "adapterctl-benchmarks"
    rows: list[Row] = []
    for shape, loads in ((SMALL, (0,)), (ONE, (0, 1, 2)), (THREE, (0,))):
        base = make_base(cache / f"llama-{shape.hidden}", shape)
        adapter = make_adapter(cache / f"llama-{shape.hidden}-lora", shape)
        for load in loads:
            with _busy(load):
                rows += _rows(shape, load, rounds, _measured(base, adapter, cache / "merged", rounds))
        shutil.rmtree(base)
    return rows


def _measured(base: Path, adapter: Path, out: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds and peak memory of each way, by its name, and of `cp -r`."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (*_WAYS, "cp")}
    for _ in range(rounds):
        for name in found:
            _clear(out)
            subprocess.run(["sync"], check=True)
            found[name].append(_copied(base, out) if name == "cp" else _merged(name, base, adapter, out))
    _clear(out)
    return found


def _copied(base: Path, out: Path) -> dict[str, float]:
    started = time.perf_counter()
    subprocess.run(["cp", "-r", str(base), str(out)], check=True)
    subprocess.run(["sync"], check=True)
    return {"s": time.perf_counter() - started, "anonymous_bytes": 0}


def _merged(way: str, base: Path, adapter: Path, out: Path) -> dict[str, float]:
    imports, work = _WAYS[way]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    program = _CHILD.format(imports=imports, work=work)
    python = os.environ["AXOLOTL_PYTHON"] if way == "axolotl" else sys.executable
    done = subprocess.run(
        [python, "-c", program, str(base), str(adapter), str(out)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _clear(out: Path) -> None:
    for left in (out, *out.parent.glob(f".{out.name}.partial-*")):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _busy(cores: int) -> Iterator[None]:
    """Keep cores busy with other work."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _rows(shape: Llama, load: int, rounds: int, found: dict[str, list[dict[str, float]]]) -> list[Row]:
    seconds = {name: statistics.median(run["s"] for run in runs) for name, runs in found.items()}
    peak = {name: max(run["anonymous_bytes"] for run in runs) for name, runs in found.items()}
    beside = f", {load} of {os.cpu_count()} cores busy elsewhere" if load else ""
    note = f"Llama of {shape.name} in bfloat16, {SHARDS} shards, r={RANK} on all linears, all with `sync`{beside}; median of {rounds} interleaved"

    def row(what: str, ours: str, peer: str, note: str) -> Row:
        ratio = seconds[peer] / seconds[ours]
        return {
            "what": f"{what}, {shape.name}{beside}",
            "ours": round(seconds[ours], 2),
            "peer": round(seconds[peer], 2),
            "ratio": round(ratio, 2),
            "note": note,
        }

    axolotl = [
        row(
            f"merge {what}, s",
            ours,
            "axolotl",
            f"peer: Axolotl's merge shard by shard, which reads nothing back; {note}",
        )
        for what, ours in (("written", "writing"), ("written and read back", "checked"))
        if "axolotl" in seconds
    ]
    return [
        *axolotl,
        row("merge written, s (target 8 ×)", "writing", "peft", f"peer: PEFT's load, merge and save; {note}"),
        row(
            "merge written and read back, s (target 5 ×)",
            "checked",
            "peft",
            f"peer: PEFT's load, merge and save; {note}",
        ),
        row("merge written, s (target 0.4 ×)", "writing", "cp", f"peer: `cp -r` of the base; {note}"),
        row("merge written and read back, s (target 0.25 ×)", "checked", "cp", f"peer: `cp -r` of the base; {note}"),
        {
            "what": f"merge written and read back, MB (target 300), {shape.name}{beside}",
            "ours": round(peak["checked"] / 1e6),
            "peer": round(peak["peft"] / 1e6),
            "ratio": round(peak["peft"] / max(1.0, peak["checked"]), 2),
            "note": f"anonymous memory above that after the imports, the most of {rounds} runs; writing alone {peak['writing'] / 1e6:.0f}; "
            f"peer: PEFT's load, merge and save; {note}",
        },
    ]


def plot(rows: list[Row], to: Path) -> None:
    """Draw peak memory against the size of the base, both in GB, of what was measured on an idle machine."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    sizes = {shape.name: sum(2 * int(np.prod(each)) for each in shape.tensors().values()) for shape in _SHAPES}
    found = [
        (sizes[name], row) for row in rows if (name := row["what"].rpartition(", ")[2]) in sizes and "MB" in row["what"]
    ]
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for who, label in (("peer", "PEFT: load, merge, save"), ("ours", "adapterctl: merge and read back")):
        axes.plot([size / 1e9 for size, _ in found], [row[who] / 1e3 for _, row in found], marker="o", label=label)
    axes.set(xlabel="base in bfloat16, GB", ylabel="peak anonymous memory, GB", ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(to, metadata={"Date": None})


if __name__ == "__main__":
    measured = run(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    for each in measured:
        print(each)
    if len(sys.argv) > 2:
        plot(measured, Path(sys.argv[2]))
