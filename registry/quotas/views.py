"""Quotas."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from registry.http.routes import Admin, Given, Reader, room
from sdk.schemas.people import QuotaLimits, QuotaView

router = room("/quotas", "people")

Namespace = Annotated[
    str,
    Query(
        max_length=64,
        description='A namespace, "-" for names without one, "*" for all without limits of their own.',
        examples=["team"],
    ),
]


@router.get("")
def get_quota(services: Given, who: Reader, namespace: Namespace = "-") -> QuotaView:
    """The limits of a namespace, and what is used of them."""
    return services.quotas.get(namespace, who=who)


@router.put("")
def set_quota(body: QuotaLimits, services: Given, who: Admin, namespace: Namespace = "-") -> QuotaView:
    """Set the limits of a namespace; those left out are none."""
    return services.quotas.set(namespace, limits=body, who=who)
