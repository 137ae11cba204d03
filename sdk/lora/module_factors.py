"""The factors of every module of an adapter in a folder, read one after the other."""

from __future__ import annotations

from pathlib import Path

from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.lora.factors import Factors, of_each_expert
from sdk.lora.module_outlines import AdapterOutline, ModuleOutline
from sdk.lora.tensors import open_tensors
from sdk.schemas.lora_config import LoraConfig


class AdapterFactors:
    """An adapter's tensors by its outline; `lora` is the record of its configuration.

    Raises VerificationFailed for a file that isn't an adapter's, OutlineError.
    """

    def __init__(self, folder: Path, lora: LoraConfig) -> None:
        self._file = open_tensors(folder / WEIGHTS_FILE)
        kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in self._file.tensors.items()}
        self.outline = AdapterOutline(lora, kinds)

    def of(self, module: ModuleOutline) -> list[Factors]:
        """Return the factors of each expert, or the one pair of a plain module, in float64 and without s."""
        b, a = (self._file.rows(self._file.tensors[name]).numbers() for name in (module.b, module.a))
        return of_each_expert(Factors(b.reshape(len(b), len(a)), a), module.layout.experts)

    def bias(self, module: ModuleOutline) -> Factors | None:
        """Return B's own bias as factors: a column (out, 1), times 1; None if it has none."""
        import numpy as np

        if module.bias is None:
            return None
        return Factors(self._file.rows(self._file.tensors[module.bias]).numbers(), np.ones((1, 1)))

    def bytes_of(self, name: str) -> bytes:
        """Return the bytes of a tensor."""
        tensor = self._file.tensors[name]
        return self._file.data[tensor.begin : tensor.end].tobytes()
