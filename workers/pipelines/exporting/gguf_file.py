"""A GGUF file, written in blocks: first the keys and the list of tensors, then the tensors in that order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt

from sdk.errors import InvalidBase, VerificationFailed
from sdk.lora.gguf_models import GgufModel
from sdk.schemas.export import GgufDtype
from workers.pipelines.exporting.numbers import ITEM_BYTES

_TYPES: dict[GgufDtype, Any] = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
}
_DTYPES: dict[GgufDtype, str] = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}
#: `general.file_type`.
FILE_TYPES: dict[GgufDtype, int] = {
    "f32": int(gguf.LlamaFileType.ALL_F32),
    "f16": int(gguf.LlamaFileType.MOSTLY_F16),
    "bf16": int(gguf.LlamaFileType.MOSTLY_BF16),
}


class Value(NamedTuple):
    """The value of a key, its GGUF type, and for a list the type of its items."""

    value: Any
    type: Any
    of: Any = None


@dataclass(frozen=True)
class Planned:
    """One tensor to be written."""

    name: str
    #: As in numpy, rows first.
    shape: tuple[int, ...]
    dtype: GgufDtype
    #: Yields its numbers in blocks, in the type; bf16 as uint16.
    blocks: Callable[[], Iterator[npt.NDArray[Any]]]


def whole(name: str, values: npt.NDArray[Any], dtype: GgufDtype) -> Planned:
    """A tensor whose numbers are in memory, in the type."""
    return Planned(name, values.shape, dtype, lambda: iter((values,)))


def text(value: str) -> Value:
    """A text."""
    return Value(value, gguf.GGUFValueType.STRING)


def number(value: int) -> Value:
    """A whole number of 32 bits."""
    return Value(int(value), gguf.GGUFValueType.UINT32)


def real(value: float) -> Value:
    """A number of 32 bits."""
    return Value(float(value), gguf.GGUFValueType.FLOAT32)


def flag(value: bool) -> Value:
    """True or false."""
    return Value(bool(value), gguf.GGUFValueType.BOOL)


def described(kind: str, name: str, dtype: GgufDtype) -> dict[str, Value]:
    """Return the keys that every file has: whether it is an "adapter" or a "model", its name, and its type."""
    keys = gguf.Keys.General
    return {
        keys.TYPE: text(kind),
        keys.NAME: text(name),
        keys.FILE_TYPE: number(FILE_TYPES[dtype]),
        keys.QUANTIZATION_VERSION: number(gguf.GGML_QUANT_VERSION),
    }


def write(path: Path, architecture: str, keys: dict[str, Value], tensors: list[Planned]) -> None:
    """Write a file."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, (value, kind, of) in keys.items():
        writer.add_key_value(key, value, kind, of)
    for tensor in tensors:
        size_bytes = int(np.prod(tensor.shape)) * ITEM_BYTES[tensor.dtype]
        # As bytes, since numpy lacks one of the types.
        shape = (*tensor.shape[:-1], tensor.shape[-1] * ITEM_BYTES[tensor.dtype])
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), size_bytes, raw_dtype=_TYPES[tensor.dtype])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        (file,) = writer.fout
        for tensor in tensors:
            writer.write_padding(file, file.tell())
            for block in tensor.blocks():
                file.write(np.ascontiguousarray(block, dtype=_DTYPES[tensor.dtype]).data)
        writer.write_padding(file, file.tell())
    finally:
        writer.close()


class UnreadableError(ValueError):
    """A file that is not a whole GGUF file."""


class _Reader(gguf.GGUFReader):  # type: ignore[misc] # gguf has no types
    """gguf's reader, which ignores a number beyond the end of a file, and so keeps counting for as long as a list claims."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError("it ends too early")
        return super()._get(offset, dtype, count, override_order)


class WrittenGguf:
    """A GGUF file, read by gguf's own reader. Raises UnreadableError."""

    def __init__(self, path: Path) -> None:
        try:
            self._reader = _Reader(path)
        except RecursionError as error:
            raise UnreadableError("it has lists in lists") from error
        except (ValueError, KeyError, IndexError, OverflowError, TypeError, OSError) as error:
            raise UnreadableError(str(error)[:200]) from error
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    @property
    def names(self) -> set[str]:
        """The names of its tensors."""
        return set(self._tensors)

    def dtype(self, name: str) -> GgufDtype | None:
        """Return the type of a tensor; None for types that exports don't write."""
        return next((dtype for dtype, kind in _TYPES.items() if kind == self._tensors[name].tensor_type), None)

    def rows(self, name: str) -> npt.NDArray[Any]:
        """Return a tensor as stored, rows first; bf16 as uint16."""
        tensor = self._tensors[name]
        shape = tuple(int(size) for size in reversed(tensor.shape))
        dtype = self.dtype(name)
        found: npt.NDArray[Any] = tensor.data if dtype is None else tensor.data.view(_DTYPES[dtype]).reshape(shape)
        return found

    def value(self, key: str) -> Any:
        """Return the value of a key; None if it is missing."""
        field = self._reader.get_field(key)
        return None if field is None else field.contents()

    def keys(self, prefix: str) -> dict[str, Value]:
        """Return the keys with this prefix, ready to be written again. Raises UnreadableError."""
        if nested := [name for name, field in self._reader.fields.items() if len(field.types) > 2]:
            raise UnreadableError(f"the key {nested[0][:80]!a} has lists in lists")
        try:
            return self._keys(prefix)
        except ValueError as error:
            raise UnreadableError(str(error)[:200]) from error

    def _keys(self, prefix: str) -> dict[str, Value]:
        return {
            name: Value(field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
            for name, field in self._reader.fields.items()
            if name.startswith(prefix)
        }


def read_again(path: Path, architecture: str, names: set[str], *, kind: str) -> WrittenGguf:
    """Return a file that was just written, after checking what every file has. Raises VerificationFailed."""
    try:
        written = WrittenGguf(path)
    except UnreadableError as error:
        raise VerificationFailed(
            f"the file was written, but can't be read back ({error}), so nothing was kept; try again"
        ) from error
    said = written.value(gguf.Keys.General.TYPE), written.value(gguf.Keys.General.ARCHITECTURE)
    if said != (kind, architecture):
        raise differs("its kind or architecture", kind)
    if written.names != names:
        raise differs("the list of its tensors", kind)
    return written


def differs(what: str, kind: str) -> VerificationFailed:
    """Return the error for a file that differs from its source."""
    return VerificationFailed(
        f"the file was read back, and {what} differs from the {kind}, so nothing was kept; try again"
    )


def gguf_name(model: GgufModel, name: str) -> str:
    """Return a tensor's name in GGUF. Raises InvalidBase for one that the architecture does not have."""
    found = _names(model.architecture, model.layers).get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise InvalidBase(
            f"the tensor {name[:200]!a} has no place in a {model.architecture} model of llama.cpp; export another model",
            param="target",
        )
    return str(found)


@cache
def _names(architecture: str, layers: int) -> Any:
    kind = next(kind for kind, called in gguf.MODEL_ARCH_NAMES.items() if called == architecture)
    return gguf.get_tensor_name_map(kind, layers)
