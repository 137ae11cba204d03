"""The gate: what an adapter's two files must be, read without torch before a version becomes ready.

The safetensors header is read here and not by the library, which accepts duplicate names, extra fields and NaN.
Format: 8 bytes little-endian length N, N bytes of JSON `{name: {dtype, shape, data_offsets}}`, then the data.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from registry.errors import Verification
from sdk.schemas.training import LoraConfig

_MAX_HEADER_BYTES = 32 * 1024 * 1024
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,499}")
_LORA_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>A|B)\.weight")
_EXTRA_KEY = re.compile(
    r"base_model\.model\..+\.(lora_magnitude_vector(\.weight)?|lora_embedding_(A|B)|lora_(A|B)\.bias)"
)

#: Keys of adapter_config.json that import, fetch or run something when a library reads them.
_DANGEROUS_KEYS = ("auto_mapping", "auto_map", "megatron_config", "megatron_core", "custom_code", "trust_remote_code")
_CHUNK_BYTES = 8 * 1024 * 1024
_MAX_CONFIG_BYTES = 1024 * 1024


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as the header describes it; offsets count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Verification("a JSON object of the adapter has a key twice; save the adapter again with PEFT")
    return found


def _no_constant(word: str) -> Any:
    raise Verification(f"the adapter's JSON holds {word}, which is no number; save the adapter again with PEFT")


def _parse(raw: bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError, RecursionError, or Verification for what is ambiguous."""
    # Decoded here: the json library would guess UTF-16 and UTF-32, which no other reader does.
    return json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def read_header(file: IO[bytes], size_bytes: int) -> tuple[list[TensorEntry], int]:
    """Return the tensors of a safetensors file and the offset at which the data begins.

    Raises Verification where the file is not one contiguous, fully described block of floating-point tensors.
    """
    prefix = file.read(8)
    if len(prefix) < 8:
        raise Verification("adapter_model.safetensors is empty or cut; save the adapter again")
    (length,) = struct.unpack("<Q", prefix)
    if length > min(_MAX_HEADER_BYTES, size_bytes - 8):
        raise Verification("adapter_model.safetensors has a header longer than the file; it is no safetensors file")
    try:
        header = _parse(file.read(length))
    except (ValueError, RecursionError) as error:
        raise Verification(
            "adapter_model.safetensors has a header that is no JSON; it is no safetensors file"
        ) from error
    if not isinstance(header, dict):
        raise Verification("adapter_model.safetensors has a header that is no object; it is no safetensors file")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Verification("adapter_model.safetensors has metadata that are no texts; save the adapter again with PEFT")
    entries = sorted(
        (_entry(name, value) for name, value in header.items()), key=lambda entry: (entry.begin, entry.end)
    )
    data_begin = 8 + length
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise Verification(
                f"tensor {entry.name!r} overlaps another or leaves a gap; save the adapter again with PEFT"
            )
        position = entry.end
    if data_begin + position != size_bytes:
        raise Verification(
            "adapter_model.safetensors is cut, or has bytes after its last tensor; save the adapter again"
        )
    return entries, data_begin


def _entry(name: str, value: Any) -> TensorEntry:
    if not _NAME.fullmatch(name) or ".." in name:
        raise Verification(f"tensor name {name[:80]!a} is none that PEFT writes; save the adapter again with PEFT")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise Verification(f"tensor {name!r} is described wrongly in the safetensors header")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise Verification(
            f"tensor {name!r} has the type {str(dtype)[:20]!a}; an adapter has floating-point tensors only"
        )
    whole = (
        isinstance(shape, list)
        and isinstance(offsets, list)
        and all(type(n) is int and n >= 0 for n in [*shape, *offsets])
    )
    if not whole or len(offsets) != 2 or not 1 <= len(shape) <= 4:
        raise Verification(f"tensor {name!r} has an impossible shape or offset")
    count = 1
    for n in shape:
        count *= n
    if count == 0 or offsets[1] - offsets[0] != count * _ITEM_BYTES[dtype]:
        raise Verification(f"tensor {name!r} is empty, or its shape does not fit its bytes")
    return TensorEntry(name, dtype, tuple(shape), offsets[0], offsets[1])


def check_weights(file: IO[bytes], *, size_bytes: int, lora: LoraConfig, base_tensors: dict[str, list[int]]) -> None:
    """Check `adapter_model.safetensors` against the LoRA configuration and the base's shapes.

    A is (r, in), B is (out, r) for a base weight of (out, in), or (in, out) where the base keeps it transposed.
    Raises Verification for a foreign key, a missing half, a wrong shape, NaN or Inf, or B zero throughout.
    """
    entries, data_begin = read_header(file, size_bytes)
    pairs: dict[str, dict[str, TensorEntry]] = {}
    for entry in entries:
        if match := _LORA_KEY.fullmatch(entry.name):
            pairs.setdefault(match["module"], {})[match["side"]] = entry
        elif not _EXTRA_KEY.fullmatch(entry.name) and not _is_saved_module(entry.name, lora):
            raise Verification(
                f"tensor {entry.name!r} is no LoRA weight; an adapter that loads without effect often has such names. "
                "Save it again with PEFT's save_pretrained"
            )
    if not pairs:
        raise Verification("the adapter has no LoRA weights at all; save it again from the trained model")
    for module, sides in sorted(pairs.items()):
        _check_pair(module, sides, lora, base_tensors)
    changed = False
    for entry in entries:
        nonzero = _scan(file, data_begin, entry)
        if nonzero and not _starts_nonzero(entry.name):
            changed = True
    if not changed:
        raise Verification("every lora_B is zero: this adapter changes nothing. Train it, or push the trained one")


def _starts_nonzero(name: str) -> bool:
    """Whether an untrained adapter has values there too: A is random, DoRA's magnitudes are the base's norms."""
    match = _LORA_KEY.fullmatch(name)
    return match["side"] == "A" if match else ".lora_magnitude_vector" in name or name.endswith(".lora_embedding_B")


def _is_saved_module(name: str, lora: LoraConfig) -> bool:
    return any(f".{module}." in name for module in lora.modules_to_save)


def _check_pair(
    module: str, sides: dict[str, TensorEntry], lora: LoraConfig, base_tensors: dict[str, list[int]]
) -> None:
    if set(sides) != {"A", "B"}:
        raise Verification(f"{module} has only one of lora_A and lora_B; save the adapter again")
    if not any(module == target or module.endswith("." + target) for target in lora.target_modules):
        raise Verification(f"{module} is not among the target modules {', '.join(lora.target_modules)}")
    a, b = sides["A"].shape, sides["B"].shape
    rank = next(
        (r for pattern, r in lora.rank_pattern.items() if re.fullmatch(rf"(.*\.)?({re.escape(pattern)})", module)),
        lora.rank,
    )
    if len(a) < 2 or len(b) < 2 or a[0] != rank or b[1] != rank:
        raise Verification(
            f"{module}: A is {list(a)} and B is {list(b)}, which is not of rank {rank} as the configuration says"
        )
    weight = _base_weight(module, base_tensors)
    if weight is None:
        if base_tensors:
            raise Verification(f"the base has no module {module}; the adapter belongs to another base")
        return
    if sorted(weight[:2]) != sorted((b[0], a[1])):
        raise Verification(
            f"{module}: B·A is {b[0]}×{a[1]}, the base's weight is {'×'.join(map(str, weight))}; the adapter belongs to another base"
        )


def _base_weight(module: str, base_tensors: dict[str, list[int]]) -> list[int] | None:
    exact = base_tensors.get(module + ".weight")
    if exact is not None:
        return exact
    # Some weight files leave out the model's own prefix ("transformer."), or carry one more ("model.").
    wanted = module + ".weight"
    return next(
        (shape for name, shape in base_tensors.items() if wanted.endswith("." + name) or name.endswith("." + wanted)),
        None,
    )


def _scan(file: IO[bytes], data_begin: int, entry: TensorEntry) -> bool:
    """Return whether a tensor has a value other than zero; raises Verification for NaN or Inf. Memory is bounded."""
    nonzero = False
    file.seek(data_begin + entry.begin)
    left = entry.end - entry.begin
    while left:
        raw = file.read(min(left, _CHUNK_BYTES))
        left -= len(raw)
        if not raw:
            raise Verification("adapter_model.safetensors is cut; save the adapter again")
        if entry.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            values = (np.frombuffer(raw, dtype="<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(raw, dtype={"F64": "<f8", "F32": "<f4", "F16": "<f2"}[entry.dtype])
        if not np.isfinite(values).all():
            raise Verification(
                f"tensor {entry.name!r} holds NaN or infinity; the training diverged. Lower the learning rate and train again"
            )
        nonzero = nonzero or bool(values.any())
    return nonzero


def check_config(file: IO[bytes], *, lora: LoraConfig) -> None:
    """Check `adapter_config.json`: a LoRA that says what the version says, with nothing in it that runs or fetches."""
    try:
        config = _parse(file.read(_MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        raise Verification("adapter_config.json is no JSON; save the adapter again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise Verification("adapter_config.json describes no LoRA; only LoRA adapters are kept here")
    _refuse_code(config)
    _refuse_place(config.get("base_model_name_or_path"))
    if said := _disagreement(config, lora):
        raise Verification(f"adapter_config.json and the version's record disagree on {said}; push again")


def _refuse_code(config: dict[str, Any]) -> None:
    """Raise Verification for a key that can run code, at whichever depth: keyword arguments are passed on."""
    waiting: list[Any] = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            for key in _DANGEROUS_KEYS:
                if item.get(key):
                    raise Verification(
                        f"adapter_config.json has {key!r}, which can run code when it is loaded; remove it and push again"
                    )
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _refuse_place(base: Any) -> None:
    """Raise Verification for a base that is named by a path or a URL: a library would load whatever lies there."""
    if base is None:
        return
    if (
        not isinstance(base, str)
        or base.startswith(("/", "~", "."))
        or ".." in base.split("/")
        or "\\" in base
        or ":" in base
    ):
        raise Verification(
            "adapter_config.json names its base by a path or URL; push it with adapterctl, which writes the base's id"
        )


def _disagreement(config: dict[str, Any], lora: LoraConfig) -> str | None:
    """Return in what a config and a version's record differ, of all that decides what the adapter does."""
    targets = config.get("target_modules")
    named = targets if isinstance(targets, list) and all(isinstance(name, str) for name in targets) else []
    alpha = config.get("lora_alpha")
    differences = {
        "rank": type(config.get("r")) is not int or config["r"] != lora.rank,
        "target modules": sorted(named) != sorted(lora.target_modules),
        "alpha": type(alpha) not in (int, float) or alpha != lora.alpha,
        "rank_pattern": (config.get("rank_pattern") or {}) != lora.rank_pattern,
        "alpha_pattern": (config.get("alpha_pattern") or {}) != lora.alpha_pattern,
        "use_rslora": bool(config.get("use_rslora")) != lora.use_rslora,
        "use_dora": bool(config.get("use_dora")) != lora.use_dora,
    }
    return next((name for name, differs in differences.items() if differs), None)
