"""Inspection: an adapter's two files, read once without torch and kept as small facts that the gate judges.

What is wrong whatever the version says (a malformed header, NaN, a key that runs code) raises Verification here.
The safetensors header is read here and not by the library, which accepts duplicate names, extra fields and NaN.
Format: 8 bytes little-endian length N, N bytes of JSON `{name: {dtype, shape, data_offsets}}`, then the data.

>>> import io
>>> facts = inspect_config(io.BytesIO(b'{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}'))
>>> ConfigFacts.from_json(facts.to_json()) == facts
True
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from typing import IO, Any, Literal, Self

import numpy as np
from pydantic import ValidationError

from registry.errors import Verification
from sdk.schemas.wire import Wire

_MAX_HEADER_BYTES = 32 * 1024 * 1024
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,499}")

#: Keys of adapter_config.json that import, fetch or run something when a library reads them.
_DANGEROUS_KEYS = ("auto_mapping", "auto_map", "megatron_config", "megatron_core", "custom_code", "trust_remote_code")
_CHUNK_BYTES = 8 * 1024 * 1024
_MAX_CONFIG_BYTES = 1024 * 1024

#: NUL and halves of surrogate pairs: no request may hold them, and not every database keeps them.
_UNKEPT = re.compile("[\x00\ud800-\udfff]")


class _Facts(Wire):
    """What is kept of a file's content beside its hash, as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return self.model_dump()

    @classmethod
    def from_json(cls, value: Any) -> Self | None:
        """Return facts that were kept, or None for another kind or version: then the bytes are to be read again."""
        try:
            return cls.model_validate(value)
        except ValidationError:
            return None


class TensorFacts(Wire):
    """One tensor. All its values are finite: one that holds NaN or infinity has no facts."""

    name: str
    #: As safetensors names it: F64, F32, F16, BF16.
    dtype: str
    shape: list[int]
    #: Whether each of its values is zero.
    zero: bool


class WeightFacts(_Facts):
    """What the gate has to know of `adapter_model.safetensors`."""

    kind: Literal["weights"] = "weights"
    version: Literal[1] = 1
    #: In the order of their bytes.
    tensors: list[TensorFacts]


class ConfigFacts(_Facts):
    """What the gate has to know of `adapter_config.json`. None stands for a value that no version can have."""

    kind: Literal["config"] = "config"
    version: Literal[1] = 1
    rank: int | None
    alpha: int | float | None
    #: Sorted.
    target_modules: list[str] | None
    rank_pattern: dict[str, int | float] | None
    alpha_pattern: dict[str, int | float] | None
    use_rslora: bool
    use_dora: bool
    #: Whether the base keeps the adapted weights transposed, (in, out), as GPT-2's Conv1D does.
    fan_in_fan_out: bool


def inspect_weights(file: IO[bytes], *, size_bytes: int) -> WeightFacts:
    """Read `adapter_model.safetensors` once, in bounded memory.

    Raises Verification where it is no safetensors file of floating-point tensors, or holds NaN or infinity.
    """
    entries, data_begin = read_header(file, size_bytes)
    tensors = []
    for entry in entries:
        zero = not _scan(file, data_begin, entry)
        tensors.append(TensorFacts(name=entry.name, dtype=entry.dtype, shape=list(entry.shape), zero=zero))
    return WeightFacts(tensors=tensors)


def inspect_config(file: IO[bytes]) -> ConfigFacts:
    """Read `adapter_config.json` once.

    Raises Verification where it is no JSON or no LoRA, or has something in it that runs or fetches.
    """
    try:
        config = _parse(file.read(_MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        raise Verification("adapter_config.json is no JSON; save the adapter again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise Verification("adapter_config.json describes no LoRA; only LoRA adapters are kept here")
    _refuse_code(config)
    _refuse_place(config.get("base_model_name_or_path"))
    rank, targets = config.get("r"), config.get("target_modules")
    return ConfigFacts(
        rank=rank if type(rank) is int else None,
        alpha=_number(config.get("lora_alpha")),
        target_modules=sorted(targets) if isinstance(targets, list) and all(map(_is_text, targets)) else None,
        rank_pattern=_pattern(config.get("rank_pattern")),
        alpha_pattern=_pattern(config.get("alpha_pattern")),
        use_rslora=bool(config.get("use_rslora")),
        use_dora=bool(config.get("use_dora")),
        fan_in_fan_out=bool(config.get("fan_in_fan_out")),
    )


def _number(value: Any) -> int | float | None:
    # JSON has no infinity, but 1e999 is read as one.
    return value if type(value) is int or (type(value) is float and math.isfinite(value)) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _UNKEPT.search(value)


def _pattern(value: Any) -> dict[str, int | float] | None:
    """Return names and their numbers; PEFT writes nothing, null or {} where there are none."""
    if not value:
        return {}
    if not isinstance(value, dict) or not all(map(_is_text, value)):
        return None
    numbers = {name: number for name, item in value.items() if (number := _number(item)) is not None}
    return numbers if len(numbers) == len(value) else None


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
