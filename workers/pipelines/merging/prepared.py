"""Everything that a merge knows before it reads weights, and the digest by which a later run recognises it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE, base_module
from sdk.formats.canonical_json import digest_of
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, ModuleValues
from sdk.schemas.failures import FailureReason
from workers.pipelines.data.digests import file_digest
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.changes import Changes, LowRank, low_rank
from workers.pipelines.merging.plan import MergedTensor, ResolvedMerge
from workers.pipelines.merging.stored_base import StoredBase
from workers.pipelines.model.dtype_names import DtypeName

if TYPE_CHECKING:
    from workers.pipelines.merging.writing import WrittenRows

#: The version of the files written for a plan: a run of another release must not resume from them.
_FORMAT = 2


@dataclass(frozen=True)
class Prepared:
    """Everything that a merge must know before it reads weights."""

    base: StoredBase
    changes: Changes
    written: tuple[MergedTensor, ...]
    target: ResolvedMerge
    config: dict[str, Any]
    #: The precision in the merged model's config.
    dtype: DtypeName
    #: SHA-256 of the plan, by which a later run recognises its own files.
    digest: str
    #: Whether each changed tensor is a whole matrix with one product added, which needs no torch.
    is_plain: bool = False

    def blocks(self) -> WrittenRows:
        """Return the object that computes the rows of the tensors."""
        if self.is_plain:
            from workers.pipelines.merging.plain_blocks import PlainBlocks

            return PlainBlocks(self.base, self.changes)
        from workers.pipelines.merging.blocks import Blocks

        return Blocks(self.base, self.changes, self.written, self.target.recipe)

    def adapted(self) -> Iterator[tuple[str, LowRank]]:
        """Yield the parameters and the products that are added to them."""
        for parameter, changes in self.changes.by_parameter.items():
            for change in changes:
                if isinstance(change, LowRank):
                    yield parameter, change


def prepared(
    base: Path,
    adapter: Path,
    stored: StoredBase,
    changes: Changes,
    written: Sequence[MergedTensor],
    target: ResolvedMerge,
    *,
    config: dict[str, Any],
    dtype: DtypeName,
) -> Prepared:
    """Return a plan with its digest, which also covers the base's files and the adapter's."""
    known = {
        "format": _FORMAT,
        "tensors": [_described(each) for each in written],
        "changes": {name: [repr(change) for change in given] for name, given in changes.by_parameter.items()},
        "config": config,
        "recipe": None if target.recipe is None or target.onto == "original" else target.recipe.model_dump(mode="json"),
        "base": {file: _identity(base / file) for file in stored.headers},
        "adapter": {name: file_digest(adapter / name) for name in (CONFIG_FILE, WEIGHTS_FILE)},
    }
    return Prepared(stored, changes, tuple(written), target, config, dtype, digest_of(known))


def _described(written: MergedTensor) -> list[Any]:
    """Return a tensor's part of the plan's digest, including its parameters' changes."""
    plain = [getattr(written, each.name) for each in fields(written) if each.name not in ("grid", "windows")]
    windows = [
        [getattr(window, each.name) for each in fields(window) if each.name != "changes"] for window in written.windows
    ]
    return [*plain, asdict(written.grid), windows]


def _identity(path: Path) -> list[int]:
    """Return what distinguishes a base's file from another that replaced it."""
    said = path.stat()
    return [said.st_size, said.st_mtime_ns]


#: The budget for trying patterns on names: the largest adapters take a tenth of it.
_PATTERN_STEPS = 100_000_000


def require_scales(adapter: Path, changes: Changes) -> None:
    """Raise PipelineError ("adapter") if a module's scale is not α/r, or α/√r, with its config's values.

    PEFT derives a module's scale from patterns that may be expressions; if one is misread, the update has the wrong size,
    which the written bytes can't show. So it is computed a second time, from the adapter's own config and matrices, and
    doesn't use `sdk.lora.module_scales` on purpose.
    """
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
