"""One base in memory for one adapter after the other; each finds it as it was loaded.

The wrappers of an adapter around the base's modules are kept for the next one of the same form: then only its matrices are read.
PEFT takes a tenth of a second to wrap a small model's modules, and reads the same weights into the same places.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.lora.tensors import open_file
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import load_adapter, peft_config_of, unload
from workers.pipelines.model.causality import fixed_texts, logits_of
from workers.pipelines.model.loading import LoadedBase
from workers.pipelines.model.torch_tensors import as_torch

#: Keys of a config that don't affect the model.
_UNREAD = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision")
#: With any of these an adapter is more than its matrices.
_MORE = (
    "alora_invocation_tokens",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
)
_MATRICES = ("lora_A.weight", "lora_B.weight")


@dataclass(frozen=True)
class KeptAdapter:
    """A PeftModel whose adapter can be removed and added by exchanging modules."""

    worn: Any
    model: Any
    peft_config: Any
    #: The config, without keys that don't affect the model.
    said: dict[str, Any]
    #: The matrices of the model by their names in a file.
    matrices: dict[str, Any]
    #: Module, the name of its child, and PEFT's wrapper around the child.
    places: Sequence[tuple[Any, str, Any]]

    @classmethod
    def of(cls, worn: Any, model: Any, adapter: Path) -> KeptAdapter | None:
        """Return the adapter in a folder that `model` has as the PeftModel `worn`; None for one that is more than its
        matrices.
        """
        from peft import get_peft_model_state_dict
        from peft.tuners.tuners_utils import BaseTunerLayer

        config = worn.peft_config[worn.active_adapter]
        # Loading sets this initialisation for all that don't change the base.
        if config.peft_type != "LORA" or config.bias != "none" or config.init_lora_weights is not True:
            return None
        if any(getattr(config, name, None) for name in _MORE):
            return None
        matrices = get_peft_model_state_dict(worn, save_embedding_layers=False)
        own = {parameter.data_ptr() for parameter in worn.parameters()}
        if not all(name.endswith(_MATRICES) and each.data_ptr() in own for name, each in matrices.items()):
            return None
        places = []
        for name, module in model.named_modules():
            if isinstance(module, BaseTunerLayer):
                parent, _, child = name.rpartition(".")
                places.append((model.get_submodule(parent), child, module))
        return cls(worn, model, model.peft_config, _said(adapter), matrices, places)

    def take_off(self) -> None:
        """Restore the base's own modules."""
        for parent, child, module in self.places:
            setattr(parent, child, module.get_base_layer())
        del self.model.peft_config

    def put_on(self, adapter: Path) -> Any | None:
        """Return the PeftModel with the matrices in another adapter's folder; None for one of another form, or an
        unreadable one.
        """
        try:
            peft_config_of(adapter)
            if _said(adapter) != self.said:
                return None
            read = open_file(adapter / WEIGHTS_FILE).tensors()
            if {name: each.shape for name, each in read.items()} != {
                name: tuple(each.shape) for name, each in self.matrices.items()
            }:
                return None
            with torch.no_grad():
                for name, each in read.items():
                    self.matrices[name].copy_(as_torch(each))
        except (OSError, ValueError, PipelineError):
            # Then it is loaded like any other, and the error says what is wrong.
            return None
        for parent, child, module in self.places:
            setattr(parent, child, module)
        self.model.peft_config = self.peft_config
        return self.worn


def _said(adapter: Path) -> dict[str, Any]:
    said = json.loads((adapter / CONFIG_FILE).read_text(encoding="utf-8"))
    found = {name: value for name, value in said.items() if name not in _UNREAD}
    if isinstance(targets := found.get("target_modules"), list):
        found["target_modules"] = sorted(targets)
    return found


#: What identifies a tensor of the base: name, type, shape, place in memory, and how often it was written to.
_Held = tuple[str, Any, tuple[int, ...], int, int]

_Read = TypeVar("_Read")


class SharedBase:
    """Bases that are loaded once for all adapters over them, one base at a time.

    Some adapters change the base itself: their initialisation (PiSSA, OLoRA), their biases or their vocabulary. So
    after removing each adapter, the bare base must have the same tensors and predict the same bit for bit; if it
    doesn't, it is loaded again.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._bare: _Bare | None = None
        #: The last adapter over it that consists only of its matrices.
        self._kept: KeptAdapter | None = None
        #: Whether the base was found to be as loaded, and no adapter was added since.
        self._untouched = False
        #: The folder that was read last, and each reader's result.
        self._folder: Path | None = None
        self._found: dict[object, Any] = {}
        #: How often a base was loaded.
        self.loads = 0

    def of_folder(self, base: Path, read: Callable[[Path], _Read]) -> _Read:
        """Return the result of `read` for a base's folder, cached until another folder is requested. Raises what `read`
        raises.
        """
        if self._folder != base:
            self._folder, self._found = base, {}
        if read not in self._found:
            self._found[read] = read(base)
        return cast("_Read", self._found[read])

    def tokenizer_of(self, base: Path, load: Callable[[Path], Any]) -> Any:
        """Return the tokenizer that `load` returns for a base's folder, cached as in `of_folder`; each caller gets a
        copy, and may set its chat template.
        """
        return copy.copy(self.of_folder(base, load))

    @contextmanager
    def wearing(
        self,
        adapter: Path | None,
        *,
        key: object,
        load: Callable[[], LoadedBase],
        logits: Callable[[Any, Any], Any] = logits_of,
    ) -> Iterator[tuple[LoadedBase, Any]]:
        """Yield the base that `load` returns, or that is held under `key`, and a model of it with the adapter in a
        folder, or bare.

        `logits` computes the model's logits for tokens, (batch, seq). Raises PipelineError for an adapter that does not
        fit, and what `load` raises.
        """
        bare = self._base(key, load, logits)
        model = bare.loaded.model
        self._untouched = False
        if adapter is None:
            yield bare.loaded, model
            return
        try:
            kept = self._kept
            worn = None if kept is None else kept.put_on(adapter)
            if worn is None:
                worn = load_adapter(model, adapter)
                kept = KeptAdapter.of(worn, model, adapter)
            yield bare.loaded, worn
        except BaseException:
            # An adapter that is only half added can't be removed.
            self._bare = self._kept = None
            raise
        if kept is None:
            _take_off(worn, model)
        else:
            kept.take_off()
            self._kept = kept

    def bare(self, *, key: object, load: Callable[[], LoadedBase], read: Callable[[Any], _Read]) -> _Read:
        """Return the result of `read` for the bare language model, cached as long as this base is held. Raises
        PipelineError.
        """
        bare = self._base(key, load, logits_of)
        if bare.read is None:
            bare.read = read(bare.loaded.model)
        return cast("_Read", bare.read)

    def _base(self, key: object, load: Callable[[], LoadedBase], logits: Callable[[Any, Any], Any]) -> _Bare:
        bare = self._bare
        if bare is None or key != self._key or not (self._untouched or bare.is_as_loaded()):
            # The previous one is freed first: two would not fit.
            self._bare = self._kept = bare = None
            loaded = load()
            self.loads += 1
            self._key, self._bare = key, (bare := _Bare(loaded, logits))
        self._untouched = True
        return bare


class _Bare:
    """A base as it was loaded."""

    def __init__(self, loaded: LoadedBase, logits: Callable[[Any, Any], Any]) -> None:
        self.loaded = loaded
        self._logits_of = logits
        self._texts = fixed_texts(loaded.model)[:1]
        self._logits = logits(loaded.model, self._texts)
        self._held = _held(loaded.model)
        #: Results for the bare base.
        self.read: object = None

    def is_as_loaded(self) -> bool:
        model = self.loaded.model
        return (
            hasattr(model, "peft_config") is False
            and _held(model) == self._held
            and torch.equal(self._logits_of(model, self._texts), self._logits)
        )


def _held(model: Any) -> list[_Held]:
    return [
        (name, tensor.dtype, tuple(tensor.shape), tensor.data_ptr(), tensor._version)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    ]


def _take_off(worn: Any, model: Any) -> None:
    """Remove an adapter from its base, as far as PEFT can; whether the base is as before is checked at its next use."""
    # If PEFT can't remove it, the base is loaded again.
    with suppress(AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        unload(worn)
    if hasattr(model, "peft_config"):
        # PEFT would add the next adapter to those that are still named here.
        del model.peft_config
