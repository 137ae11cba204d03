"""The curves of jobs and versions: their series, and what their records say about the best look at held-out rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sdk.api import versions
from sdk.errors import InvalidInput, NotFound
from sdk.names import parse_ref_or_member
from sdk.objects import Registry
from sdk.plotting.curves import HELD_OUT, LOSS, NORM, RATE, Curve
from sdk.schemas.jobs import JobView
from sdk.schemas.series import Series
from sdk.schemas.version_records import TrainingRecord

_KEYS = (LOSS, RATE, NORM, HELD_OUT)
#: As the registry makes the ids of jobs. An adapter that is called so is meant by NAME@latest.
_JOB = re.compile(r"[0-9a-f]{12}")
#: What the loss of an objective counts; that of the others is in no unit.
_UNITS = {"sft": "nats per token"}


def curves_of(registry: Registry, of: str | Sequence[str]) -> list[Curve]:
    """Return the curve of each job's id or version's ref. Raises InvalidInput, InvalidName, InvalidRef, NotFound."""
    each = [of] if isinstance(of, str) else list(of)
    if (twice := next((one for one in each if each.count(one) > 1), None)) is not None:
        raise InvalidInput(f"{twice[:200]} is given twice; name each job or version once", param="of")
    return [_of_job(registry, one) if _JOB.fullmatch(one) else _of_version(registry, one) for one in each]


def curve_of_job(registry: Registry, view: JobView) -> Curve:
    """Return the curve of a job as far as it is. Raises NotFound."""
    made = (view.result or {}).get("ref") if view.kind == "training" else None
    record = dict(view.request.get("spec") or {})
    if made is not None:
        # The version may be gone by now.
        with suppress(NotFound):
            record = dict(registry.get(made).info.training or {})
    return _curve(f"{view.id} {made or view.subject}", registry.jobs.series(view.id, keys=_KEYS), record)


def _of_job(registry: Registry, job: str) -> Curve:
    return curve_of_job(registry, registry.jobs.view(job))


def _of_version(registry: Registry, ref: str) -> Curve:
    parse_ref_or_member(ref)
    found = registry.get(ref)
    return _curve(
        found.ref, versions.series(registry.transport, found.ref, keys=_KEYS), dict(found.info.training or {})
    )


def _curve(name: str, series: Series, record: dict[str, Any]) -> Curve:
    read = TrainingRecord.read(record)
    # Only what was kept is recorded; what was best otherwise is seen in the series.
    kept = read.flat().get("best_step")
    kept = kept if isinstance(kept, int) else None
    held_out = series.series.get(HELD_OUT)
    best = kept
    if best is None and held_out is not None and held_out.step:
        lowest = min(range(len(held_out.step)), key=held_out.min.__getitem__)
        # A last look that is the best needs no mark.
        best = held_out.step[lowest] if lowest < len(held_out.step) - 1 else None
    return Curve(name, series, best, kept is not None, _UNITS.get(read.objective or "", ""))
