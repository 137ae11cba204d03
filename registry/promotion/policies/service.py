"""Sets, shows and ends policies. A policy is never changed: each setting appends a version, and so does a removal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.access.tokens import with_present_roles
from registry.datasets.models import Dataset
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.db.statements import put
from registry.db.types import db_now
from registry.errors import Conflict, InvalidName, NotFound
from registry.principal import EVERYWHERE, Principal
from registry.promotion.generations import hold_alone, raise_generation, scopes_of
from registry.promotion.models import Policy
from registry.promotion.policies.checking import exact
from registry.promotion.policies.columns import PolicyColumns
from registry.promotion.policies.finding import document_of, newest
from registry.promotion.policies.keys import checked_keys
from registry.promotion.policies.loosening import loosened
from registry.promotion.policies.showing import TriesOf, shown
from registry.usage.charging import charge, record_bytes
from sdk.formats.refs import BadNameError, parse_alias, parse_scope
from sdk.schemas.policies import PolicyDocument, PolicyRemoval, PolicySetting, PolicyView
from sdk.schemas.wire import digest_of

#: How many policies one namespace may have, of its adapters and of itself; and all together that are for all.
MOST_POLICIES = 1000
#: How many are shown on one page.
MOST_SHOWN = 100
#: How often a change is tried while others change the same policy.
_ATTEMPTS = 5


class Policies:
    """The service over the table of policies."""

    def __init__(
        self,
        db: Database,
        *,
        embedded: bool = False,
        counts_tokens: bool = True,
        tries_of: TriesOf | None = None,
        columns: PolicyColumns | None = None,
        most: int = MOST_POLICIES,
    ) -> None:
        """`counts_tokens` is for registries whose callers have tokens; `tries_of` counts who was judged by some rows, and
        `columns` looks at what rows have.
        """
        self._db = db
        #: Whether the scorers of this environment are those of the workers.
        self._embedded = embedded
        self._most = most
        self._columns = columns
        self._notes: dict[str, Any] = {"counts_tokens": counts_tokens, "tries_of": tries_of}

    def set(self, *, setting: PolicySetting, who: Principal) -> PolicyView:
        """Append a version of the policy of a scope for an alias; the document that stands changes nothing.

        Raises Forbidden unless the caller administers the scope, Conflict if the policy has another version than `expect`
        or the namespace too many, Invalid for what nothing can pass, NotFound for what it names and there is not.
        """
        namespace = require_admin(setting.scope, who)
        with self._db.read() as session:
            document = exact(
                session, setting.policy, scope=setting.scope, namespace=namespace, who=who, embedded=self._embedded
            )
            named = Dataset.digest.in_({rule.data for rule in document.require if rule.by or rule.cluster})
            sizes = dict(session.execute(select(Dataset.digest, Dataset.size_bytes).where(named)).all())
        if self._columns is not None and sizes:
            self._columns.require(document, sizes)
        if document.signed_by is not None:
            document = document.model_copy(update={"signed_by": checked_keys(document.signed_by)})
        # What was checked is now written otherwise, and must be readable again.
        document = PolicyDocument.model_validate(document.model_dump(mode="json"))
        pk = self._change(setting.scope, document.alias, document, setting.expect, namespace, who)
        adapter = None if "*" in setting.scope else setting.scope
        with self._db.read() as session:
            return shown(session, [session.get_one(Policy, pk)], who, adapter=adapter, **self._notes)[0]

    def _change(
        self,
        scope: str,
        alias: str,
        document: PolicyDocument | None,
        expect: int | None,
        namespace: str,
        who: Principal,
    ) -> int:
        """Append a version, with how it asks for less than the last one, and return its key, or that of the same document
        that stands already.

        Raises Conflict for another version than expected, or if others change it all the time, NotFound for a removal of
        nothing.
        """
        stored = None if document is None else document.model_dump(mode="json")
        digest = digest_of(stored)
        for _ in range(_ATTEMPTS):
            with self._db.read() as session:
                last = _last(session, scope, alias)
            before = None if last is None or last.document is None else document_of(last)
            if document is None and before is None:
                raise _none(scope, alias)
            if last is not None and before is not None and last.digest == digest:
                return last.pk
            _compare(scope, alias, expect, 0 if last is None or before is None else last.version)
            # Comparing may take longer than others should wait.
            loosenings = [] if before is None else loosened(before, document)
            size_bytes = record_bytes(stored, loosenings)
            with self._db.write() as session:
                # First, so that of two that change it at once the second sees what the first has written.
                hold_alone(session, scope)
                # Checking may take seconds, in which the caller's token may have been revoked.
                require_admin(scope, with_present_roles(session, who))
                now = _last(session, scope, alias)
                if (None if now is None else now.pk) != (None if last is None else last.pk):
                    continue
                row = Policy(
                    scope=scope,
                    alias=alias,
                    version=1 if last is None else last.version + 1,
                    namespace=namespace,
                    document=stored,
                    digest=digest,
                    loosened=loosenings,
                    loosens=bool(loosenings),
                    created_by=who.name,
                    created_at=db_now(session),
                    record_bytes=size_bytes,
                )
                put(session, row)
                if document is not None:
                    _require_few(session, namespace, self._most)
                raise_generation(session, scope)
                charge(session, namespace, records=size_bytes)
                _audit(session, row, last, who)
                return row.pk
        raise Conflict(
            f"others are changing the policy of {scope} for {alias}; look at it with: adapterctl policy show {scope}"
        )

    def list(
        self, *, scope: str | None = None, alias: str | None = None, who: Principal, **page: Unpack[Paging]
    ) -> Paged[PolicyView]:
        """The policies that stand and that the caller may see, by alias; with `scope`, those that hold for what is in it, each
        with what to know of it. Raises InvalidName.
        """
        query = newest().where(Policy.document.is_not(None), who.within(Policy.namespace))
        adapter = None
        if scope is not None:
            query = query.where(Policy.scope.in_(_wider(scope)))
            adapter = None if "*" in scope or not who.may("read", namespace_of_scope(scope)) else scope
        if alias is not None:
            query = query.where(Policy.alias == alias)
        with self._db.read() as session:

            def views(rows: Sequence[Policy]) -> list[PolicyView]:
                return shown(session, rows, who, adapter=adapter, **self._notes)

            return page_of(
                session,
                query,
                Policy.alias,
                Policy.scope,
                views=views,
                oldest_first=True,
                weight=Policy.record_bytes,
                cursor=page.get("cursor"),
                limit=min(page.get("limit", MOST_SHOWN), MOST_SHOWN),
            )

    def history(self, *, scope: str, alias: str, who: Principal, **page: Unpack[Paging]) -> Paged[PolicyView]:
        """All versions of a policy, newest first. Raises InvalidName, NotFound if there never was one that the caller may
        see.
        """
        _checked(scope, alias)
        query = select(Policy).where(Policy.scope == scope, Policy.alias == alias, who.within(Policy.namespace))
        with self._db.read() as session:
            if session.scalars(query.limit(1)).first() is None:
                raise _none(scope, alias)

            def views(rows: Sequence[Policy]) -> list[PolicyView]:
                return shown(session, rows, who, notes=False)

            return page_of(
                session,
                query,
                Policy.version,
                views=views,
                weight=Policy.record_bytes,
                cursor=page.get("cursor"),
                limit=min(page.get("limit", MOST_SHOWN), MOST_SHOWN),
            )

    def remove(self, *, removal: PolicyRemoval, who: Principal) -> None:
        """End a policy; its history stays. Raises Forbidden, NotFound."""
        namespace = require_admin(removal.scope, who)
        self._change(removal.scope, removal.alias, None, None, namespace, who)


def namespace_of_scope(scope: str) -> str:
    """Return whose a scope is: a namespace, "-" for the name of an adapter without one, "*" for all."""
    return EVERYWHERE if scope == "*" else scope.rpartition("/")[0] or "-"


def require_admin(scope: str, who: Principal) -> str:
    """Return the namespace of a scope that the caller administers. Raises NotFound, Forbidden."""
    namespace = namespace_of_scope(scope)
    who.require("admin", namespace, missing=f"there is nothing under {scope!r} that this token may see")
    return namespace


def _audit(session: Session, row: Policy, last: Policy | None, who: Principal) -> None:
    before = None if last is None or last.document is None else {"version": last.version, "digest": last.digest}
    after = {"version": row.version, "digest": row.digest}
    if row.loosened:
        # How, only those may know who may read the rows.
        after["loosened"] = len(row.loosened)
    subject = f"{row.scope}@{row.alias}"
    if row.document is None:
        record(session, who, "policy.remove", row.namespace, subject, before=before, after=after)
    else:
        record(session, who, "policy.set", row.namespace, subject, before=before, after=after)


def _last(session: Session, scope: str, alias: str) -> Policy | None:
    return session.scalars(newest().where(Policy.scope == scope, Policy.alias == alias)).first()


def _compare(scope: str, alias: str, expect: int | None, version: int) -> None:
    if expect is not None and expect != version:
        raise Conflict(
            f"the policy of {scope} for {alias} has version {version or 'none'}, not {expect}; look at it with: "
            f"adapterctl policy show {scope}",
            param="expect",
        )


def _require_few(session: Session, namespace: str, most: int) -> None:
    rows = newest().where(Policy.namespace == namespace, Policy.document.is_not(None)).limit(most + 1)
    if (session.scalar(select(func.count()).select_from(rows.subquery())) or 0) > most:
        raise Conflict(
            f"there are {most} policies in {namespace!r} already; set one for all adapters of the namespace, or remove some: "
            "adapterctl policy rm",
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
        f"there is no policy of {scope} for {alias}; see those that there are with: adapterctl policy list",
        param="alias",
    )
