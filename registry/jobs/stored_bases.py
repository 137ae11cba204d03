"""Bases that are stored quantised are checked against what a job asks for when it is accepted."""

from __future__ import annotations

from collections.abc import Callable

from registry.errors import Invalid, InvalidBase
from registry.jobs.base_contents import BaseContents
from sdk.lora.stored_quantization import StoredQuantizationError, stored_recipe
from sdk.schemas.lora_config import QuantizationRecipe


def require_fitting(base: BaseContents | None, fits: Callable[[QuantizationRecipe | None], None]) -> bool:
    """Return whether a base is stored in 4 bits, after `fits` has checked the request against how it is stored.

    `fits` raises StoredQuantizationError. If nobody has registered the base yet, the worker will find out. Raises
    InvalidBase for a base that can't be used at all, Invalid for a request that its weights don't allow.
    """
    if base is None:
        return False
    try:
        recipe = stored_recipe(base.config, base.tensors)
        fits(recipe)
    except StoredQuantizationError as error:
        refused = InvalidBase if error.param == "base" else Invalid
        raise refused(f"base {base.id} {error}", param=error.param) from error
    return recipe is not None
