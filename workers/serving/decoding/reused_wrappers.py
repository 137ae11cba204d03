"""What PEFT made of an adapter, used again for the next one with the same settings and tensors of the same shapes.

Versions of one adapter mostly differ in their numbers alone, and PEFT takes half a second of processor to wrap 210 modules for each.
Which tensor of the file belongs where is read off what PEFT itself has loaded.
"""

from __future__ import annotations

import copy
import json
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.lora.tensors import Tensor, open_file
from workers.pipelines.model.torch_tensors import as_torch
from workers.serving.decoding.grafts import ALONE, matrices_of

#: Settings that say where an adapter comes from, and nothing of what it is.
_ORIGIN = frozenset({"base_model_name_or_path", "peft_version", "revision"})


def shape_of(folder: Path) -> tuple[str, dict[str, tuple[str, tuple[int, ...]]]]:
    """Return all that decides how PEFT wraps an adapter, by its folder: its settings, and what tensors it has."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    settings = {name: value for name, value in config.items() if name not in _ORIGIN}
    tensors = open_file(folder / WEIGHTS_FILE).tensors()
    return json.dumps(settings, sort_keys=True), {
        name: (each.dtype, tuple(each.shape)) for name, each in tensors.items()
    }


class _Place(NamedTuple):
    """Where a tensor of the file is: a table of a wrapper, and the parameter of what is in it; None: the table's own."""

    table: Any
    parameter: str | None


class ReusedWrappers:
    """A tree of modules with an adapter that PEFT has loaded, which others of the same shape may take the place of."""

    def __init__(self, folder: Path, loaded: Any) -> None:
        """`loaded` is PEFT's model of the adapter in a folder; what `take` does to it is nobody else's."""
        self.model = loaded.get_base_model()
        #: Whose matrices it has.
        self.folder = folder
        self._loaded, self._shape = loaded, shape_of(folder)

    def fits(self, folder: Path) -> bool:
        """Whether PEFT would wrap the adapter in a folder just so."""
        return shape_of(folder) == self._shape and bool(self._places)

    @cached_property
    def _places(self) -> dict[str, _Place]:
        """Where each tensor of a file is; none of them unless that is clear of each."""
        from peft import get_peft_model_state_dict

        at: dict[int, list[tuple[_Place, Any]]] = {}
        for table, parameter, tensor in matrices_of(self.model):
            at.setdefault(tensor.data_ptr(), []).append((_Place(table, parameter), tensor))
        places = {}
        with warnings.catch_warnings():
            # Of tensors that it has loaded itself.
            warnings.simplefilter("ignore")
            named = get_peft_model_state_dict(self._loaded, save_embedding_layers=False)
        for name, tensor in named.items():
            here = at.pop(tensor.data_ptr(), [])
            if len(here) != 1 or here[0][1].shape != tensor.shape or here[0][1].stride() != tensor.stride():
                return {}
            places[name] = here[0][0]
        return {} if at else places

    def take(self, folder: Path) -> None:
        """Put the adapter in a folder, which fits, in the place of the one before, whose matrices stay as they are."""
        self.folder, tensors = folder, open_file(folder / WEIGHTS_FILE).tensors()
        made: dict[int, Any] = {}
        for name, place in self._places.items():
            before = place.table[ALONE]
            if place.parameter is None:
                place.table[ALONE] = _filled(before, tensors[name])
                continue
            if id(place.table) not in made:
                module = made[id(place.table)] = copy.copy(before)
                module.__dict__ = {**before.__dict__, "_parameters": dict(before.__dict__["_parameters"])}
                place.table[ALONE] = module
            module = made[id(place.table)]
            setattr(module, place.parameter, _filled(getattr(before, place.parameter), tensors[name]))


def _filled(before: Any, tensor: Tensor) -> Any:
    """Return a parameter of a file's numbers, of the type and on the device of another of the same shape."""
    made = torch.empty_like(before, requires_grad=False)
    made.copy_(as_torch(tensor))
    return torch.nn.Parameter(made, requires_grad=False)
