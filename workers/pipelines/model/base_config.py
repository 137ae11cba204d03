"""The config in a base's folder, and how the weights are packed according to it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from sdk.formats.base_files import CONFIG_FILE
from sdk.lora.stored_quantization import StoredQuantizationError, stored_recipe
from sdk.lora.tensors import open_file
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.references import require_self_contained

#: Implementations of attention in torch itself; for others transformers may fetch code.
_OWN_ATTENTION = ("eager", "sdpa")


def read_packing(base: Path) -> QuantizationRecipe | None:
    """Return how a base stored in 4 bits is packed. Raises PipelineError ("base") for bases that are quantised otherwise."""
    require_self_contained(base)
    try:
        config = json.loads((base / CONFIG_FILE).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise _unreadable(error) from error
    with stored_quantization_named():
        return stored_recipe(config) and stored_recipe(config, _tensor_names(base))


def _tensor_names(base: Path) -> Iterator[str]:
    for path in sorted(base.glob("*.safetensors")):
        yield from open_file(path, any_dtype=True).header.shapes()


@contextlib.contextmanager
def stored_quantization_named() -> Iterator[None]:
    """Return a PipelineError that says what can't be done over a base because of its quantisation."""
    try:
        yield
    except StoredQuantizationError as error:
        raise PipelineError(
            FailureReason.BASE if error.param == "base" else FailureReason.SPEC, f"The base {error}."
        ) from error


def read_config(base: Path) -> Any:
    """Return the config of a base, with an implementation of attention that is chosen here, not by the base."""
    require_self_contained(base)
    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(error) from error
    # None lets the library choose what the model supports, also in the parts of a config.
    said = config._attn_implementation
    config._attn_implementation = said if said in _OWN_ATTENTION else None
    if hasattr(config, "_experts_implementation"):
        config._experts_implementation = None
    return config


def _unreadable(error: Exception) -> PipelineError:
    return PipelineError(
        FailureReason.BASE, f"The base's {CONFIG_FILE} can't be read ({first_line(error)}); check its folder."
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
