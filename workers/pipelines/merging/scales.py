"""The scale of each module, computed a second time from the adapter's own config and matrices, as in the registry.

PEFT derives a module's scale from patterns that may be expressions; if one is misread, the update has the wrong size,
which the written bytes can't show. So it doesn't use `sdk.lora.module_scales` on purpose.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sdk.formats.adapter_files import CONFIG_FILE, base_module
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, ModuleValues
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.changes import Changes, LowRank, low_rank

#: The budget for trying patterns on names: the largest adapters take a tenth of it.
_PATTERN_STEPS = 100_000_000


def require_scales(adapter: Path, changes: Changes) -> None:
    """Raise PipelineError ("adapter") if a module's scale is not α/r, or α/√r, with its config's values."""
    config: dict[str, Any] = json.loads((adapter / CONFIG_FILE).read_text(encoding="utf-8"))
    alpha = config.get("lora_alpha")
    try:
        alphas = ModuleValues(config.get("alpha_pattern") or {}, 8 if alpha is None else alpha, Budget(_PATTERN_STEPS))
        for parameter, given in changes.by_parameter.items():
            for change in low_rank(given):
                if not _agrees(change, parameter, alphas, by_root=bool(config.get("use_rslora"))):
                    raise PipelineError(
                        FailureReason.ADAPTER,
                        f"The adapter can't be merged exactly: PEFT scales {change.module} by {change.scale:g}, which is not what"
                        f" {CONFIG_FILE} says of it; serve the adapter with the release of PEFT that it was trained with.",
                    )
    except (ExpressionError, BudgetError) as error:
        raise PipelineError(
            FailureReason.ADAPTER,
            f"The adapter's alpha_pattern can't be tried ({error}); push it again with: adapterctl push --expand-patterns.",
        ) from error


def _agrees(change: LowRank, parameter: str, alphas: ModuleValues[float], *, by_root: bool) -> bool:
    rank = len(range(*change.a.rows))
    plain = base_module(change.module)
    # A parameter without a module of its own is matched by its own name.
    names = (plain, f"{plain}.{parameter.rpartition('.')[2]}")
    wanted = (alphas.of(name) / (math.sqrt(rank) if by_root else rank) for name in names)
    return any(math.isclose(change.scale, scale, rel_tol=1e-9) for scale in wanted)
