"""Finds the versions that an adapter's retention rule doesn't keep, and deletes them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import ValidationError
from sqlalchemy import Select, exists, or_, select
from sqlalchemy.orm import Session

from registry.artifacts.stored_blobs import hold_access
from registry.catalog.models import Adapter, Alias, Version
from registry.catalog.versions.finding import exact_ref
from registry.catalog.versions.lifecycle import PULLABLE, VersionState
from registry.catalog.versions.served_probes import give_up_probes
from registry.catalog.versions.version_states import move_version
from registry.db.database import Database
from registry.errors import Unreadable
from registry.evaluations import rows
from registry.jobs.members import has_member_with
from registry.jobs.seen_rows import give_up_rows
from registry.principal import Principal
from registry.series.version_series import give_up_series
from sdk.schemas.removal import RetentionRule

_log = logging.getLogger(__name__)

#: How many versions are deleted in one transaction.
_BATCH = 100


class Outside(NamedTuple):
    """A version that its adapter's rule does not keep."""

    pk: int
    ref: str


def rule_of(adapter: Adapter) -> RetentionRule | None:
    """Return an adapter's rule, or None if all of its versions are kept.

    No part of it may be ignored, because that might be what keeps a version. Raises Unreadable.
    """
    try:
        return None if adapter.retention is None else RetentionRule.model_validate(adapter.retention)
    except ValidationError as error:
        raise Unreadable(
            f"the retention rule of {adapter.name} has a form that this release can't read; upgrade the registry, or set it again "
            f"with: adapterctl retention set {adapter.name}"
        ) from error


def _rule_to_apply(adapter: Adapter) -> RetentionRule | None:
    """Return an adapter's rule, or None if nothing should be deleted: there is no rule, or it can't be read."""
    try:
        return rule_of(adapter)
    except Unreadable as error:
        _log.warning("nothing is deleted: %s", error)
        return None


def find_outside(db: Database, *, now: datetime) -> list[Outside]:
    """Return the versions that no rule keeps, by adapter and number."""
    found = []
    for adapter_pk in _ruled(db):
        with db.read() as session:
            adapter = session.get_one(Adapter, adapter_pk)
            rule = _rule_to_apply(adapter)
            if rule is not None:
                versions = session.scalars(_outside(session, adapter, rule, now))
                found += [Outside(version.pk, exact_ref(version)) for version in versions]
    return found


def delete_outside(db: Database, *, now: datetime, who: Principal) -> list[str]:
    """Delete the versions that no rule keeps; return their refs, by adapter and number."""
    deleted: list[str] = []
    for adapter_pk in _ruled(db):
        while batch := _delete_some(db, adapter_pk, now, who):
            deleted += batch
    return deleted


def give_up(session: Session, version: Version) -> bool:
    """Give up what other rooms keep for a deleted version, whose namespace has no other one with the same bytes; return
    whether nothing there has these bytes any more: a member of a sweep may have kept them.
    """
    namespace, digest = version.adapter.namespace, version.digest
    give_up_series(session, version)
    give_up_probes(session, version)
    give_up_rows(session, version)
    if has_member_with(session, namespace, digest):
        return False
    rows.give_up(session, namespace, digest)
    return True


def _ruled(db: Database) -> Iterator[int]:
    """Yield the keys of the adapters that have a rule, one read at a time."""
    query = select(Adapter.pk).where(Adapter.retention.is_not(None)).order_by(Adapter.pk).limit(1)
    pk: int | None = 0
    while pk is not None:
        with db.read() as session:
            pk = session.scalars(query.where(Adapter.pk > pk)).first()
        if pk is not None:
            yield pk


def _delete_some(db: Database, adapter_pk: int, now: datetime, who: Principal) -> list[str]:
    with db.write() as session:
        adapter = session.get_one(Adapter, adapter_pk)
        rule = _rule_to_apply(adapter)
        if rule is None:
            return []
        found = session.scalars(_outside(session, adapter, rule, now).limit(_BATCH)).all()
        for digest in sorted({version.digest for version in found}):
            hold_access(session, digest)
        # While the adapter is locked, no alias moves and no version is added or removed.
        locked = select(Adapter).where(Adapter.pk == adapter_pk).with_for_update(key_share=True)
        adapter = session.scalars(locked.execution_options(populate_existing=True)).one()
        rule = _rule_to_apply(adapter)
        if rule is None:
            return []
        again = _outside(session, adapter, rule, now).where(Version.pk.in_([version.pk for version in found]))
        versions = session.scalars(again.execution_options(populate_existing=True)).all()
        for version in versions:
            reason = f"retention: {_words(rule)}"
            move_version(session, version, VersionState.DELETED, "delete", reason, who, on_deleted=give_up)
        return [exact_ref(version) for version in versions]


def _outside(session: Session, adapter: Adapter, rule: RetentionRule, now: datetime) -> Select[Version]:
    aliased = exists().where(Alias.version_pk == Version.pk)
    query = select(Version).where(Version.adapter_pk == adapter.pk, Version.state.in_(PULLABLE), ~aliased)
    if rule.keep_days is not None:
        query = query.where(Version.created_at <= now - timedelta(days=rule.keep_days))
    if rule.keep_last is not None:
        ready = select(Version.number).where(Version.adapter_pk == adapter.pk, Version.state == VersionState.READY)
        first_kept = session.scalar(ready.order_by(Version.number.desc()).offset(rule.keep_last - 1).limit(1)) or 0
        query = query.where(or_(Version.state != VersionState.READY, Version.number < first_kept))
    return query.order_by(Version.number)


def _words(rule: RetentionRule) -> str:
    parts = []
    if rule.keep_last is not None:
        parts.append(f"the newest {rule.keep_last}")
    if rule.keep_days is not None:
        parts.append(f"{rule.keep_days} days")
    return f"keeps {' or '.join(parts)}"
