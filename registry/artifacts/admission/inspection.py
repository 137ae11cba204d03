"""Inspection: an adapter's two files are read once, without torch, and kept as small facts that admission judges.

What is wrong for any version (a malformed header, NaN, a key that is not a setting) raises Verification here. Memory is
bounded: data are read by the mebibyte, and a tensor is kept as a line of text and three numbers.

>>> import io
>>> facts = inspect_config(io.BytesIO(b'{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}'))
>>> ConfigFacts.from_json(facts.to_json()) == facts
True
"""

from __future__ import annotations

import itertools
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, Self, overload

from pydantic import Field, model_validator

from registry.artifacts.admission.norms import PassingNorms, stacked_by
from registry.artifacts.facts import Facts
from registry.artifacts.long_facts import require_turn
from registry.errors import Verification
from sdk.formats.adapter_files import CONFIG_FILE
from sdk.formats.peft_config import MAX_CONFIG_BYTES, Reason, UnusableKey, examine, says_nothing
from sdk.formats.peft_unusable import unusable
from sdk.formats.safetensors import ITEM_BYTES, Header, Kind, SafetensorsError, read_exactly, read_header
from sdk.lora.adapter_config import recorded
from sdk.lora.tensors import NUMPY_TYPES, Columns
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.wire import Wire

if TYPE_CHECKING:
    import numpy.typing as npt

_CHUNK_BYTES = 1024 * 1024
#: The smallest bits, without the sign, that are NaN or infinity in each type: an exponent of ones.
_LIMITS = {"F64": 0x7FF0000000000000, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
_MOST_CONTAINERS = 8192
#: For how many of the ways in which records may cut one file's tensors into experts the norms are kept, the first ones.
_MOST_LAYOUTS = 4

#: Settings that give LoRA other tensors, or other shapes of A and B.
_VARIANTS = ("ensure_weight_tying", "monteclora_config", "use_bdlora", "use_qalora", "velora_config")


class TensorFacts(NamedTuple):
    """One tensor. All its values are finite: one that holds NaN or infinity has no facts."""

    name: str
    #: What safetensors calls it: F64, F32, F16, BF16.
    dtype: str
    shape: tuple[int, ...]
    #: Whether each of its values is zero.
    zero: bool
    #: The largest magnitude among its values is below two to this power, and not below half of that.
    exponent: int = 0
    #: If it is a module's B: ‖B·A‖, the Frobenius norm before the scale; None if that isn't known.
    norm: float | None = None

    @property
    def size_bytes(self) -> int:
        """Of its data."""
        return Kind(self.dtype, self.shape).size_bytes


class KindFacts(Wire):
    """The type and shape that many tensors share."""

    dtype: Literal["F64", "F32", "F16", "BF16"]
    shape: list[int]


class LayoutNorms(Wire):
    """The norms of the same bytes by another record, which cuts them into experts differently."""

    norms: list[float | None]
    stacked: list[list[int]]


class WeightFacts(Facts):
    """What admission has to know of `adapter_model.safetensors`.

    >>> facts = WeightFacts.of([TensorFacts("a", "F32", (2, 3), zero=False), TensorFacts("b", "F32", (2, 3), zero=True)])
    >>> facts.names, facts.kind_of, facts.zero, [tensor.name for tensor in facts.tensors()]
    ('a\\nb\\n', [0, 0], [1], ['a', 'b'])
    """

    kind: Literal["weights"] = "weights"
    version: Literal[4] = 4
    #: In the order of their bytes, a newline after each.
    names: str
    kinds: list[KindFacts]
    #: By tensor, an index into `kinds`.
    kind_of: list[int]
    #: The indices of the tensors whose values are all zero.
    zero: list[int]
    #: By tensor.
    exponents: list[int]
    #: By tensor: ‖B·A‖ of the module whose B it is.
    norms: list[float | None]
    #: Pairs of a B and its number of experts by the record with which the norms were taken, if that is not 1; 0: not
    #: known.
    stacked: list[list[int]]
    #: By other records.
    others: list[LayoutNorms] = Field(
        default_factory=list, max_length=_MOST_LAYOUTS - 1, exclude_if=lambda value: not value
    )

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        count = len(self.kind_of)
        if len(self.exponents) != count:
            raise ValueError("the numbers of exponents and of tensors differ")
        if any(len(one.norms) != count or any(len(pair) != 2 for pair in one.stacked) for one in self.layouts()):
            raise ValueError("the numbers of norms and of tensors differ")
        if self.names.count("\n") != count or (count and not self.names.endswith("\n")):
            raise ValueError("the numbers of names and of tensors differ")
        if count and not (min(self.kind_of) >= 0 and max(self.kind_of) < len(self.kinds)):
            raise ValueError("a tensor has no kind")
        return self

    @classmethod
    def of(cls, tensors: Iterable[TensorFacts]) -> Self:
        """Return the facts of these tensors."""
        listed = list(tensors)
        kinds = {kind: index for index, kind in enumerate(dict.fromkeys((t.dtype, t.shape) for t in listed))}
        return cls.model_validate(
            {
                "names": "".join(f"{tensor.name}\n" for tensor in listed),
                "kinds": [{"dtype": dtype, "shape": list(shape)} for dtype, shape in kinds],
                "kind_of": [kinds[tensor.dtype, tensor.shape] for tensor in listed],
                "zero": [index for index, tensor in enumerate(listed) if tensor.zero],
                "exponents": [tensor.exponent for tensor in listed],
                "norms": [tensor.norm for tensor in listed],
                "stacked": [],
            }
        )

    def tensors(self) -> Iterator[TensorFacts]:
        """Each tensor, in the order of their bytes."""
        return iter(Tensors(self))

    def layouts(self) -> list[WeightFacts | LayoutNorms]:
        """Return everything that has the norms by one record: these facts, then `others`."""
        return [self, *self.others]

    def under(self, lora: LoraConfig) -> Self | None:
        """Return the facts with the norms by this record; None if nobody has taken these."""
        wanted = stacked_by(((index, one.name, one.shape) for index, one in enumerate(self.tensors())), lora)
        if self.stacked == wanted:
            return self
        found = next((one for one in self.others if one.stacked == wanted), None)
        if found is None:
            return None
        return self.model_copy(update={"norms": found.norms, "stacked": found.stacked, "others": []})

    def beside(self, kept: Any) -> dict[str, Any]:
        """Return what to keep: the norms that are kept already, and those by this record if there is room."""
        there = self.from_json(kept)
        if there is None:
            return self.to_json()
        if len(there.others) >= _MOST_LAYOUTS - 1 or any(one.stacked == self.stacked for one in there.layouts()):
            return dict(kept)
        own = LayoutNorms(norms=self.norms, stacked=self.stacked)
        return there.model_copy(update={"others": [*there.others, own]}).to_json()


class Tensors(Sequence[TensorFacts]):
    """The tensors of a file, each made when it is asked for: together they would take ten times as much as their facts."""

    def __init__(self, weights: WeightFacts) -> None:
        self._weights = weights
        self._kinds = [(kind.dtype, tuple(kind.shape)) for kind in weights.kinds]
        self._zero = bytearray(len(weights.kind_of))
        for index in weights.zero:
            self._zero[index] = True
        #: Where each name begins, and where the next one would.
        self._begin = array("I", [0])
        for _ in weights.kind_of:
            self._begin.append(weights.names.index("\n", self._begin[-1]) + 1)

    def __len__(self) -> int:
        return len(self._weights.kind_of)

    @overload
    def __getitem__(self, index: int) -> TensorFacts: ...
    @overload
    def __getitem__(self, index: slice) -> list[TensorFacts]: ...
    def __getitem__(self, index: int | slice) -> TensorFacts | list[TensorFacts]:
        if isinstance(index, slice):
            return [self[one] for one in range(len(self))[index]]
        weights = self._weights
        return TensorFacts(
            weights.names[self._begin[index] : self._begin[index + 1] - 1],
            *self._kinds[weights.kind_of[index]],
            zero=bool(self._zero[index]),
            exponent=weights.exponents[index],
            norm=weights.norms[index],
        )


class ConfigFacts(Facts):
    """What admission has to know of `adapter_config.json`; None means a value that no version can have.

    Except for `variants` and a pattern to exclude, these are fields of the LoRA record, as
    `sdk.lora.adapter_config.recorded` reads them.
    """

    kind: Literal["config"] = "config"
    version: Literal[5] = 5
    rank: int | None
    alpha: int | float | None
    #: Sorted.
    target_modules: list[str] | None
    #: In the order of the file, which is the order in which PEFT tries them.
    rank_pattern: dict[str, int | float]
    alpha_pattern: dict[str, int | float]
    #: Sorted.
    modules_to_save: list[str]
    #: Names, or one pattern.
    exclude_modules: list[str] | str
    layers_to_transform: list[int]
    layers_pattern: list[str]
    #: Sorted.
    target_parameters: list[str]
    bias: str
    use_rslora: bool
    use_dora: bool
    lora_bias: bool
    #: Whether the base keeps the adapted weights transposed, (in, out), as GPT-2's Conv1D does.
    fan_in_fan_out: bool
    #: What PEFT loads the base as: "CAUSAL_LM", "SEQ_CLS" …
    task_type: str | None
    #: Settings that give LoRA other tensors or shapes: "use_qalora", "velora_config" …
    variants: list[str]


def inspect_weights(file: IO[bytes], *, size_bytes: int, lora: LoraConfig) -> WeightFacts:
    """Read `adapter_model.safetensors` once, in bounded memory; `lora` says which modules are stacked experts.

    Raises Verification if it is not a safetensors file of floating-point tensors, or contains NaN or infinity, and
    TurnNeededError for a long header.
    """

    import numpy as np

    try:
        header = read_header(file, size_bytes, before=require_turn)
        passing = PassingNorms(header, lora)
        greatest = _greatest(file, header, passing)
    except SafetensorsError as error:
        raise Verification(str(error)) from error
    zero, exponents = np.flatnonzero(greatest == 0), _exponents(greatest, header)
    names = header.names()
    kinds, kind_of = header.kinds, header.kind_of
    norms, stacked = passing.found, passing.stacked
    # The header is longer than the names, and no longer needed.
    del header, passing, greatest
    return WeightFacts(
        names=names.decode("ascii"),
        kinds=[KindFacts.model_validate({"dtype": kind.dtype, "shape": list(kind.shape)}) for kind in kinds],
        kind_of=kind_of.tolist(),
        zero=zero.tolist(),
        exponents=exponents.tolist(),
        norms=[None if math.isnan(norm) else norm for norm in norms.tolist()],
        stacked=sorted(stacked),
    )


def _exponents(greatest: npt.NDArray[Any], header: Header) -> npt.NDArray[Any]:
    """Return the power of two that the magnitude with these bits is below, by tensor."""

    import numpy as np

    dtypes = np.array([kind.dtype for kind in header.kinds], dtype="U4")[np.asarray(header.kind_of)]
    found = np.zeros(len(greatest), dtype=np.int16)
    for dtype in set(dtypes.tolist()):
        which = dtypes == dtype
        bits = greatest[which].astype(f"<u{ITEM_BYTES[dtype]}")
        # In float64 no value of the others is subnormal.
        found[which] = np.frexp(Columns(bits.view(NUMPY_TYPES[dtype]), dtype).numbers())[1]
    return found


def _greatest(file: IO[bytes], header: Header, passing: PassingNorms) -> npt.NDArray[Any]:
    """Return the bits of each tensor's largest magnitude, and pass each chunk on.

    Raises Verification for NaN and infinity, SafetensorsError for a file that ends before its data.

    Without the sign, the bits of values, read as whole numbers, have the order of their magnitudes: so the greatest of
    a tensor is all that is needed. Neighbours of the same item size are read together, however small each is.
    """

    import numpy as np

    item_of = np.array([ITEM_BYTES[kind.dtype] for kind in header.kinds], dtype=np.uint8)
    limit_of = np.array([_LIMITS[kind.dtype] for kind in header.kinds], dtype=np.uint64)
    found = np.zeros(len(header), dtype=np.uint64)
    room = np.empty(_CHUNK_BYTES, dtype=np.uint8)
    kind_of, begin_of = np.asarray(header.kind_of), np.asarray(header.begin)
    items = item_of[kind_of]
    edges = np.concatenate(([0], np.flatnonzero(items[1:] != items[:-1]) + 1, [len(header)])) if len(header) else items
    for first, last in itertools.pairwise(edges.data):
        item = int(items[first])
        dtype = np.dtype(f"<u{item}")
        without_sign = dtype.type((1 << (8 * item - 1)) - 1)
        begins = begin_of[first:last]
        position, end = int(begins[0]), header.end(last - 1)
        while position < end:
            raw = read_exactly(file, min(end - position, _CHUNK_BYTES))
            values = room[: len(raw)].view(dtype)
            chunk = np.frombuffer(raw, dtype=np.uint8)
            np.bitwise_and(chunk.view(dtype), without_sign, out=values)
            # The tensors with a part in this chunk.
            low = int(np.searchsorted(begins, position, side="right")) - 1
            high = int(np.searchsorted(begins, position + len(raw), side="left"))
            greatest = np.maximum.reduceat(values, np.maximum(begins[low:high] - position, 0) // item)
            wrong = greatest >= limit_of[kind_of[first + low : first + high]]
            if wrong.any():
                raise Verification(
                    f"tensor {header.name(first + low + int(wrong.argmax()))!r} holds NaN or infinity; the training diverged. "
                    "Lower the learning rate and train again"
                )
            part = found[first + low : first + high]
            np.maximum(part, greatest, out=part)
            for index in range(low, high):
                begin = int(begins[index])
                start = max(begin, position)
                stop = min(header.end(first + index), position + len(raw))
                passing.take(first + index, chunk[start - position : stop - position], start - begin)
            position += len(raw)
    return found


def inspect_config(file: IO[bytes]) -> ConfigFacts:
    """Read `adapter_config.json` once.

    Raises Verification if it is not JSON or not a LoRA, or has a key that is not on the list of
    `sdk.formats.peft_config` or a value of another kind, such as a path or URL.
    """
    config = _parse(file.read(MAX_CONFIG_BYTES + 1))
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise Verification(f"{CONFIG_FILE} does not describe a LoRA adapter; only LoRA adapters are kept here")
    for finding in examine(config):
        _refuse(finding)
    if why := unusable(config):
        raise Verification(f"{CONFIG_FILE}: {why}")
    said = recorded(config)
    facts = {name: said[name] for name in ConfigFacts.model_fields.keys() & said.keys()}
    # PEFT never writes null here, and admission treats it as "none".
    facts["bias"] = said["bias"] or "none"
    facts["exclude_modules"] = config.get("exclude_modules") or []
    return ConfigFacts(**facts, variants=[name for name in _VARIANTS if config.get(name)])


def _refuse(finding: UnusableKey) -> None:
    """Raise Verification for a key that no version's config may have; one that would run something may be empty."""
    if finding.reason is Reason.RUNS and not says_nothing(finding.value):
        raise Verification(
            f"{CONFIG_FILE} has {finding.key!a}, which can run code or look for files when it is loaded; "
            "push it with adapterctl, which leaves it out"
        )
    if finding.reason is Reason.UNKNOWN:
        raise Verification(
            f"{CONFIG_FILE} has {finding.key!a}, which is not a known LoRA setting; remove it and push again"
        )
    if finding.reason is Reason.PATTERN:
        raise Verification(
            f"{CONFIG_FILE}: {finding.key} has {finding.pattern!a}, which PEFT might try for ever ({finding.why}); "
            "push the adapter with: adapterctl push --expand-patterns, which writes module names"
        )
    if finding.reason is Reason.VALUE:
        raise Verification(
            f"{CONFIG_FILE}: {finding.key!a} is not {finding.wanted}; save the adapter again with PEFT, then push it with adapterctl"
        )


def _parse(raw: bytes) -> Any:
    """Return the value of a JSON text. Raises Verification if it isn't JSON, is ambiguous, or would be large in
    memory.
    """
    # Brackets in texts are counted too: no configuration has this many.
    if len(raw) > MAX_CONFIG_BYTES or raw.count(b"[") + raw.count(b"{") > _MOST_CONTAINERS:
        raise Verification(
            f"{CONFIG_FILE} is longer than {MAX_CONFIG_BYTES // 1024} KiB, or nested deeper than PEFT writes it; save the adapter again"
        )
    try:
        # Decoded here: the json library would also guess UTF-16 and UTF-32, which no other reader does.
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Verification(f"{CONFIG_FILE} is not JSON; save the adapter again") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Verification(f"{CONFIG_FILE} has a key twice; save the adapter again with PEFT")
    return found


def _no_constant(word: str) -> Any:
    raise Verification(f"{CONFIG_FILE} has {word}, which is not a number; save the adapter again with PEFT")
