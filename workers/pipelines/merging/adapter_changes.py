"""What an adapter does to each parameter of a base, as PEFT itself says it of a model without weights.

PEFT decides which modules are adapted, with which scale and orientation; here its layers are only queried. Each tensor
of the adapter's file must be used, and each matrix that PEFT expects must be in the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Embedding, Linear, ParamWrapper
from peft.utils.other import TrainableTokensWrapper

from sdk.formats.adapter_files import WEIGHTS_FILE, base_module, base_parameter, lora_key, unwrapped
from sdk.formats.base_files import BadBaseError
from sdk.formats.peft_unusable import unusable
from sdk.formats.safetensors import SafetensorsError
from sdk.lora.adapter import AdapterError, grouped
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.merging.changes import AdapterRows, Changes, Factor, LowRank, Shift, Whole, inexact
from workers.pipelines.merging.peft_layers import (
    CONVOLUTIONS,
    embedding_names,
    laid_over,
    require_known,
    shapes_of,
)
from workers.pipelines.merging.pieces import Piece
from workers.pipelines.merging.placement import place, tied_groups
from workers.pipelines.merging.stored_base import StoredBase, open_files
from workers.pipelines.model.adapters import mismatch, peft_config_of, resize_vocabulary, tokens_of, unloadable


def read_changes(model: Any, adapter: Path) -> Changes:
    """Return what the adapter in a folder does to a model without weights; PEFT modifies that model.

    Raises PipelineError ("adapter") if a tensor is unused or missing, or can't be merged exactly.
    """
    config = peft_config_of(adapter)
    if said := unusable(config.to_dict()):
        raise PipelineError(FailureReason.ADAPTER, f"The adapter can't be merged: {said}.")
    said = f"The adapter's {WEIGHTS_FILE} can't be read ({{error}}); push the adapter again."
    with named(FailureReason.ADAPTER, said, OSError, BadBaseError, SafetensorsError):
        file = open_files(adapter, [WEIGHTS_FILE], any_dtype=False)
    shapes = {name: file.shape(name) for name in file.tensors}
    rows = resize_vocabulary(model, shapes, tokens_of(adapter, config))
    return _Reading(model, file, config, rows).run()


class _Reading:
    def __init__(self, model: Any, file: StoredBase, config: Any, vocabulary: int | None) -> None:
        modules = {name for name, _ in model.named_modules()}
        #: Tensors of modules that the model no longer has as such: single experts, and renamed modules.
        self._gone: dict[str, dict[str, str]] = {}
        self._parts: dict[str, dict[str, str]] = {}
        try:
            found, whole = grouped(file.tensors.values())
        except AdapterError as error:
            raise unloadable(str(error)) from error
        for name, module in found.items():
            into = self._parts if base_module(name) in modules else self._gone
            into[name] = {part: tensor.name for part, tensor in module.parts.items()}
        self._others = {key: unwrapped(base_parameter(key) or "") for key in whole}
        self._file, self._unused = file, set(file.tensors)
        shapes = {name: tuple(each.shape) for name, each in model.named_parameters(remove_duplicate=False)}
        self._changes = Changes(file, shapes, list(tied_groups(model)), vocabulary=vocabulary)
        self._pieces = self._placed(model)
        self._embeddings = embedding_names(model)
        self._peft = laid_over(model, config)
        self._missing: list[str] = []

    def run(self) -> Changes:
        wanted = set(get_peft_model_state_dict(self._peft, save_embedding_layers=False))
        plain = {unwrapped(base_parameter(key) or "") for key in wanted if not lora_key(key)}
        inner = self._peft.get_base_model()
        # First embeddings that PEFT saves unchanged, then modules trained whole, then added products.
        self._take_others(plain)
        for name, module in inner.named_modules():
            if isinstance(module, LoraLayer):
                self._take_layer(name, module)
        self._take_tokens(inner)
        self._missing += [key for key in wanted if not lora_key(key) and not self._has(key)]
        if self._unused or self._missing:
            raise mismatch(self._unused, self._missing)
        return self._changes

    def _has(self, key: str) -> bool:
        return unwrapped(base_parameter(key) or "") in self._others.values()

    def _placed(self, model: Any) -> dict[str, list[tuple[str, Piece]]]:
        """Return, for each parameter, the modules of the adapter that are part of it under another name, and where."""
        shapes = {
            f"{module}.weight": (self._file.shape(parts["B"])[0], self._file.shape(parts["A"])[1])
            for module, parts in self._gone.items()
            if {"A", "B"} == parts.keys()
            and len(self._file.shape(parts["A"])) == len(self._file.shape(parts["B"])) == 2
        }
        placed = place(model, shapes)
        found: dict[str, list[tuple[str, Piece]]] = {}
        for parameter, pieces in placed.pieces.items():
            found[parameter] = [(piece.source.removesuffix(".weight"), piece) for piece in pieces]
        return found

    def _take_others(self, plain: set[str]) -> None:
        """Collect what isn't a LoRA matrix: modules and biases trained whole, tokens, unchanged embeddings."""
        kept: dict[str, str] = {}
        for key, parameter in self._others.items():
            if parameter.endswith("trainable_tokens_delta"):
                continue
            if ".original_module." in key:
                # PEFT saves its bias, but uses the trained module instead.
                self._unused.discard(key)
            elif parameter in plain:
                self._require_shape(key, self._changes.shapes.get(parameter, ()))
                self._unused.discard(key)
                self._changes.add(parameter, Whole(key))
            elif parameter in self._embeddings and parameter in self._changes.shapes:
                kept[parameter] = key
        # PEFT fills a tied weight twice, so the copies must be the same.
        for parameter, key in kept.items():
            self._require_shape(key, self._changes.shapes[parameter])
            names = next((group for group in self._changes.tied if parameter in group), [parameter])
            first = next(kept[name] for name in names if name in kept)
            if key == first or self._file.bytes_of(key) == self._file.bytes_of(first):
                self._unused.discard(key)
                self._changes.by_parameter.setdefault(parameter, []).insert(0, Whole(first))
                for name in names:
                    if name not in kept:
                        self._changes.by_parameter.setdefault(name, []).insert(0, Whole(first))

    def _require_shape(self, key: str, wanted: Sequence[int]) -> None:
        """Raise PipelineError if a tensor has another shape than its place."""
        if self._file.shape(key) != tuple(wanted):
            raise unloadable(f"{key} is {list(self._file.shape(key))}, and the base wants {list(wanted)}")

    def _take_layer(self, name: str, layer: Any) -> None:
        """Collect the matrices of one of PEFT's layers."""
        (adapter,) = layer.scaling
        plain = base_module(name)
        require_known(plain, layer, adapter)
        stacked = isinstance(layer, ParamWrapper)
        parameter = f"{plain}.{layer.parameter_name if stacked else 'weight'}"
        parts = self._parts.get(name, {})
        if not parts and parameter in self._pieces:
            self._take_pieces(name, layer, parameter)
            return
        dora = adapter in layer.lora_variant
        embedding = isinstance(layer, Embedding)
        a, b = (parts.get(f"{'embedding_' if embedding else ''}{half}") for half in "AB")
        wanted = shapes_of(layer, adapter)
        for half, key in (("A", a), ("B", b)):
            if key is None:
                self._missing.append(f"{name}.lora_{half}")
            else:
                self._require_shape(key, wanted[half])
        magnitude = parts.get("magnitude_vector")
        if dora and magnitude is None:
            self._missing.append(f"{name}.lora_magnitude_vector")
        if a is None or b is None or (dora and magnitude is None):
            return
        if magnitude is not None and math.prod(self._file.shape(magnitude)) != wanted["B"][0]:
            raise unloadable(
                f"{magnitude} is {list(self._file.shape(magnitude))}, and the base has {wanted['B'][0]} outputs"
            )
        self._unused -= {a, b, *([magnitude] if dora else [])}
        across = embedding or (isinstance(layer, Linear) and layer.fan_in_fan_out)
        rank, scale = layer.r[adapter], float(layer.scaling[adapter])
        out, into = wanted["B"][0], math.prod(wanted["A"][1:])
        if stacked and layer.num_experts > 1:
            across = not layer._did_swap_in_out_features
            for expert in range(layer.num_experts):
                a_rows, b_columns = (
                    (expert * rank, (expert + 1) * rank, 1),
                    (expert, rank * layer.num_experts, layer.num_experts),
                )
                factors = Factor(b, (0, out, 1), b_columns), Factor(a, a_rows, (0, into, 1))
                self._changes.add(parameter, _full(name, expert, *factors, scale, across, out, into))
            return
        if stacked and len(self._changes.shapes[parameter]) != 2:
            raise inexact(parameter, "is a stack of a single expert")
        if isinstance(layer, CONVOLUTIONS):
            self._changes.flat.add(parameter)
        factors = Factor(b, (0, out, 1), (0, rank, 1)), Factor(a, (0, rank, 1), (0, into, 1))
        change = _full(name, None, *factors, scale, across, out, into)
        self._changes.add(parameter, replace(change, magnitude=magnitude if dora else None))
        self._take_bias(name, plain, layer, adapter)

    def _take_bias(self, name: str, plain: str, layer: Any, adapter: str) -> None:
        if not layer.lora_bias.get(adapter):
            return
        key, bias = self._parts[name].get("B.bias"), f"{plain}.bias"
        if bias not in self._changes.shapes:
            raise inexact(plain, "has no bias that lora_bias could be added to; train again without lora_bias")
        if key is None:
            self._missing.append(f"{name}.lora_B.bias")
            return
        self._require_shape(key, self._changes.shapes[bias])
        self._unused.discard(key)
        self._changes.add(bias, Shift(key, float(layer.scaling[adapter])))

    def _take_pieces(self, name: str, layer: Any, parameter: str) -> None:
        """Collect the matrices of single experts, each of which is a block of the parameter that a layer adapts."""
        (adapter,) = layer.scaling
        covered = 0
        for module, piece in self._pieces[parameter]:
            a, b = self._gone[module]["A"], self._gone[module]["B"]
            rank = self._file.shape(a)[0]
            if self._file.shape(b)[1] != rank:
                raise unloadable(f"{b} is {list(self._file.shape(b))}, and {a} is {list(self._file.shape(a))}")
            if layer.use_rslora[adapter] and layer.r[adapter] != rank:
                raise inexact(module, "is joined to others by PEFT, which scales rsLoRA by the rank of all of them")
            axes = [axis for axis in piece.axes if axis is not None]
            if piece.size[:-2] not in ((), (1,)) or sorted(axes) != [0, 1] or piece.axes[-2] is None:
                raise inexact(module, "is not a block of the base's parameter")
            across = piece.axes[-1] == 0
            # The block's place in B's rows and A's columns.
            out, into = (piece.source_begin[axis] for axis in (0, 1))
            long = {axis: piece.size[place] for place, axis in enumerate(piece.axes) if axis is not None}
            change = LowRank(
                module=module,
                plane=piece.begin[0] if len(piece.begin) == 3 else None,
                rows=(piece.begin[-2], piece.size[-2]),
                columns=(piece.begin[-1], piece.size[-1]),
                b=Factor(b, (out, out + long[0], 1), (0, rank, 1)),
                a=Factor(a, (0, rank, 1), (into, into + long[1], 1)),
                scale=float(layer.scaling[adapter]),
                across=across,
            )
            self._unused -= {a, b}
            self._changes.add(parameter, change)
            covered += math.prod(piece.size)
        if covered != math.prod(self._changes.shapes[parameter]):
            self._missing.append(f"{name}.lora_A")

    def _take_tokens(self, inner: Any) -> None:
        """Collect the rows of single tokens, also for a weight that is tied to the one that has them."""
        wrappers = {
            name: module for name, module in inner.named_modules() if isinstance(module, TrainableTokensWrapper)
        }
        of_adapter: dict[int, str] = {}
        for key, parameter in self._others.items():
            if not parameter.endswith("trainable_tokens_delta"):
                continue
            name = parameter.removesuffix(".trainable_tokens_delta").removesuffix(".token_adapter")
            if name in wrappers:
                self._unused.discard(key)
                of_adapter[id(wrappers[name].token_adapter)] = key
        for name, module in wrappers.items():
            tokens = module.token_adapter
            taken = of_adapter.get(id(tokens)) or of_adapter.get(id(tokens.tied_adapter))
            if taken is not None:
                (indices,) = tokens.token_indices.values()
                rows, width = self._changes.shapes[f"{name}.weight"]
                self._require_shape(taken, (len(indices), width))
                if not all(0 <= index < rows for index in indices) or len(set(indices)) < len(indices):
                    raise unloadable(f"trainable_token_indices name tokens that {name} has not, or one twice")
                self._changes.add(f"{name}.weight", AdapterRows(taken, tuple(indices)))


def _full(
    module: str, plane: int | None, b: Factor, a: Factor, scale: float, across: bool, out: int, into: int
) -> LowRank:
    """Return the change of a whole matrix, (out, in) or transposed."""
    rows, columns = (into, out) if across else (out, into)
    return LowRank(module, plane, (0, rows), (0, columns), b, a, scale, across)
