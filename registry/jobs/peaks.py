"""How much memory trainings took compared with their forecasts, and what is learnt from that for each device.

Both numbers are what the worker that trained said. Those who may read the jobs may read them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.jobs.models import Job, Peak
from registry.principal import Principal
from sdk.schemas.planning import LEAST_JOBS, DeviceForecasts, JobPeak
from sdk.schemas.version_records import TrainingRecord

#: How many of the last jobs count for each device: libraries and forecasts change.
_LAST = 100
_MOST_BYTES, _MOST_S = 2**62, 10.0**9
_MOST_ROWS = 5000


def note_peak(session: Session, job_id: str, metrics: Mapping[str, Any], record: TrainingRecord) -> None:
    """Keep what a training says it took and was forecast to take; nothing if it doesn't say both."""
    forecast, measured = (_count(metrics.get(name)) for name in ("forecast_bytes", "peak_memory_bytes"))
    device = record.device_name
    if not forecast or not measured or device is None:
        return
    train_s = metrics.get("train_s")
    session.merge(
        Peak(
            job_id=job_id,
            device=device[:100],
            forecast_bytes=forecast,
            measured_bytes=measured,
            parameters=_count(metrics.get("base_parameters")),
            # If a training continued from a checkpoint, both are over all of its processes.
            tokens=_count(metrics.get("tokens")),
            train_s=train_s if isinstance(train_s, float) and 0 < train_s < _MOST_S else None,
        )
    )


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and math.isfinite(value) and 0 < value < _MOST_BYTES else None


def peak_of(session: Session, job: Job, who: Principal) -> JobPeak | None:
    """Return what a job took, with what was learnt about its device; None if nobody has said it."""
    row = session.get(Peak, job.id)
    if row is None:
        return None
    learnt = next((found for found in learnt_forecasts(session, who, device=row.device)), None)
    return JobPeak(
        device=row.device, forecast_bytes=row.forecast_bytes, measured_bytes=row.measured_bytes, learnt=learnt
    )


def learnt_forecasts(session: Session, who: Principal, *, device: str | None = None) -> list[DeviceForecasts]:
    """Return what share of their forecasts the last jobs of each device took, among those that the caller may read.

    Devices with too few jobs are left out.
    """
    query = select(Peak).join(Job, Job.id == Peak.job_id).where(who.within(Job.namespace))
    if device is not None:
        query = query.where(Peak.device == device)
    by_device: dict[str, list[Peak]] = {}
    for row in session.scalars(query.order_by(Peak.at.desc(), Peak.job_id).limit(_MOST_ROWS)):
        of_device = by_device.setdefault(row.device, [])
        if len(of_device) < _LAST:
            of_device.append(row)
    return [_learnt(name, rows) for name, rows in sorted(by_device.items()) if len(rows) >= LEAST_JOBS]


def _learnt(device: str, rows: Sequence[Peak]) -> DeviceForecasts:
    ratios = [row.measured_bytes / row.forecast_bytes for row in rows]
    speeds = [
        row.parameters * row.tokens / row.train_s for row in rows if row.parameters and row.tokens and row.train_s
    ]
    return DeviceForecasts(
        device=device,
        jobs=len(rows),
        ratio=statistics.median(ratios),
        spread=statistics.pstdev(ratios),
        parameter_tokens_per_s=statistics.median(speeds) if len(speeds) >= LEAST_JOBS else None,
    )
