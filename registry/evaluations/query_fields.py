"""The query field that asks for the scores of others."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

ScoresOf = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=64,
        description="Take the scores that jobs of this namespace made; `*`: of all that you may read, the newest first. Without it, a version's scores are those that its own namespace made.",
        examples=["team"],
    ),
]
