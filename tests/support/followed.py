"""A place in which the pages of the documentation are followed: a home with a registry, an example's folder, and what the pages
speak of beside that: further versions, bases and rows.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sdk.client import Client
from sdk.examples.base import NAME as BASE
from sdk.pulling import leases
from sdk.pulling.cache import Cache
from support import encoders, templates, tiny
from support.trainings import save_jsonl

ROOT = Path(__file__).resolve().parents[2]
#: The versions of which pages speak, by name: how many there are.
VERSIONS = {"code-review": 3, "sql": 2, "chat": 1, "team/sql": 2, "team/chat": 1}
#: What pages write for a job or a sweep, for the digest of code-review@v3, and for the owner of a lease on its files.
JOB, DIGEST, OWNER = "3f1c2a9b7d20", "3f1c9a7e5b20", "serve-8011"
#: The module that versions here adapt: it is square in the tiny base.
_MODULE, _HIDDEN, _LAYERS = "o_proj", 64, 2


def save_base(folder: Path) -> Path:
    """Write a tiny base that stands for the examples', with room for their rows; return its folder."""
    rows = (ROOT / "sdk" / "examples" / "docstrings" / "train.jsonl").read_text().splitlines()
    tiny._make.save_llama(folder, tiny._make.save_tokenizer(folder, rows), positions=1024)
    return folder


@dataclass
class Desk:
    """A home, and the folder of an example in it."""

    home: Path
    folder: Path

    def client(self) -> Client:
        """A client of the registry in the home."""
        return Client(f"local:{self.home / '.adapterctl'}", cache=self._cache)

    @property
    def _cache(self) -> Path:
        return self.home / ".cache" / "adapterctl"

    def furnish(self) -> None:
        """Make what pages speak of: versions, an adapter with patterns, an encoder, a base that thinks, and their rows."""
        base, made, seed = self.folder / BASE, self.folder / "made", 0
        with closing(self.client()) as client:
            for name, count in VERSIONS.items():
                for _ in range(count):
                    seed += 1
                    client.push(_save_adapter(made / str(seed), base, seed=seed), name, base=base)
            client.push(_save_adapter(made / "dora", base, seed=0, use_dora=True), "dora", base=base)
            thinks = self._thinking_base()
            for seed in range(3):
                client.push(_save_adapter(made / f"maths-{seed}", thinks, seed=seed), "maths", base=thinks)
            third = client.get("code-review@v3")
            third.pull()
            leases.lease(Cache(self._cache), third.digest, OWNER)
        _save_adapter(self.folder / "my-adapter", base, seed=77, target_modules=rf".*\.{_MODULE}")
        encoders.save_bert(self.folder / "bert-base-uncased")
        encoders.write_topics(self.folder / "mood.jsonl", count=36)
        encoders.write_topics(self.folder / "held-mood.jsonl", seed=36, count=18)

    def named(self, text: str) -> str:
        """Return a command, or a program, with what is there in place of the ids that pages write."""
        if JOB not in text and DIGEST not in text:
            return text
        with closing(self.client()) as client:
            text = text.replace(DIGEST, client.get("code-review@v3").digest)
            if f"sweep:{JOB}" in text:
                text = text.replace(f"sweep:{JOB}", f"sweep:{client.sweeps.list()[0].id}")
            if JOB in text:
                kind = "evaluation" if "evaluations" in text else None
                text = text.replace(JOB, next(job.id for job in client.jobs() if kind in (None, job.view.kind)))
        return text

    def _thinking_base(self) -> Path:
        folder, tokenizer = self.folder / "thinks", templates.new_tokenizer_of("qwen3")
        tokenizer.save_pretrained(folder)
        tiny._make.save_llama(folder, len(tokenizer), positions=1024)
        asked = [{"role": "user", "content": "one and one?"}, {"role": "assistant", "content": "two"}]
        save_jsonl(self.folder / "questions.jsonl", [{"messages": asked}])
        return folder


def _save_adapter(folder: Path, base: Path, *, seed: int, **changed: Any) -> Path:
    random, rank = np.random.default_rng(seed), 8
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [_MODULE],
        "base_model_name_or_path": str(base),
        "peft_version": "0.21.0",
        **changed,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = {}
    for layer in range(_LAYERS):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.{_MODULE}"
        for part, shape in (("A", (rank, _HIDDEN)), ("B", (_HIDDEN, rank))):
            weights[f"{prefix}.lora_{part}.weight"] = random.normal(0, 0.1, shape).astype(np.float32)
        if changed.get("use_dora"):
            weights[f"{prefix}.lora_magnitude_vector"] = np.ones(_HIDDEN, np.float32)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder
