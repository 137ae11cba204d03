"""The rules."""

from __future__ import annotations

from collections.abc import Sequence

from sdk.schemas.advice import Advice
from sdk.schemas.looks import LookRecord
from sdk.schemas.series import Point
from sdk.schemas.version_records import TrainingRecord


def advice_of(record: TrainingRecord, points: Sequence[Point], looks: Sequence[LookRecord]) -> list[Advice]:
    return []
