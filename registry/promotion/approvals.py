"""Approvals of versions for an alias, vetoes, and their withdrawal. Each says what stands then; whether it counts is found
out when the alias is to move.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, Unpack

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.catalog.models import Adapter, Version
from registry.catalog.versions.finding import exact_ref, find_adapter, find_version
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.db.stored_json import view_of
from registry.db.types import db_epoch_s, utc_now
from registry.errors import Conflict, Forbidden, NotFound
from registry.principal import Principal
from registry.promotion.counted_approvals import ACTION, ApprovalCount, as_given, people_of
from registry.promotion.generations import raise_generation
from registry.promotion.makers import makers_of, makers_of_all
from registry.promotion.models import Approval
from registry.promotion.policies.finding import policies_digest, protected_aliases, require_seen, standing
from registry.promotion.question import StandingPolicy
from registry.usage.charging import charge, record_bytes
from sdk.formats.refs import Ref
from sdk.formats.visible_labels import same_label
from sdk.schemas.approvals import ApprovalRequest, ApprovalView
from sdk.schemas.policies import seconds_of

#: How many are shown on one page: for each, its alias's policies and who made its version are looked up.
MOST_SHOWN = 100


class Approvals:
    """The service over the table of approvals. Every change raises the adapter's generation."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def give(self, *, request: ApprovalRequest, who: Principal, policies: str | None = None) -> ApprovalView:
        """Approve a version for an alias, or veto it; what the same token has given and still stands is returned again.

        With the digest of the `policies` that the caller has seen to stand, it is refused if others do. A veto takes the place
        of the caller's own approval. Raises NotFound, also for what is deleted or in quarantine;
        Forbidden without the role, or for an approval of one's own work; Conflict if no policy asks for approvals, if tokens
        don't tell people apart here, or if the caller's veto stands; the commit may raise QuotaExceeded.
        """
        with self._db.write() as session:
            version = find_version(session, Ref(request.adapter, f"v{request.number}"), who, action=ACTION, lock=True)
            raise_generation(session, version.adapter.name)
            stands = standing(session, version.adapter.name, version.adapter.namespace, request.alias)
            require_seen(stands, policies, f"{version.adapter.name}@{request.alias}")
            _require_asked(request, stands)
            if request.kind == "approve":
                _require_other(session, request, version, who)
            digest = policies_digest(stands)
            row = _present(session, request, version, digest, _shortest_age(stands), who)
            if row is None:
                row = _add(session, request, version, digest, who)
            return _views(session, version.adapter, [row])[0]

    def withdraw(self, *, ident: str, who: Principal) -> ApprovalView:
        """Withdraw an approval or a veto; repeating it is harmless.

        Raises NotFound, Forbidden unless it is the caller's own, also by an earlier token of the same name, or the caller is an
        admin of its namespace.
        """
        with self._db.write() as session:
            row = session.get(Approval, ident)
            adapter = None if row is None else session.get_one(Adapter, row.adapter_pk)
            if row is None or adapter is None or not who.may("read", adapter.namespace):
                raise NotFound(
                    f"there is no approval {ident!a}; list those of an adapter with: adapterctl approvals NAME",
                    param="id",
                )
            own = row.owner == who.owner or same_label(row.created_by) == same_label(who.name)
            if not who.may("admin", adapter.namespace) and not (own and who.may(ACTION, adapter.namespace)):
                raise Forbidden(
                    f"{row.created_by} has given this; ask them, or an admin of the namespace, to withdraw it",
                    param="id",
                )
            find_adapter(session, adapter.name, who, lock=True)
            raise_generation(session, adapter.name)
            session.refresh(row)
            if row.withdrawn_at is None:
                row.withdrawn_at = utc_now()
                before = {"kind": row.kind, "by": row.created_by, "digest": row.digest}
                record(session, who, "alias.withdraw", adapter.namespace, f"{adapter.name}@{row.alias}", before=before)
            return _views(session, adapter, [row])[0]

    def list(self, *, adapter: str, alias: str | None, who: Principal, **page: Unpack[Paging]) -> Paged[ApprovalView]:
        """The approvals and vetoes of an adapter, or of one alias, newest first. Raises InvalidName, NotFound."""
        with self._db.read() as session:
            found = find_adapter(session, adapter, who)
            query = select(Approval).where(Approval.adapter_pk == found.pk)
            if alias is not None:
                query = query.where(Approval.alias == alias)
            return page_of(
                session,
                query,
                Approval.created_at,
                Approval.id,
                views=lambda rows: _views(session, found, rows),
                cursor=page.get("cursor"),
                limit=min(page.get("limit", MOST_SHOWN), MOST_SHOWN),
            )

    def judged(self, *, adapter: str, who: Principal) -> Sequence[str]:
        """The aliases of an adapter for which a policy stands, by name. Raises InvalidName, NotFound."""
        with self._db.read() as session:
            found = find_adapter(session, adapter, who)
            return sorted(protected_aliases(session, found.name, found.namespace))


def _require_asked(request: ApprovalRequest, policies: Sequence[StandingPolicy]) -> None:
    """Raise Conflict for what nobody would look at."""
    name = f"{request.adapter}@{request.alias}"
    if not policies:
        raise Conflict(
            f"{name} has no policy, so nobody would look at this; set one with: adapterctl policy set {request.adapter} FILE",
            param="alias",
        )
    if request.kind == "approve" and not any(policy.document.approvals for policy in policies):
        raise Conflict(
            f"no policy of {name} asks for approvals, so this one would not count; see: adapterctl policy show {request.adapter}",
            param="alias",
        )


def _require_other(session: Session, request: ApprovalRequest, version: Version, who: Principal) -> None:
    """Raise Conflict without a token, Forbidden for one's own work."""
    if who.token_id is None:
        raise Conflict(
            "approvals are counted by token, and this registry asks for none, so all would be one person's; serve it with "
            "tokens, or leave approvals out of the policy",
        )
    if makers_of(session, version.digest, version.adapter.namespace).include(who.owner, who.name):
        raise Forbidden(
            f"{who.name} trained or pushed {exact_ref(version)}, and nobody approves their own work; ask somebody else to: "
            f"adapterctl approve {exact_ref(version)} --for {request.alias}"
        )


def _present(
    session: Session, request: ApprovalRequest, version: Version, digest: str, age: str | None, who: Principal
) -> Approval | None:
    """Return what the caller has given already; withdraw an approval that a veto takes the place of. Raises Conflict."""
    mine = (Approval.adapter_pk == version.adapter_pk, Approval.alias == request.alias, Approval.owner == who.owner)
    query = select(Approval).where(*mine, Approval.digest == version.digest, Approval.withdrawn_at.is_(None))
    query = query.order_by(Approval.created_at_s.desc(), Approval.id)
    veto = session.scalars(query.where(Approval.kind == "disapprove")).first()
    if request.kind == "disapprove":
        if veto is None:
            for approval in session.scalars(
                query.where(Approval.kind == "approve", Approval.policies_digest == digest)
            ):
                approval.withdrawn_at = utc_now()
        return veto
    if veto is not None:
        raise Conflict(
            f"{who.name} has disapproved {exact_ref(version)} for {request.alias}; withdraw that first with: "
            f"adapterctl disapprove {exact_ref(version)} --for {request.alias} --withdraw"
        )
    fresh = query.where(Approval.kind == "approve", Approval.policies_digest == digest)
    if age is not None:
        fresh = fresh.where(Approval.created_at_s > db_epoch_s() - seconds_of(age))
    return session.scalars(fresh).first()


def _add(session: Session, request: ApprovalRequest, version: Version, digest: str, who: Principal) -> Approval:
    adapter = version.adapter
    row = Approval(
        id=secrets.token_hex(8),
        adapter_pk=adapter.pk,
        alias=request.alias,
        digest=version.digest,
        number=request.number,
        kind=request.kind,
        reason=request.reason,
        owner=who.owner,
        token_id=who.token_id,
        created_by=who.name,
        policies_digest=digest,
        created_at_s=db_epoch_s(),
        record_bytes=record_bytes(request.reason),
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    charge(session, adapter.namespace, records=row.record_bytes)
    named = f"{adapter.name}@{request.alias}"
    after = {"ref": exact_ref(version), "digest": version.digest, "reason": request.reason}
    if request.kind == "approve":
        record(session, who, "alias.approve", adapter.namespace, named, after=after)
    else:
        record(session, who, "alias.disapprove", adapter.namespace, named, after=after)
    return row


def _shortest_age(policies: Sequence[StandingPolicy]) -> str | None:
    """After how long the first policy no longer counts an approval; None: none says so."""
    ages = [policy.document.approval_age for policy in policies if policy.document.approvals]
    return min((age for age in ages if age is not None), key=seconds_of, default=None)


class _Standing(NamedTuple):
    """What stands for an alias."""

    digest: str
    #: The shortest of its policies.
    age: str | None


def _views(session: Session, adapter: Adapter, rows: Sequence[Approval]) -> list[ApprovalView]:
    """Return approvals as sent over the API; each as it would count for whoever else moved the alias now."""
    now_s = session.execute(select(db_epoch_s())).scalar_one()
    people = people_of(session, [row.token_id for row in rows], adapter.namespace, now_s)
    makers = makers_of_all(session, {row.digest for row in rows}, adapter.namespace)
    stands: dict[str, _Standing] = {}
    for alias in {row.alias for row in rows}:
        policies = standing(session, adapter.name, adapter.namespace, alias)
        stands[alias] = _Standing(policies_digest(policies), _shortest_age(policies))
    shown = []
    for row in rows:
        under = stands[row.alias]
        rule = ApprovalCount(under.digest, makers[row.digest], people, adapter.namespace, now_s, under.age)
        void = rule.void(as_given(row)) if row.kind == "approve" else None
        ends = None
        if row.kind == "approve" and under.age is not None:
            ends = row.created_at + timedelta(seconds=seconds_of(under.age))
        shown.append(
            view_of(
                ApprovalView,
                row,
                adapter=adapter.name,
                ref=f"{adapter.name}@v{row.number}",
                void="it was withdrawn" if row.withdrawn_at is not None else void,
                expires_at=ends,
            )
        )
    return shown
