"""A base on the disk: which tensor is where in which file, from the headers; the data is mapped on access."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from sdk.formats.base_files import INDEX_FILE, SINGLE_FILE, BadBaseError, read_index, weight_map
from sdk.formats.packed_weights import WeightFile, read_states, read_weights
from sdk.formats.safetensors import Header, SafetensorsError, read_header
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError

#: Types by the format's names and torch's.
TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
FORMAT_TYPES = {dtype: name for name, dtype in TORCH_TYPES.items()}
FLOATS = ("F64", "F32", "F16", "BF16")
#: The suffixes of tensors stored with a weight that bitsandbytes packed.
_PACKED_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a base's files."""

    name: str
    file: str
    #: The format's name: F32, BF16, U8 …
    dtype: str
    shape: tuple[int, ...]
    #: The offsets of its bytes in the file.
    begin: int
    end: int


@dataclass(frozen=True)
class Packed:
    """The tensors that belong to a weight that bitsandbytes packed in 4 bits."""

    kind: str
    #: (out, in) of the weight that it stands for.
    shape: tuple[int, int]
    #: Names of the tensors stored with it.
    parts: tuple[str, ...]


@dataclass
class StoredBase:
    """The weight files of a folder."""

    folder: Path
    #: File to its header, in the order of their names.
    headers: dict[str, Header]
    #: In the order of the files.
    tensors: dict[str, StoredTensor]
    packed: dict[str, Packed]
    _maps: dict[str, mmap.mmap] = field(default_factory=dict)
    #: The last tensor that had to be copied for alignment.
    _moved: tuple[str, Any] = ("", None)

    @cached_property
    def beside(self) -> frozenset[str]:
        """Names of the tensors that only describe how to read a packed weight."""
        return frozenset(part for packed in self.packed.values() for part in packed.parts)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; for a packed one, the shape that it stands for."""
        return self.packed[name].shape if name in self.packed else self.tensors[name].shape

    def map(self, file: str) -> mmap.mmap:
        """Return a file's bytes; a page is read on access, and doesn't count as the process's memory."""
        if file not in self._maps:
            with (self.folder / file).open("rb") as opened:
                # A private mapping is writable, though nobody writes to it; torch warns about read-only ones.
                self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[file]

    def read(self, name: str) -> Any:
        """Return a tensor as a torch view of the mapped file."""
        tensor = self.tensors[name]
        if tensor.begin == tensor.end:
            return torch.empty(tensor.shape, dtype=TORCH_TYPES[tensor.dtype])
        dtype = TORCH_TYPES[tensor.dtype]
        if tensor.begin % dtype.itemsize:
            # The library aligns every tensor for its type; other writers may not.
            moved = self._moved
            if moved[0] != name:
                moved = name, torch.frombuffer(bytearray(self.bytes_of(name)), dtype=dtype).view(tensor.shape)
                # Other threads may be reading other tensors.
                self._moved = moved
            return moved[1]
        count = (tensor.end - tensor.begin) // dtype.itemsize
        return torch.frombuffer(self.map(tensor.file), dtype=dtype, offset=tensor.begin, count=count).view(tensor.shape)

    def bytes_of(self, name: str) -> memoryview:
        """Return a tensor's bytes in the mapped file."""
        tensor = self.tensors[name]
        return memoryview(self.map(tensor.file))[tensor.begin : tensor.end]

    def metadata(self, file: str) -> dict[str, str]:
        """Return the metadata in a file's header."""
        said = json.loads(self.headers[file].raw).get("__metadata__")
        return said if isinstance(said, dict) else {}

    def weight_names(self) -> Iterator[str]:
        """Yield the names of the tensors that are weights of the model, each packed one once."""
        return (name for name in self.tensors if name not in self.beside)


def open_stored_base(folder: Path) -> StoredBase:
    """Read the headers of a base's weight files. Raises PipelineError ("base") if they are not weight files."""
    try:
        return open_files(folder, _files(folder))
    except (OSError, BadBaseError, SafetensorsError) as error:
        raise PipelineError(
            FailureReason.BASE, f"The base's weight files can't be read ({error}); check its folder."
        ) from error


def open_files(folder: Path, files: Sequence[str], *, any_dtype: bool = True) -> StoredBase:
    """Read the headers of weight files, of a base or, without `any_dtype`, of an adapter. Raises OSError, BadBaseError, SafetensorsError."""
    headers: dict[str, Header] = {}
    tensors: dict[str, StoredTensor] = {}
    packed: dict[str, Packed] = {}
    for file in files:
        path = folder / file
        with path.open("rb") as opened:
            header = read_header(opened, path.stat().st_size, called=file, any_dtype=any_dtype)
            states = read_weights(header)
            shapes = read_states(states, partial(_part, opened))
        headers[file] = header
        for index in range(len(header)):
            kind, begin, name = header.kind(index), header.data_begin + header.begin[index], header.name(index)
            if name in tensors:
                raise BadBaseError(f"the tensor {name[:80]!a} is in {tensors[name].file} and in {file}")
            tensors[name] = StoredTensor(name, file, kind.dtype, kind.shape, begin, begin + kind.size_bytes)
        packed |= {name: _packed(name, shape, states) for name, shape in shapes.items()}
    complete = {name: _with_parts(name, each, tensors) for name, each in packed.items()}
    return StoredBase(folder, headers, tensors, complete)


def _files(folder: Path) -> list[str]:
    """Return the names of the weight files that transformers would load."""
    if (folder / SINGLE_FILE).is_file() or not (folder / INDEX_FILE).is_file():
        return [SINGLE_FILE]
    return sorted(set(weight_map(read_index((folder / INDEX_FILE).read_bytes())).values()))


def _part(opened: Any, begin: int, end: int) -> bytes:
    opened.seek(begin)
    return bytes(opened.read(end - begin))


def _packed(name: str, shape: list[int], states: WeightFile) -> Packed:
    return Packed(states.states[name].kind, (shape[0], shape[1]), ())


def _with_parts(name: str, packed: Packed, tensors: Mapping[str, StoredTensor]) -> Packed:
    parts = (*_PACKED_PARTS, f".quant_state.bitsandbytes__{packed.kind}")
    return Packed(packed.kind, packed.shape, tuple(f"{name}{part}" for part in parts if f"{name}{part}" in tensors))
