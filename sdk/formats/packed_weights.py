"""Weights that bitsandbytes packed in 4 bits: the shapes that they stand for, and whether a config agrees.

A weight of (out, in) is stored as out·in/2 bytes of the shape (out·in/2, 1). With it are stored one scale for each
block of weights (`.absmax`), which double quantisation packs again (`.nested_absmax`), and a JSON text of about 100
bytes (`.quant_state.bitsandbytes__nf4`) with the shape.

>>> said_shape("w", b'{"quant_type": "nf4", "blocksize": 64, "shape": [16, 64]}', "nf4")
[16, 64]
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sdk.formats.base_files import CONFIG_FILE, BadBaseError
from sdk.formats.safetensors import MAX_TENSORS, Header

#: A read of the bytes [begin, end) of a file.
ReadPart = Callable[[int, int], bytes]

_SINGLE_EXPERT = re.compile(r"experts\.[0-9]+\.")
_STATE = re.compile(r"(.+)\.quant_state\.bitsandbytes__(nf4|fp4)")
_NESTED, _SCALES = ".nested_absmax", ".absmax"
#: The suffixes of the tensors stored with a packed weight.
_BESIDE = (_NESTED, _SCALES, ".nested_quant_map", ".quant_map")
#: The longest state that the library writes has a twentieth of this.
_MAX_STATE_BYTES = 4096
#: The limit per base; the largest published dense models have a fifth of this. Each may need a read of its own.
_MAX_STATES = 4096
#: States of one file that are this close to each other are read together, up to this many bytes.
_NEAR_BYTES, _MAX_READ_BYTES = 64 * 1024, 1024 * 1024


class State(NamedTuple):
    """Where a file has the state of a packed weight: the bytes [begin, end). No more is read than a state may have."""

    kind: str
    begin: int
    end: int


class WeightFile(NamedTuple):
    """The contents of one of a base's weight files; the tensors that belong to a packed weight may be in another file."""

    #: Name to shape of each tensor, as it is stored.
    shapes: dict[str, list[int]]
    #: Weight to its bytes, for weights that may be packed.
    size_bytes: dict[str, int]
    #: Packed weight to its state.
    states: dict[str, State]


def read_weights(header: Header) -> WeightFile:
    """Return the contents of a weight file by its header. Raises BadBaseError if too many weights are packed."""
    shapes, sizes, states = header.shapes(), {}, {}
    for index in range(len(header)):
        name, kind = header.name(index), header.kind(index)
        if kind.shape[-1:] == (1,):
            sizes[name] = kind.size_bytes
        # Experts that are packed one by one are thousands, and are not supported anyway.
        elif (found := _STATE.fullmatch(name)) and not _packs_single_expert(name):
            begin, end = header.begin[index], min(header.end(index), header.begin[index] + _MAX_STATE_BYTES + 1)
            states[found[1]] = State(found[2], header.data_begin + begin, header.data_begin + end)
    file = WeightFile(shapes, sizes, states)
    require_few_states([file])
    return file


def require_few_states(files: Iterable[WeightFile]) -> None:
    """Raise BadBaseError if a base has more packed weights than are examined."""
    count = sum(len(file.states) for file in files)
    if count > _MAX_STATES:
        raise BadBaseError(f"{count} of its weights are packed; a base may have at most {_MAX_STATES}")


def read_states(file: WeightFile, read: ReadPart) -> dict[str, list[int]]:
    """Return the shape of each packed weight of a file, from its state. Raises BadBaseError for a state without one."""
    found: dict[str, list[int]] = {}
    for group in _near(file.states):
        first = group[0][1].begin
        raw = read(first, group[-1][1].end)
        for weight, state in group:
            found[weight] = said_shape(weight, raw[state.begin - first : state.end - first], state.kind)
    return found


def _near(states: Mapping[str, State]) -> Iterator[list[tuple[str, State]]]:
    """Yield weights and their states in the order of the file, grouped by what is read at once."""
    group: list[tuple[str, State]] = []
    for weight, state in sorted(states.items(), key=lambda each: each[1].begin):
        if group and (state.begin - group[-1][1].end > _NEAR_BYTES or state.end - group[0][1].begin > _MAX_READ_BYTES):
            yield group
            group = []
        group.append((weight, state))
    if group:
        yield group


def shapes_of(files: Iterable[WeightFile], said: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Return the shape of each tensor of a base by its name; for a packed weight, the shape that its state gives.

    Raises BadBaseError for a weight whose own description contradicts its bytes, and for too many tensors.
    """
    looked_into = list(files)
    shapes = {name: shape for file in looked_into for name, shape in file.shapes.items()}
    sizes = {name: size for file in looked_into for name, size in file.size_bytes.items()}
    for weight, shape in said.items():
        if weight not in sizes or f"{weight}{_SCALES}" not in shapes:
            raise BadBaseError(f"the packed weight {weight[:80]!a} lacks its bytes or its scales")
        if sizes[weight] != -(-math.prod(shape) // 2):
            raise _none_of_its_own(weight)
        shapes[weight] = shape
    if len(shapes) > MAX_TENSORS:
        raise BadBaseError(f"it has {len(shapes)} tensors; a base may have at most {MAX_TENSORS}")
    return shapes


def said_shape(weight: str, raw: bytes, kind: str) -> list[int]:
    """Return the shape in the state of a packed weight. Raises BadBaseError if it has none that fits the weight."""
    try:
        state = json.loads(raw.decode("utf-8")) if len(raw) <= _MAX_STATE_BYTES else None
    except (ValueError, RecursionError):
        state = None
    said = state if isinstance(state, dict) else {}
    shape = said.get("shape")
    matrix = isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)
    if not matrix or said.get("quant_type") != kind:
        raise _none_of_its_own(weight)
    return list(shape or ())


def _none_of_its_own(weight: str) -> BadBaseError:
    return BadBaseError(f"the packed weight {weight[:80]!a} is described by a state that doesn't belong to it")


def check_packing(config: Mapping[str, Any], tensors: Mapping[str, list[int]]) -> None:
    """Raise BadBaseError if a config contradicts the weight files about the packing.

    Libraries believe the config, and would read other numbers from the same bytes, or none.
    """
    said = config.get("quantization_config")
    said = said if isinstance(said, dict) else {}
    kinds = {found[2] for name in tensors if (found := _STATE.fullmatch(name))}
    packed = said.get("load_in_4bit") is True
    if not kinds:
        if packed:
            raise BadBaseError(f"{CONFIG_FILE} says that the weights are packed in 4 bits by bitsandbytes, but none is")
        return
    if not packed:
        raise BadBaseError(f"weights are packed in 4 bits by bitsandbytes, but {CONFIG_FILE} does not say so")
    kind = said.get("bnb_4bit_quant_type", "fp4")
    if kinds != {kind}:
        raise BadBaseError(
            f"{CONFIG_FILE} says {str(kind)[:20]!a} of weights that are packed as {' and '.join(sorted(kinds))}"
        )
    double = said.get("bnb_4bit_use_double_quant", False)
    if bool(double) != any(name.endswith(_NESTED) for name in tensors):
        raise BadBaseError(
            f"{CONFIG_FILE} says that the scales are {'' if double else 'not '}quantised too, but the weight files say otherwise"
        )


def packs_single_experts(names: Iterable[str]) -> bool:
    """Whether experts are packed one by one; transformers stacks these since release 5, and then can't unpack them."""
    return any(map(_packs_single_expert, names))


def _packs_single_expert(name: str) -> bool:
    expert = _SINGLE_EXPERT.search(name)
    return expert is not None and ".quant_state." in name[expert.end() :]


def parameters_of(tensors: Mapping[str, list[int]]) -> int:
    """Return how many numbers a base's tensors have; a packed weight counts with the numbers that it stands for."""
    return sum(map(math.prod, wide_shapes(tensors).values()))


def wide_shapes(tensors: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Return the shapes of a base's weights, without the tensors stored with packed ones."""
    return {
        name: shape for name, shape in tensors.items() if not name.endswith(_BESIDE) and _STATE.fullmatch(name) is None
    }


def block_size_of(tensors: Mapping[str, list[int]]) -> int | None:
    """Return how many packed weights share a scale, a power of two; None if nothing is packed."""
    scales = {name.removesuffix(_SCALES): math.prod(shape) for name, shape in tensors.items() if name.endswith(_SCALES)}
    sizes = {name: math.prod(tensors[name]) for name in scales if name in tensors}
    if not sizes:
        return None
    # The last block may be short, which matters least in the largest weight.
    largest = max(sizes, key=lambda name: (sizes[name], name))
    return 1 << max(0, -(-sizes[largest] // max(1, scales[largest])) - 1).bit_length()
