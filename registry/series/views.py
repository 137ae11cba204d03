"""Series of trainings: from the workers that run them, and for readers."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import TypeAdapter

from registry.errors import Invalid
from registry.http.routes import Reader, WorkerToken, apart, room, service, written
from registry.principal import Principal
from registry.series.reading import SeriesReading
from registry.series.storing import StoredSeries
from sdk.schemas.series import MOST_BUCKETS, MOST_JOBS, MOST_SERIES, SentPoints, Series, StoredPoints

router = room("", "jobs")

StoredDep = Annotated[StoredSeries, service(StoredSeries)]
ReadingDep = Annotated[SeriesReading, service(SeriesReading)]

JobId = Annotated[str, Path(max_length=64)]
Count = Annotated[
    int | None,
    Query(ge=1, le=MOST_BUCKETS, description="How many buckets a series has at most; left out: all that are stored."),
]
Keys = Annotated[
    str | None,
    Query(max_length=2_100, description="Which series, between commas; left out: all.", examples=["loss,lr"]),
]
_MANY = TypeAdapter(list[Series])
#: Buckets of each series in one answer: those of 100 jobs in 200 each.
_MOST_BUCKETS = 20_000


@router.post("/jobs/{job_id}/series")
def append_points(job_id: JobId, body: SentPoints, stored: StoredDep, who: WorkerToken) -> StoredPoints:
    """Store what an attempt measured at each step; it replaces all that is stored of later steps."""
    return stored.append(job_id, sent=body, who=who)


@router.get("/jobs/{job_id}/series", response_model=Series)
def get_series(job_id: JobId, reading: ReadingDep, who: Reader, buckets: Count = None, keys: Keys = None) -> Response:
    """What a training measured, by step: the newest steps one by one, older ones in buckets."""
    return written(reading.of_job(job_id, buckets=buckets, keys=_names(keys), who=who), 200)


@router.get("/series", response_model=list[Series])
async def list_series(
    jobs: Annotated[
        str,
        Query(
            max_length=65 * MOST_JOBS,
            description=f"Up to {MOST_JOBS} ids, between commas.",
            examples=["3f1c2a9b7d20,5d0c1b2a3f4e"],
        ),
    ],
    reading: ReadingDep,
    who: Reader,
    buckets: Annotated[int, Query(ge=1, le=MOST_BUCKETS)] = 100,
    keys: Keys = None,
) -> Response:
    """The series of several trainings; those that don't exist, or that the caller may not see, are left out."""
    ids = [job for job in jobs.split(",") if job]
    if len(ids) > MOST_JOBS:
        raise Invalid(f"{len(ids)} jobs are more than the {MOST_JOBS} of one request; ask for fewer", param="jobs")
    if len(ids) * buckets > _MOST_BUCKETS:
        raise Invalid(
            f"{len(ids)} jobs with {buckets} buckets each are more than the {_MOST_BUCKETS:,} buckets of one request; ask for"
            f" {_MOST_BUCKETS // len(ids)} or fewer",
            param="buckets",
        )
    return await apart(
        _many, lane="reading long", reading=reading, ids=ids, buckets=buckets, keys=_names(keys), who=who
    )


def _many(
    *, reading: SeriesReading, ids: list[str], buckets: int, keys: frozenset[str] | None, who: Principal
) -> Response:
    found = reading.of_jobs(ids, buckets=buckets, keys=keys, who=who)
    return Response(_MANY.dump_json(found), media_type="application/json")


@router.get("/version/series", response_model=Series)
def get_version_series(
    ref: Annotated[str, Query(max_length=1000, examples=["team/code-review@production"])],
    reading: ReadingDep,
    who: Reader,
    buckets: Count = None,
    keys: Keys = None,
) -> Response:
    """What the training that made a version measured, by step, in few buckets; it is kept as long as the version."""
    return written(reading.of_version(ref, buckets=buckets, keys=_names(keys), who=who), 200)


def _names(keys: str | None) -> frozenset[str] | None:
    names = None if keys is None else frozenset(keys.split(","))
    if names is not None and len(names) > MOST_SERIES:
        raise Invalid(f"{len(names)} series are more than the {MOST_SERIES} of a training; ask for fewer", param="keys")
    return names
