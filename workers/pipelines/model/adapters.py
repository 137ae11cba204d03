"""An adapter's two files: written canonically, read with a check that they reach the model."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sdk.formats.peft_config import MAX_CONFIG_BYTES, hazard
from sdk.schemas.failures import FailureReason
from sdk.schemas.training import LoraConfig
from workers.pipelines.errors import PipelineError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_OS_ERROR = re.compile(r"\(os error ([0-9]{1,4})\)")


def write_adapter(
    out: Path,
    *,
    tensors: dict[str, Any],
    lora: LoraConfig,
    base_name: str,
    base_revision: str | None,
    fan_in_fan_out: bool,
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, and nothing else, into `out`.

    Equal arguments give equal bytes: lists and keys are sorted, and no path, time or library version is written.
    `tensors` are stored in float32 under PEFT's own keys.
    """
    config = {
        "alpha_pattern": dict(lora.alpha_pattern),
        "auto_mapping": None,
        "base_model_name_or_path": base_name,
        "bias": lora.bias,
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": lora.init,
        "layers_pattern": None,
        "layers_to_transform": None,
        # vLLM reads alpha as a whole number wherever it is one.
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "modules_to_save": sorted(lora.modules_to_save) or None,
        "peft_type": "LORA",
        "r": lora.rank,
        "rank_pattern": dict(lora.rank_pattern),
        "revision": base_revision,
        "target_modules": sorted(lora.target_modules),
        "task_type": lora.task_type,
        "use_dora": lora.use_dora,
        "use_rslora": lora.use_rslora,
    }
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    (out / CONFIG_NAME).write_bytes(text.encode("utf-8"))
    stored = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
    save_tensors(stored, out / WEIGHTS_NAME)


def save_tensors(tensors: dict[str, Any], path: Path) -> None:
    """Write tensors of the CPU as safetensors. Raises OSError where the disk is full."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # The library only writes out the error of the system.
        if said := _OS_ERROR.search(str(error)):
            number = int(said[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def load_adapter(model: Any, adapter: Path) -> Any:
    """Return a PeftModel of `model` with the adapter of a folder, in evaluation mode, its matrices in float32.

    PEFT only warns when keys match nothing and then leaves the fresh, ineffective matrices in place. Here each
    tensor of the file must reach the model and each matrix of the model must come from the file, else PipelineError
    ("adapter"), as is a config that PEFT should not be given.
    """
    from peft import PeftModel, get_peft_model_state_dict

    try:
        with (adapter / CONFIG_NAME).open("rb") as config:
            said = hazard(config.read(MAX_CONFIG_BYTES + 1))
    except OSError as error:
        raise PipelineError(
            FailureReason.ADAPTER, f"The adapter's {CONFIG_NAME} can't be read; push the adapter again."
        ) from error
    if said:
        # It was stored before the registry refused it.
        raise PipelineError(
            FailureReason.ADAPTER,
            f"The adapter's {CONFIG_NAME} is not given to PEFT, for {said}; push the adapter again with: adapterctl push"
            " --expand-patterns.",
        )
    try:
        with warnings.catch_warnings():
            # What PEFT warns of is checked below, and is an error.
            warnings.simplefilter("ignore")
            peft_model = PeftModel.from_pretrained(model, adapter, local_files_only=True)
            wanted = set(get_peft_model_state_dict(peft_model))
        with safe_open(adapter / WEIGHTS_NAME, framework="pt") as file:
            found = set(file.keys())
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise PipelineError(
            FailureReason.ADAPTER, f"The adapter can't be loaded on this base ({first}); check that it was made for it."
        ) from error
    if wanted != found:
        odd = sorted(wanted ^ found)
        raise PipelineError(
            FailureReason.ADAPTER,
            f"{len(found - wanted)} tensors of the adapter reach no module of this base and {len(wanted - found)} of"
            f" its matrices are missing (first: {odd[0]}); check the base and the key prefix.",
        )
    return peft_model.eval()


def zero_matrices(tensors: dict[str, Any]) -> list[str]:
    """Return the sorted names of the B matrices that are all zero, and so change nothing."""
    return sorted(name for name, tensor in tensors.items() if "lora_B" in name and not bool(tensor.any()))
