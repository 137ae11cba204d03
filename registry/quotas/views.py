"""Quotas."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from registry.http.routes import Admin, Reader, room, service
from registry.quotas.service import Quotas
from sdk.schemas.access import QuotaLimits, QuotaView

router = room("/quotas", "people")

QuotasDep = Annotated[Quotas, service(Quotas)]

Namespace = Annotated[
    str,
    Query(
        max_length=64,
        description='A namespace, "-" for names without one, "*" for all without limits of their own.',
        examples=["team"],
    ),
]


@router.get("")
def get_quota(quotas: QuotasDep, who: Reader, namespace: Namespace = "-") -> QuotaView:
    """The limits of a namespace, and how much of them is used."""
    return quotas.get(namespace, who=who)


@router.put("")
def set_quota(body: QuotaLimits, quotas: QuotasDep, who: Admin, namespace: Namespace = "-") -> QuotaView:
    """Set the limits of a namespace; a limit that is left out is lifted."""
    return quotas.set(namespace, limits=body, who=who)
