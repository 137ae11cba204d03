"""An adapter, module by module: the tensors of each, the scale that the record gives it, and its ΔW = s·B·A.

Only names, types and shapes are known, of a file's tensors or of what was kept of them; numbers are read on demand.

>>> from types import SimpleNamespace
>>> record = LoraConfig(rank=2, alpha=4.0, dropout=0.0, target_modules=["q"])
>>> a = SimpleNamespace(name="base_model.model.h.0.q.lora_A.weight", dtype="F32", shape=(2, 6))
>>> b = SimpleNamespace(name="base_model.model.h.0.q.lora_B.weight", dtype="F32", shape=(8, 2))
>>> adapter = LoraAdapter([a, b], record)
>>> list(adapter.modules), adapter.product("h.0.q").layout
(['h.0.q'], ModuleShape(embedding=False, experts=1, out=(8,), into=(6,)))
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sdk.formats.adapter_files import base_module, lora_key
from sdk.lora.experts import MAX_EXPERTS
from sdk.lora.factors import Factors, of_each_expert
from sdk.lora.low_rank import of_experts, product_norm, triangular_norm
from sdk.lora.module_scales import ModuleScale, ModuleScales, ScalesError
from sdk.lora.tensors import Columns, Tensor
from sdk.schemas.lora_config import LoraConfig

Shape = tuple[int, ...]
_HALVES = ("A", "B", "embedding_A", "embedding_B")


def times(shape: Iterable[int]) -> str:
    """Return a shape as in messages: 8×6."""
    return "×".join(map(str, shape))


class AnyTensor(Protocol):
    """A tensor in a file, or what was kept of it."""

    @property
    def name(self) -> str:
        """As the file has it."""

    @property
    def dtype(self) -> str:
        """The type's name in safetensors."""

    @property
    def shape(self) -> Shape:
        """Of A (r, in), of B (out, r)."""


T = TypeVar("T", bound=AnyTensor)


class AdapterError(ValueError):
    """A module can't be read; the message is a clause that begins with the module's name."""

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(f"{module} {reason}" if module else reason)
        #: The same without the module's name.
        self.reason = reason


class NoProductError(AdapterError):
    """A module's A and B are both there, and aren't the factors of one product that can be told."""


@dataclass(frozen=True)
class LoraModule(Generic[T]):
    """The tensors of one adapted module."""

    #: The adapter's name for it, without PEFT's prefix.
    name: str
    #: By what `lora_key` calls them: A, B, embedding_A, embedding_B, B.bias, magnitude_vector.
    parts: dict[str, T]

    @property
    def embedding(self) -> bool:
        """Whether A and B are an embedding's, whose weight is the transpose of B·A."""
        return "embedding_A" in self.parts

    def put(self, part: str, tensor: T) -> None:
        """Add a tensor. Raises AdapterError for a part under two names, as old and new releases of PEFT write it."""
        if part in self.parts:
            raise AdapterError("", f"{tensor.name!r} means the same weight as {self.parts[part].name!r}")
        self.parts[part] = tensor

    def pair(self) -> tuple[T, T]:
        """Return A and B. Raises AdapterError if one is missing, or there twice."""
        a, b = ("embedding_A", "embedding_B") if self.embedding else ("A", "B")
        halves = [part for part in _HALVES if part in self.parts]
        if halves != [a, b]:
            raise AdapterError(self.name, "has A or B twice" if len(halves) > 2 else "has only one of A and B")
        return self.parts[a], self.parts[b]


@dataclass(frozen=True)
class ModuleShape:
    """The dimensions of a module's A and B, whatever their rank."""

    embedding: bool
    experts: int
    #: B's shape without the rank: (out), followed by ones for a convolution.
    out: Shape
    #: A's shape without the rank: (in), followed by the kernel for a convolution.
    into: Shape

    def __str__(self) -> str:
        """The text for messages."""
        of = times((*self.out, *self.into))
        return f"of {of} for each of {self.experts} experts" if self.experts > 1 else f"of {of}"


@dataclass(frozen=True)
class DeltaW(Generic[T]):
    """ΔW = s·B·A of one module, or of each of its experts."""

    layout: ModuleShape
    scale: ModuleScale
    a: T
    b: T
    #: B's own bias.
    bias: T | None

    def columns(self: DeltaW[Tensor]) -> tuple[Columns, Columns]:
        """Return B (out, r) and Aᵀ (in, r); of experts, those of all together."""
        return self.b.rows(), self.a.rows().transposed()

    def norms(self: DeltaW[Tensor]) -> list[float]:
        """Return ‖B·A‖ of each expert, without s; NaN or infinity if the factors hold them."""
        norms = []
        for out, into in of_experts(*self.columns(), self.layout.experts):
            found = product_norm(out, into)
            norms.append(triangular_norm(out, into) if found is None else found)
        return norms

    def factors(self: DeltaW[Tensor]) -> list[Factors]:
        """Return the factors of each expert, or the one pair of a plain module, in float64 and without s."""
        b, a = self.b.rows().numbers(), self.a.rows().numbers()
        return of_each_expert(Factors(b.reshape(len(b), len(a)), a), self.layout.experts)

    def bias_factors(self: DeltaW[Tensor]) -> Factors | None:
        """Return B's own bias as factors: a column (out, 1), times 1; None if it has none."""
        import numpy as np

        return None if self.bias is None else Factors(self.bias.rows().numbers(), np.ones((1, 1)))


class LoraAdapter(Generic[T]):
    """The modules of an adapter, and what else it has.

    Patterns of the record are tried in the order of their keys, as written in a version's file; with `in_order`, as they
    are. Raises AdapterError for a weight under two names, and for patterns that can't be tried.
    """

    def __init__(self, tensors: Iterable[T], lora: LoraConfig, *, in_order: bool = False) -> None:
        self.lora = lora
        #: In the order of their first tensors.
        self.modules, self.whole = grouped(tensors)
        try:
            self._scales = ModuleScales(lora, in_order=in_order)
        except ScalesError as error:
            raise AdapterError("", str(error)) from error

    @property
    def dtypes(self) -> set[str]:
        """The types of A, B and B's bias."""
        parts = (item for module in self.modules.values() for item in module.parts.items())
        return {tensor.dtype for part, tensor in parts if part != "magnitude_vector"}

    def parameters_of(self, module: str) -> list[str]:
        """Return the full names of the parameters that a module's A and B may belong to; none if they are the module's own."""
        return self._scales.parameters.of(base_module(module))

    def product(self, name: str) -> DeltaW[T]:
        """Return a module's ΔW.

        Raises NoProductError if A and B have no product, or if the number of experts can't be told, AdapterError if one is
        missing or if the patterns take too long.
        """
        module = self.modules[name]
        a, b = module.pair()
        if not has_product(a.shape, b.shape, embedding=module.embedding):
            said = f"has A of {list(a.shape)} and B of {list(b.shape)}, as a grouped convolution has them, which have no product"
            raise NoProductError(name, said)
        try:
            scale = self._scales.of(name, width=a.shape[0])
        except ScalesError as error:
            raise AdapterError("", str(error)) from error
        if scale is None:
            raise NoProductError(name, "holds stacked experts, and the rank of each is unknown")
        if scale.experts > MAX_EXPERTS:
            raise NoProductError(name, f"holds {scale.experts} experts, and at most {MAX_EXPERTS} can be read")
        layout = ModuleShape(module.embedding, scale.experts, (b.shape[0], *b.shape[2:]), a.shape[1:])
        return DeltaW(layout, scale, a, b, module.parts.get("B.bias"))


def grouped(tensors: Iterable[T]) -> tuple[dict[str, LoraModule[T]], dict[str, T]]:
    """Return LoRA's own tensors by module, and the others by name: what is saved whole, and what variants have besides.

    Raises AdapterError for a weight under two names.
    """
    modules: dict[str, LoraModule[T]] = {}
    whole: dict[str, T] = {}
    for tensor in tensors:
        key = lora_key(tensor.name)
        if key is None:
            whole[tensor.name] = tensor
        else:
            if (module := modules.get(key.module)) is None:
                module = modules[key.module] = LoraModule(key.module, {})
            module.put(key.part, tensor)
    return modules, whole


def has_product(a: Shape, b: Shape, *, embedding: bool) -> bool:
    """Whether A and B are multiplied as they are: not for a convolution with grouped channels, or whose B has a kernel."""
    if embedding:
        return len(a) == len(b) == 2 and a[0] == b[1]
    # PEFT gives a convolution's B a kernel of ones.
    return len(a) == len(b) >= 2 and a[0] == b[1] and set(b[2:]) <= {1}


class SavedModules:
    """The modules that `modules_to_save` names: those with a name of it anywhere in theirs, as PEFT's own copies have.

    They are found without trying each name.

    >>> saved = SavedModules(["score", "model.norm"])
    >>> [saved.have(module) for module in ("score.dense", "base.model.norm", "model.layers.0.norm", "underscore")]
    [True, True, False, False]
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._sizes = sorted({name.count(".") + 1 for name in self._names})

    def have(self, module: str) -> bool:
        """Whether one of the names is a part of a module's name, or several parts in a row."""
        if not self._names:
            return False
        parts = module.split(".")
        return any(
            ".".join(parts[at : at + size]) in self._names
            for size in self._sizes
            for at in range(len(parts) - size + 1)
        )
