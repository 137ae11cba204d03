"""A base on the disk: which tensor is where in which file, from the headers; the data is mapped on access."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sdk.formats.base_files import INDEX_FILE, SINGLE_FILE, BadBaseError, read_index, weight_map
from sdk.formats.packed_weights import WeightFile, read_states, read_weights
from sdk.formats.safetensors import Header, SafetensorsError
from sdk.lora.tensors import MappedFile, Tensor, open_file
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import named

FLOATS = ("F64", "F32", "F16", "BF16")
#: The suffixes of tensors stored with a weight that bitsandbytes packed.
_PACKED_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")


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
    #: In the order of their names.
    headers: dict[str, Header]
    #: In the order of the files.
    tensors: dict[str, Tensor]
    packed: dict[str, Packed]
    #: The last tensor that had to be copied for alignment.
    _moved: tuple[str, Any] = ("", None)

    @cached_property
    def beside(self) -> frozenset[str]:
        """Names of the tensors that only describe how to read a packed weight."""
        return frozenset(part for packed in self.packed.values() for part in packed.parts)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; for a packed one, the shape that it stands for."""
        return self.packed[name].shape if name in self.packed else self.tensors[name].shape

    def read(self, name: str) -> Any:
        """Return a tensor as a torch view of the mapped file."""
        # A plain merge is computed without torch.
        from workers.pipelines.model.torch_tensors import as_torch, is_aligned

        tensor, moved = self.tensors[name], self._moved
        if is_aligned(tensor):
            return as_torch(tensor)
        if moved[0] != name:
            # Other threads may be reading other tensors.
            self._moved = moved = name, as_torch(tensor)
        return moved[1]

    def bytes_of(self, name: str) -> memoryview:
        """Return a tensor's bytes in the mapped file."""
        return self.tensors[name].bytes()

    def metadata(self, file: str) -> dict[str, str]:
        """Return the metadata in a file's header."""
        said = json.loads(self.headers[file].raw).get("__metadata__")
        return said if isinstance(said, dict) else {}

    def weight_names(self) -> Iterator[str]:
        """Yield the names of the tensors that are weights of the model, each packed one once."""
        return (name for name in self.tensors if name not in self.beside)


def open_stored_base(folder: Path) -> StoredBase:
    """Read the headers of a base's weight files. Raises PipelineError ("base") if they are not weight files."""
    said = "The base's weight files can't be read ({error}); check its folder."
    with named(FailureReason.BASE, said, OSError, BadBaseError, SafetensorsError):
        return open_files(folder, _files(folder))


def open_files(folder: Path, files: Sequence[str], *, any_dtype: bool = True) -> StoredBase:
    """Read the headers of weight files, of a base or, without `any_dtype`, of an adapter. Raises OSError, BadBaseError, SafetensorsError."""
    headers: dict[str, Header] = {}
    tensors: dict[str, Tensor] = {}
    packed: dict[str, Packed] = {}
    for name in files:
        file = open_file(folder / name, called=name, any_dtype=any_dtype)
        found, states = file.tensors(), read_weights(file.header)
        if both := next(iter(found.keys() & tensors.keys()), None):
            raise BadBaseError(f"the tensor {both[:80]!a} is in {tensors[both].file.name} and in {name}")
        headers[name], tensors = file.header, tensors | found
        shapes = read_states(states, partial(_part, file))
        packed |= {weight: _packed(weight, shape, states) for weight, shape in shapes.items()}
    complete = {name: _with_parts(name, each, tensors) for name, each in packed.items()}
    return StoredBase(folder, headers, tensors, complete)


def _files(folder: Path) -> list[str]:
    """Return the names of the weight files that transformers would load."""
    if (folder / SINGLE_FILE).is_file() or not (folder / INDEX_FILE).is_file():
        return [SINGLE_FILE]
    return sorted(set(weight_map(read_index((folder / INDEX_FILE).read_bytes())).values()))


def _part(file: MappedFile, begin: int, end: int) -> bytes:
    return bytes(file.data[begin:end])


def _packed(name: str, shape: list[int], states: WeightFile) -> Packed:
    return Packed(states.states[name].kind, (shape[0], shape[1]), ())


def _with_parts(name: str, packed: Packed, tensors: Mapping[str, Tensor]) -> Packed:
    parts = (*_PACKED_PARTS, f".quant_state.bitsandbytes__{packed.kind}")
    return Packed(packed.kind, packed.shape, tuple(f"{name}{part}" for part in parts if f"{name}{part}" in tensors))
