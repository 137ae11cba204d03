"""An adapter's wrappers around a base's modules, kept for the next adapter of the same form: then only its matrices are read.

PEFT takes a tenth of a second to wrap a small model's modules, and reads the same weights into the same places.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.lora.tensors import open_file
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import peft_config_of
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
