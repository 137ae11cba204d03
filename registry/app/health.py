"""Whether this process answers, and whether the parts that it depends on do.

The first must also be answered by a process whose threads all wait for a dead database, so it needs nothing.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from registry.app.readiness import Readiness
from registry.http.paths import HEALTHZ, READYZ
from registry.http.routes import operation_id, service
from sdk.version import VERSION

#: The routes that need no token.
router = APIRouter(tags=["health"], generate_unique_id_function=operation_id)


@router.get(HEALTHZ)
async def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok", "version": VERSION}


@router.get(READYZ, responses={503: {"description": "Database or storage can't be used."}})
async def readyz(readiness: Annotated[Readiness, service(Readiness)]) -> dict[str, str]:
    """Say whether database and storage can be used, as it was within the last second."""
    await readiness.require()
    return {"status": "ready", "version": VERSION}
