"""Sets quotas, and says how much of them is used."""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.db.database import Database
from registry.db.statements import upsert
from registry.db.types import utc_now
from registry.errors import InvalidName
from registry.jobs.service import unfinished
from registry.principal import EVERYWHERE, Principal
from registry.usage.charging import BYTES, COUNTED
from registry.usage.limits import Limits, default_limits
from registry.usage.models import Quota, Usage
from sdk.formats.refs import BadNameError, parse_namespace
from sdk.schemas.access import QuotaLimits, QuotaView


class Quotas:
    """The service over the table of quotas."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, namespace: str, *, who: Principal) -> QuotaView:
        """The limits of a namespace, and what is used. Raises InvalidName, NotFound."""
        _check(namespace, who, "read")
        with self._db.read() as session:
            return _present(session, namespace)

    def set(self, namespace: str, *, limits: QuotaLimits, who: Principal) -> QuotaView:
        """Limit a namespace from now on, or with "*" every namespace without limits of its own; what exists already
        stays.

        Raises InvalidName, Forbidden: only admins of all may.
        """
        _check(namespace, who, "read")
        who.require_everywhere("admin")
        with self._db.write() as session:
            before = _present(session, namespace).model_dump(include=set(QuotaLimits.model_fields))
            values = limits.model_dump()
            upsert(session, Quota, {"namespace": namespace}, {**values, "updated_at": utc_now()})
            record(session, who, "quota.set", namespace, namespace, before=before, after=values)
            session.flush()
            session.expire_all()
            return _present(session, namespace)


def _check(namespace: str, who: Principal, action: str) -> None:
    if namespace not in ("-", EVERYWHERE):
        try:
            parse_namespace(namespace)
        except BadNameError as error:
            raise InvalidName(
                f"{error}; '-' for names without one, or '*' for all without limits of their own", param="namespace"
            ) from None
    who.require(action, namespace, missing=f"there is no namespace {namespace!r} that this token may see")


def _present(session: Session, namespace: str) -> QuotaView:
    own = session.get(Quota, namespace)
    row = own or session.get(Quota, EVERYWHERE)
    limits = (
        default_limits(session)
        if row is None
        else Limits(row.max_adapters, row.max_bytes, row.max_jobs, row.max_record_bytes)
    )
    row_used = session.get(Usage, namespace)
    # Until the next count sets a wrong sum right, nobody is shown less than nothing.
    used = {name: 0 if row_used is None else max(0, getattr(row_used, name)) for name in COUNTED}
    return QuotaView(
        namespace=namespace,
        **limits._asdict(),
        default=own is None and limits != Limits(),
        size_bytes=sum(used[name] for name in BYTES),
        jobs=unfinished(session, namespace),
        **used,
    )
