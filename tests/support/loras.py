"""Adapters' weights in every precision, written by hand, and what is left of their numbers in these files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.lora.weights import compare_weights
from sdk.schemas.diff import WeightsDiff
from sdk.schemas.lora_config import LoraConfig

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}

Tensors = dict[str, np.ndarray]


def lora(**changed: Any) -> LoraConfig:
    """Return the record of an adapter of rank 3 and scale 2."""
    return LoraConfig.model_validate(
        {"rank": 3, "alpha": 6.0, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"], **changed}
    )


def encode(array: np.ndarray, dtype: str) -> bytes:
    """Return the bytes of `array` in a file of that type; bfloat16 by cutting a float32."""
    if dtype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return array.astype(TYPES[dtype]).tobytes()


def decode(array: np.ndarray, dtype: str) -> np.ndarray:
    """What is left of `array` in a file of that type, as float64."""
    if dtype == "BF16":
        return (array.astype("<f4").view("<u4") & 0xFFFF0000).view("<f4").astype(float)
    return array.astype(TYPES[dtype]).astype(float)


def packed(header: Any, data: bytes = b"", *, pad: int = 0) -> bytes:
    """A safetensors file by hand, with any header."""
    text = (header if isinstance(header, bytes) else json.dumps(header).encode()) + b" " * pad
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: Any, begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    """Return a header's entry for one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def put(folder: Path, content: bytes) -> Path:
    """Write these bytes as an adapter's file of weights; return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(content)
    return folder


def write(folder: Path, tensors: Tensors, dtype: str = "F64", *, pad: int = 0) -> Path:
    """Write an adapter's weights, all in one type, `pad` bytes further back than necessary; return the folder."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = encode(array, dtype)
        header[name] = entry(list(array.shape), len(data), len(data) + len(raw), dtype)
        data += raw
    return put(folder, packed(header, data, pad=pad))


def pair(module: str, a: np.ndarray, b: np.ndarray) -> Tensors:
    """Return A (r, in) and B (out, r) under PEFT's names."""
    return {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}


def embedding(module: str, a: np.ndarray, b: np.ndarray) -> Tensors:
    """Return A (r, entries) and B (dimension, r) under PEFT's names."""
    return {f"base_model.model.{module}.lora_embedding_A": a, f"base_model.model.{module}.lora_embedding_B": b}


def normal(seed: int, *shape: int) -> np.ndarray:
    """Return random numbers, the same for the same seed and shape."""
    return np.random.default_rng(seed).normal(size=shape)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two dense matrices."""
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def compare(one: Path, two: Path, lora_a: LoraConfig | None = None, lora_b: LoraConfig | None = None) -> WeightsDiff:
    """Compare two folders, by default as adapters of `lora()`."""
    return compare_weights(one, two, lora_a=lora_a or lora(), lora_b=lora_b or lora())
