"""A tiny real base, made as in the example, and rows to train it on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from support.trainings import save_jsonl

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def _example() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "examples" / "tiny" / "make.py"
    spec = importlib.util.spec_from_file_location("examples_tiny_make", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_make = _example()


def save_tokenizer(folder: Path) -> int:
    """Write a byte-level tokenizer with a chat template into `folder`; return the size of its vocabulary."""
    return _make.save_tokenizer(folder, ["the cat sat on the mat", "two and two are four"] * 4, vocabulary=300)


def save_llama(folder: Path, *, seed: int = 1, tokenizer: Any = None) -> Path:
    """Write a Llama of 2 layers, hidden size 64, tied embeddings, float32, into `folder`; return it."""
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    vocabulary = save_tokenizer(folder) if tokenizer is None else len(tokenizer)
    _make.save_llama(folder, vocabulary, seed=seed, positions=256)
    return folder


def write_rows(path: Path, count: int = 12) -> Path:
    """Write {prompt, completion} rows of unequal length as JSONL; return the path."""
    rows = [
        {"prompt": f"count {' and '.join(WORDS[: n % 12 + 1])} ({n}): ", "completion": WORDS[n % 12]}
        for n in range(count)
    ]
    return save_jsonl(path, rows)
