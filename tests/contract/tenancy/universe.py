"""What both tenants may name: bases, rows and adapters whose bytes are the same in every run, and the names that they
are given.

It is small, so that two tenants often mean the same thing, and everybody knows every digest in it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from support.adapters import BASE_TENSORS, save_adapter
from support.trainings import save_jsonl

from sdk.pulling.cache import Cache
from sdk.pulling.transfer import hash_file
from sdk.pushing.base_folder import ScannedBase, scan_base

#: Names of the same things in each tenant's namespace.
ADAPTERS = ("a", "b")
ALIASES = ("live", "next")
BASE_IDS = ("llama", "mistral", "house")
DATA_NAMES = ("rows.jsonl", "held-out.jsonl")
WORKERS = ("gpu-1", "gpu-2")
KEYS = ("nightly", "weekly")
TOKEN_NAMES = ("ci", "deploy")
#: How many there are of what has bytes.
BASES, DATASETS, PAYLOADS = 3, 4, 4
#: The base whose weights lie in shards, named by an index.
SHARDED = 2

_INDEX = "model.safetensors.index.json"
_SHARD = "model-00001-of-00001.safetensors"


class Universe:
    """The files behind the names, made once for all runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Where bases lie that workers and clients both see.
        self.shared = folder / "shared"
        self.shared.mkdir(parents=True)
        self.laptop = folder / "laptop"
        self._cache = Cache(folder / "scans")
        self.data = [self._make_rows(number) for number in range(DATASETS)]
        self.data_digests = [hash_file(path)[0] for path in self.data]
        self.payloads = [
            save_adapter(folder / f"payload-{number}", 100 + number, revision=f"{number:040x}")
            for number in range(PAYLOADS)
        ]
        self.bases = [self._make_base(number) for number in range(BASES)]
        #: The same hashed files as those bases, and beside them others that a loader would take.
        self.twins = [self._make_twin(number) for number in range(BASES)]

    @cached_property
    def scans(self) -> list[ScannedBase]:
        """What a client finds out about each base."""
        return [self.scan(folder) for folder in self.bases]

    def scan(self, folder: Path) -> ScannedBase:
        """Describe a folder as a base."""
        return scan_base(folder, cache=self._cache)

    @cached_property
    def digests(self) -> frozenset[str]:
        """The SHA-256 of all that has the same bytes in every run, whole."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and self._cache.root not in path.parents]
        fingerprints = {scan.registration.fingerprint for scan in self.scans}
        return frozenset({hash_file(path)[0] for path in files} | fingerprints)

    @contextmanager
    def on_a_laptop(self, base: int) -> Iterator[Path]:
        """A base's folder where clients have it and no worker does, for as long as it is sent from there."""
        folder = self.laptop / f"base-{base}"
        shutil.copytree(self.bases[base], folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def _make_rows(self, number: int) -> Path:
        path = self.folder / f"data-{number}.jsonl"
        rows = [{"prompt": f"rows {number}, {row}", "completion": str(row)} for row in range(3)]
        return save_jsonl(path, rows)

    def _make_base(self, number: int) -> Path:
        folder = self.shared / f"base-{number}"
        folder.mkdir()
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 6,
            "intermediate_size": 8,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "num_hidden_layers": 1,
            "vocab_size": 32,
            "rope_theta": 10_000.0 + number,
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}}}))
        if number == SHARDED:
            save_weights(folder / _SHARD, number)
            index = {"metadata": {}, "weight_map": dict.fromkeys(BASE_TENSORS, _SHARD)}
            (folder / _INDEX).write_text(json.dumps(index))
        else:
            save_weights(folder / "model.safetensors", number)
        return folder

    def _make_twin(self, number: int) -> Path:
        twin = self.shared / f"twin-{number}"
        shutil.copytree(self.bases[number], twin)
        if number == SHARDED:
            # Loaders look for the single file first, and the index names another one.
            save_weights(twin / "model.safetensors", 50 + number)
        else:
            # A base beside which an adapter lies is loaded with that adapter on it.
            save_adapter(twin, 50 + number)
        return twin


def save_weights(path: Path, seed: int) -> None:
    """Write weights of the base's shapes; each seed has other numbers."""
    numbers = np.random.default_rng(seed)
    save_file({name: numbers.random(shape, dtype=np.float32) for name, shape in BASE_TENSORS.items()}, path)
