"""The audit of a training's rows: the log names the kinds of findings, and the record has their numbers of rows."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from sdk.formats.columns import parse_columns
from sdk.rows.audit import audit_rows
from sdk.schemas.events import Progress
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.mixing import Mixture


def audit(
    data: Path | Mixture, eval_data: Path | None, spec: TrainingSpec, on_progress: Callable[[Progress], None]
) -> dict[str, int]:
    """Return how many rows have faults, by kind, and log it. If disk or memory lack room, the audit is skipped."""
    on_progress(Progress(phase="data", message="auditing rows"))
    keys = None if spec.columns is None else parse_columns(spec.columns)
    try:
        audited = audit_rows(
            data.files if isinstance(data, Mixture) else data,
            label="",
            columns=keys,
            held_out=eval_data,
            hold_out=spec.hold_out,
            most_examples=1,
        )
    except (OSError, MemoryError) as error:
        why = "the memory is too small" if isinstance(error, MemoryError) else error.strerror or error
        on_progress(Progress(phase="data", message=f"the rows were not audited: {why}"))
        return {}
    found = {finding.kind: finding.rows for finding in audited.findings}
    if found:
        said = ", ".join(f"{kind} {rows}" for kind, rows in found.items())
        on_progress(
            Progress(
                phase="data",
                message=f"audit of the rows: {said}; see which with: adapterctl data check{_options(spec)}",
            )
        )
    return {str(kind): rows for kind, rows in found.items()}


def _options(spec: TrainingSpec) -> str:
    """Return the training's options for reading rows, as `data check` takes them."""
    given = {"columns": spec.columns} if spec.columns is not None else {}
    return "".join(
        f" --{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in {**given, **spec.of_holdout}.items()
    )
