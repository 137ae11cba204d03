"""Sets, shows and ends policies. A policy is never changed: each setting appends a version, and so does a removal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.db.statements import put
from registry.db.stored_json import view_of
from registry.db.types import db_now
from registry.errors import Conflict, InvalidName, NotFound
from registry.principal import EVERYWHERE, Principal
from registry.promotion.generations import hold_alone, raise_generation, scopes_of
from registry.promotion.models import Policy
from registry.promotion.policies.finding import document_of, newest
from registry.usage.charging import charge, record_bytes
from sdk.formats.refs import BadNameError, parse_alias, parse_scope
from sdk.schemas.promotion import PolicyDocument, PolicyRemoval, PolicySetting, PolicyView
from sdk.schemas.wire import digest_of

#: How many policies one namespace may have, of its adapters and of itself; and all together that are for all.
MOST_POLICIES = 1000


class Policies:
    """The service over the table of policies."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def set(self, *, setting: PolicySetting, who: Principal) -> PolicyView:
        """Append a version of the policy of a scope for an alias; the document that stands changes nothing.

        Raises Forbidden unless the caller administers the scope, Conflict if the policy has another version than `expect`
        or the namespace too many, Invalid for what nothing can pass.
        """
        namespace = require_admin(setting.scope, who)
        document = setting.policy
        with self._db.write() as session:
            # First, so that moves that are under way end before, and later ones read what is written here.
            hold_alone(session, setting.scope)
            raise_generation(session, setting.scope)
            last = _last(session, setting.scope, document.alias)
            digest = digest_of(document.model_dump(mode="json"))
            if last is not None and last.document is not None and last.digest == digest:
                return self._view(session, last, who)
            _compare(setting, last)
            row = _append(session, setting.scope, document.alias, namespace, document, last, who)
            _require_few(session, namespace)
            return self._view(session, row, who)

    def list(
        self, *, scope: str | None = None, alias: str | None = None, who: Principal, **page: Unpack[Paging]
    ) -> Paged[PolicyView]:
        """The policies that stand and that the caller may see, by alias; with `scope`, those that hold for what is in it."""
        query = newest().where(Policy.document.is_not(None), who.within(Policy.namespace))
        if scope is not None:
            query = query.where(Policy.scope.in_(_wider(scope)))
        if alias is not None:
            query = query.where(Policy.alias == alias)
        with self._db.read() as session:

            def views(rows: Sequence[Policy]) -> list[PolicyView]:
                return [self._view(session, row, who) for row in rows]

            return page_of(
                session,
                query,
                Policy.alias,
                Policy.scope,
                views=views,
                oldest_first=True,
                weight=Policy.record_bytes,
                **page,
            )

    def history(self, *, scope: str, alias: str, who: Principal, **page: Unpack[Paging]) -> Paged[PolicyView]:
        """All versions of a policy, newest first. Raises NotFound if there never was one that the caller may see."""
        _checked(scope, alias)
        with self._db.read() as session:
            query = select(Policy).where(Policy.scope == scope, Policy.alias == alias, who.within(Policy.namespace))
            if session.scalars(query.limit(1)).first() is None:
                raise _none(scope, alias)

            def views(rows: Sequence[Policy]) -> list[PolicyView]:
                return [self._view(session, row, who) for row in rows]

            return page_of(session, query, Policy.version, views=views, weight=Policy.record_bytes, **page)

    def remove(self, *, removal: PolicyRemoval, who: Principal) -> None:
        """End a policy; its history stays. Raises Forbidden, NotFound."""
        namespace = require_admin(removal.scope, who)
        with self._db.write() as session:
            hold_alone(session, removal.scope)
            raise_generation(session, removal.scope)
            last = _last(session, removal.scope, removal.alias)
            if last is None or last.document is None:
                raise _none(removal.scope, removal.alias)
            _append(session, removal.scope, removal.alias, namespace, None, last, who)

    def _view(self, session: Session, row: Policy, who: Principal) -> PolicyView:
        document = None if row.document is None else document_of(row.document, row.scope, row.alias)
        return view_of(PolicyView, row, policy=document, hidden=0, loosened=[], notes=[])


def namespace_of_scope(scope: str) -> str:
    """Return whose a scope is: a namespace, "-" for the name of an adapter without one, "*" for all."""
    return EVERYWHERE if scope == "*" else scope.rpartition("/")[0] or "-"


def require_admin(scope: str, who: Principal) -> str:
    """Return the namespace of a scope that the caller administers. Raises NotFound, Forbidden."""
    namespace = namespace_of_scope(scope)
    who.require("admin", namespace, missing=f"there is nothing under {scope!r} that this token may see")
    return namespace


def _append(
    session: Session,
    scope: str,
    alias: str,
    namespace: str,
    document: PolicyDocument | None,
    last: Policy | None,
    who: Principal,
) -> Policy:
    stored: dict[str, Any] | None = None if document is None else document.model_dump(mode="json")
    loosened: list[Any] = []
    size_bytes = record_bytes(stored, loosened)
    row = Policy(
        scope=scope,
        alias=alias,
        version=1 if last is None else last.version + 1,
        namespace=namespace,
        document=stored,
        digest=digest_of(stored),
        loosened=loosened,
        created_by=who.name,
        created_at=db_now(session),
        record_bytes=size_bytes,
    )
    put(session, row)
    charge(session, namespace, records=size_bytes)
    before = None if last is None or last.document is None else {"version": last.version, "digest": last.digest}
    after = {"version": row.version, "digest": row.digest}
    action = "policy.remove" if document is None else "policy.set"
    record(session, who, action, namespace, f"{scope}@{alias}", before=before, after=after)
    return row


def _last(session: Session, scope: str, alias: str) -> Policy | None:
    return session.scalars(newest().where(Policy.scope == scope, Policy.alias == alias)).first()


def _compare(setting: PolicySetting, last: Policy | None) -> None:
    version = 0 if last is None or last.document is None else last.version
    if setting.expect is not None and setting.expect != version:
        raise Conflict(
            f"the policy of {setting.scope} for {setting.policy.alias} has version {version or 'none'}, not {setting.expect}; "
            f"look at it with: adapterctl policy show {setting.scope}",
            param="expect",
        )


def _require_few(session: Session, namespace: str) -> None:
    rows = newest().where(Policy.namespace == namespace, Policy.document.is_not(None)).limit(MOST_POLICIES + 1)
    if (session.scalar(select(func.count()).select_from(rows.subquery())) or 0) > MOST_POLICIES:
        raise Conflict(
            f"there are {MOST_POLICIES} policies in {namespace!r} already; set one for all adapters of the namespace, or "
            "remove some: adapterctl policy rm",
            param="scope",
        )


def _wider(scope: str) -> tuple[str, ...]:
    """The scopes whose policies hold for all that is in a scope. Raises InvalidName."""
    _checked(scope)
    if scope == EVERYWHERE:
        return (EVERYWHERE,)
    return tuple(dict.fromkeys(scopes_of(scope, namespace_of_scope(scope))))


def _checked(scope: str, alias: str | None = None) -> None:
    try:
        parse_scope(scope)
        if alias is not None:
            parse_alias(alias)
    except BadNameError as error:
        raise InvalidName(str(error), param="scope") from None


def _none(scope: str, alias: str) -> NotFound:
    return NotFound(
        f"there is no policy of {scope} for {alias}; see those that there are with: adapterctl policy show",
        param="alias",
    )
