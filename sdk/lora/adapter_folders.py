"""The configuration in an adapter's folder, read for exports: it is passed to no library, and nothing in it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdk.errors import InvalidInput, NotFound, VerificationFailed
from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.formats.peft_config import MAX_CONFIG_BYTES, Reason, examine


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of an adapter, each value of the kind that PEFT writes.

    Raises NotFound without it or the weights, VerificationFailed for one that is broken, InvalidInput for patterns that can't be tried.
    """
    path = folder / CONFIG_FILE
    if not path.is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise NotFound(
            f"{folder} has no {CONFIG_FILE} with {WEIGHTS_FILE} beside it; give the folder of an adapter",
            param="target",
        )
    with path.open("rb") as file:
        raw = file.read(MAX_CONFIG_BYTES + 1)
    try:
        config = json.loads(raw) if len(raw) <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise VerificationFailed(f"{path} is not the configuration of an adapter; save the adapter again with PEFT")
    for finding in examine(config):
        # This config is passed to no library, so keys that would run something do nothing here.
        if finding.reason is Reason.VALUE and finding.path != ("base_model_name_or_path",):
            raise VerificationFailed(
                f"{path}: {finding.key!a} is not {finding.wanted}; save the adapter again with PEFT"
            )
        if finding.reason is Reason.PATTERN:
            raise InvalidInput(
                f"{path}: {finding.key} has {finding.pattern!a}, which can't be tried: {finding.why}; push it with: "
                "adapterctl push --expand-patterns",
                param="target",
            )
    return config


def harmless(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without keys that could run something, name a path on a machine, or aren't settings of PEFT."""
    found = {finding.path[0] for finding in examine(config)}
    return {key: value for key, value in config.items() if key not in found}
