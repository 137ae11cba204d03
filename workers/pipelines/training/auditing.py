"""The audit of a training's rows: the log names the kinds of findings, and the record has their numbers of rows."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from sdk.formats.columns import parse_columns
from sdk.rows.audit import audit_rows
from sdk.rows.holdout import hold_out_of
from sdk.schemas.events import Progress
from sdk.schemas.training import TrainingSpec
from workers.pipelines.orders import TrainingOrder


def audit(order: TrainingOrder, report: Callable[[Progress], None]) -> dict[str, int]:
    """Return how many rows have faults, by kind, and report it. If disk or memory lack room, the audit is skipped."""
    spec = order.spec
    report(Progress(phase="data", message="auditing rows"))
    keys = None if spec.columns is None else parse_columns(spec.columns)
    try:
        audited = audit_rows(
            order.files,
            label="",
            columns=keys,
            held_out=order.eval_data,
            hold_out=hold_out_of(spec),
            most_examples=1,
        )
    except (OSError, MemoryError) as error:
        why = "the memory is too small" if isinstance(error, MemoryError) else error.strerror or error
        report(Progress(phase="data", message=f"the rows were not audited: {why}"))
        return {}
    found = {finding.kind: finding.rows for finding in audited.findings}
    if found:
        said = ", ".join(f"{kind} {rows}" for kind, rows in found.items())
        message = f"audit of the rows: {said}; see which with: adapterctl data check{_options(spec)}"
        report(Progress(phase="data", message=message))
    return {str(kind): rows for kind, rows in found.items()}


def _options(spec: TrainingSpec) -> str:
    """Return the training's options for reading rows, as `data check` takes them."""
    given = {
        "--columns": spec.columns,
        "--holdout": spec.holdout,
        "--holdout-by": spec.holdout_by,
        "--holdout-seed": spec.holdout_seed or None,
    }
    return "".join(f" {name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None)
