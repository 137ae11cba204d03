"""An adapter's tensors, module by module, from their names and shapes alone, with the scale that its record gives each module.

>>> record = LoraConfig(rank=2, alpha=4.0, dropout=0.0, target_modules=["q"])
>>> names = {f"base_model.model.h.0.q.lora_{half}.weight": ("F32", shape) for half, shape in (("A", (2, 6)), ("B", (8, 2)))}
>>> found = AdapterOutline(record, names)
>>> list(found.modules), found.of("h.0.q").layout
(['h.0.q'], Layout(embedding=False, experts=1, out=(8,), into=(6,)))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdk.formats.adapter_files import base_module, lora_key
from sdk.lora.experts import MAX_EXPERTS, OwnedParameters
from sdk.lora.module_scales import ModuleScale, ModuleScales, ScalesError
from sdk.schemas.lora_config import LoraConfig

Shape = tuple[int, ...]
#: The type's name in safetensors.
Kind = tuple[str, Shape]


class OutlineError(ValueError):
    """A module's A and B aren't factors of one product; the message is a clause."""


@dataclass(frozen=True)
class Layout:
    """The dimensions of a module's A and B, whatever their rank."""

    embedding: bool
    experts: int
    #: B's shape without the rank: (out), followed by ones for a convolution.
    out: Shape
    #: A's shape without the rank: (in), followed by the kernel for a convolution.
    into: Shape

    def __str__(self) -> str:
        """The text for messages."""
        of = "×".join(map(str, (*self.out, *self.into)))
        return f"of {of} for each of {self.experts} experts" if self.experts > 1 else f"of {of}"


@dataclass(frozen=True)
class ModuleOutline:
    """One module: how its tensors are read, and their names."""

    layout: Layout
    scale: ModuleScale
    a: str
    b: str
    #: B's own bias.
    bias: str | None


class AdapterOutline:
    """The modules of an adapter. Raises OutlineError for patterns that can't be tried."""

    def __init__(self, lora: LoraConfig, tensors: Mapping[str, Kind]) -> None:
        self.lora = lora
        self._tensors = tensors
        self._parameters = OwnedParameters(lora.target_parameters, lora.target_modules)
        #: Part to the name of its tensor, by module.
        self.modules: dict[str, dict[str, str]] = {}
        #: Tensors other than A, B and B's bias, by name.
        self.whole: dict[str, Kind] = {}
        for name, kind in tensors.items():
            key = lora_key(name)
            if key is None or key.part == "magnitude_vector":
                self.whole[name] = kind
            else:
                self.modules.setdefault(key.module, {})[key.part] = name
        try:
            self._scales = ModuleScales(lora)
        except ScalesError as error:
            raise OutlineError(str(error)) from error

    @property
    def dtypes(self) -> set[str]:
        """The types of A and B."""
        return {self._tensors[name][0] for parts in self.modules.values() for name in parts.values()}

    def parameters_of(self, module: str) -> list[str]:
        """Return the full names of the parameters that a module's A and B may belong to; none if they are the module's own."""
        return self._parameters.of(base_module(module))

    def of(self, module: str) -> ModuleOutline:
        """Return a module. Raises OutlineError if A and B have no product, or if their number of experts can't be
        determined.
        """
        parts = self.modules[module]
        embedding = "embedding_A" in parts
        name_a, name_b = (parts.get(f"embedding_{half}" if embedding else half) for half in "AB")
        if name_a is None or name_b is None:
            raise OutlineError(f"{module} has only one of A and B")
        a, b = self._tensors[name_a][1], self._tensors[name_b][1]
        if not (len(a) == len(b) >= 2 and b[1] == a[0] and set(b[2:]) <= {1}):
            raise OutlineError(
                f"{module} has A of {list(a)} and B of {list(b)}, as a grouped convolution has them, which have no product"
            )
        try:
            scale = self._scales.of(module, width=a[0])
        except ScalesError as error:
            raise OutlineError(str(error)) from error
        if scale is None:
            raise OutlineError(f"{module} holds stacked experts, and the rank of each can't be told")
        if scale.experts > MAX_EXPERTS:
            raise OutlineError(f"{module} holds {scale.experts} experts, and at most {MAX_EXPERTS} can be read")
        return ModuleOutline(
            Layout(embedding, scale.experts, (b[0], *b[2:]), a[1:]), scale, name_a, name_b, parts.get("B.bias")
        )
