"""A training that continues a version starts with the version's matrices, but with its own optimiser, rates and rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import LoraConfig
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.model.adapters import fill, mismatch, peft_config_of
from workers.pipelines.model.trained_whole import compare_with_this


def require_same_config(parent: Path, lora: LoraConfig) -> None:
    """Raise PipelineError ("adapter") if the config in the parent's folder has another scale or variant than the training."""
    theirs = peft_config_of(parent)
    pairs = {
        "r": (theirs.r, lora.rank),
        "lora_alpha": (theirs.lora_alpha, lora.alpha),
        "use_rslora": (bool(theirs.use_rslora), lora.use_rslora),
        "use_dora": (bool(theirs.use_dora), lora.use_dora),
        "rank_pattern": (theirs.rank_pattern or {}, lora.rank_pattern),
        "alpha_pattern": (theirs.alpha_pattern or {}, lora.alpha_pattern),
        "bias": (theirs.bias, lora.bias),
    }
    for name, (found, ours) in pairs.items():
        if found != ours:
            raise PipelineError(
                FailureReason.ADAPTER,
                f"The version to continue has {name} {found} in its {CONFIG_FILE}, and the training {ours}; leave that option out.",
            )


def require_moved(tensors: Mapping[str, Any], parent: Path) -> None:
    """Raise PipelineError ("untrained") if a training has left every matrix as in the parent."""
    stored = load_file(parent / WEIGHTS_FILE)
    if all(
        bool((tensor.to("cpu", stored[name].dtype) == stored[name]).all())
        for name, tensor in tensors.items()
        if name in stored
    ):
        raise PipelineError(
            FailureReason.UNTRAINED,
            "The training has left every matrix of the version that it continues as it was, so nothing was learnt; raise lr or the"
            " number of steps.",
        )


def compare_with_parent(model: Any, parent: Path) -> None:
    """Use the parent as the reference for preferences; the fresh PeftModel stays as it is. Raises PipelineError ("adapter")."""
    trained = [each for each in model.parameters() if each.requires_grad]
    fresh = [each.detach().clone() for each in trained]
    load_parent(model, parent)
    compare_with_this(model)
    for parameter, data in zip(trained, fresh, strict=True):
        parameter.data = data


def load_parent(model: Any, parent: Path) -> None:
    """Fill each matrix of a fresh PeftModel, in float32, from the parent's file. Raises PipelineError ("adapter")."""
    said = f"The {WEIGHTS_FILE} of the version to continue can't be read; push it again."
    with named(FailureReason.ADAPTER, said, OSError, SafetensorError):
        stored = load_file(parent / WEIGHTS_FILE)
    tensors = partial(get_peft_model_state_dict, save_embedding_layers=False)
    matrices = tensors(model)
    if stored.keys() != matrices.keys():
        raise mismatch(stored.keys() - matrices.keys(), matrices.keys() - stored.keys())
    for name, matrix in matrices.items():
        if matrix.shape != stored[name].shape:
            raise PipelineError(
                FailureReason.ADAPTER,
                f"{name} of the version to continue is {tuple(stored[name].shape)}, and the training's {tuple(matrix.shape)}; leave out"
                " what says another rank.",
            )
    fill(model, stored, tensors)
