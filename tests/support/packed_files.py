"""A base that is stored in 4 bits, written byte by byte without torch: what a registry reads from one."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from support.small import CONFIG, TENSORS

QUANTIZATION = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
}
#: A weight that is not square, so that its shape can't be guessed from its bytes.
LONG = "model.layers.0.mlp.up_proj.weight"
PACKED = {name: shape for name, shape in TENSORS.items() if "_proj" in name} | {LONG: [24, 8]}


#: dtype, shape and bytes.
Tensor = tuple[str, list[int], bytes]


def _packed(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_packed_base(
    folder: Path,
    *,
    kind: str = "nf4",
    nested: bool = True,
    config: Any = QUANTIZATION,
    state: dict[str, Any] | bytes | None = None,
    value: int = 1,
    experts: bool = False,
    split: bool = False,
) -> Path:
    """Write the base of `support.small` with its projections packed; `state` changes what the longest says about
    itself.

    With `experts`, the longest belongs to a single expert.
    """
    tensors: dict[str, Tensor] = {}
    for name, shape in TENSORS.items():
        if name not in PACKED:
            tensors[name] = ("BF16", shape, bytes([value, 0]) * math.prod(shape))
    for called, shape in PACKED.items():
        name = called.replace(".mlp.", ".mlp.experts.0.") if experts else called
        numbers = math.prod(shape)
        said: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": shape}
        raw = json.dumps({**said, **(state if called == LONG and isinstance(state, dict) else {})}).encode()
        raw = state if called == LONG and isinstance(state, bytes) else raw
        scales = -(-numbers // 64)
        tensors[name] = ("U8", [numbers // 2, 1], bytes([value]) * (numbers // 2))
        tensors[f"{name}.absmax"] = ("U8", [scales], bytes(scales)) if nested else ("F32", [scales], bytes(4 * scales))
        tensors[f"{name}.quant_map"] = ("F32", [16], bytes(64))
        tensors[f"{name}.quant_state.bitsandbytes__{kind}"] = ("U8", [len(raw)], raw)
        if nested:
            tensors[f"{name}.nested_absmax"] = ("F32", [1], bytes(4))
            tensors[f"{name}.nested_quant_map"] = ("F32", [256], bytes(1024))
    folder.mkdir(parents=True, exist_ok=True)
    if split:
        # The states in another file than the weights, as shards of some sizes may have them.
        parts: dict[str, dict[str, Tensor]] = {f"model-0000{n}-of-00002.safetensors": {} for n in (1, 2)}
        for name, tensor in tensors.items():
            parts[sorted(parts)[".quant_state." in name]][name] = tensor
        where = {name: file for file, part in parts.items() for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    else:
        parts = {"model.safetensors": tensors}
    for file, part in parts.items():
        (folder / file).write_bytes(_packed(part))
    said = {} if config is None else {"quantization_config": config}
    (folder / "config.json").write_text(json.dumps({**CONFIG, **said}))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    return folder
