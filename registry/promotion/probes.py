"""Replays of versions' probes: what a version does to its base, measured again from its bytes and held against its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.catalog.models import Version
from registry.catalog.versions.finding import exact_ref, find_adapter, find_version, require_digest
from registry.catalog.versions.present import present
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.db.stored_json import view_of
from registry.db.types import utc_now
from registry.errors import Conflict, Invalid
from registry.principal import Principal
from registry.promotion.generations import raise_generation
from registry.promotion.models import ProbeReplayRow
from registry.usage.charging import charge, record_bytes
from sdk.formats.refs import Ref
from sdk.schemas.probe import recorded_probe
from sdk.schemas.probe_records import ProbeRecord, ProbeRecordView

#: Who may record one: people who send things, and workers.
ACTION = "send"


class ProbeReplays:
    """The service over the table of replays. Every change raises the adapter's generation."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def record(self, *, replay: ProbeRecord, who: Principal) -> ProbeRecordView:
        """Record what a replay of a version's probe found, in the place of what the same token has recorded before.

        Raises NotFound; Forbidden for readers; Invalid for another digest than the version's, or numbers that don't say what
        the replay does; Conflict if the version's record has no probe; the commit may raise QuotaExceeded.
        """
        _require_consistent(replay)
        with self._db.write() as session:
            version = find_version(session, Ref(replay.adapter, f"v{replay.number}"), who, action=ACTION, lock=True)
            adapter = version.adapter
            raise_generation(session, adapter.name)
            require_digest(version, replay.digest, param="digest")
            _require_recorded(session, version, who)
            of = {"adapter_pk": adapter.pk, "digest": version.digest, "owner": who.owner}
            row = session.scalars(select(ProbeReplayRow).filter_by(**of)).first()
            if row is None:
                row = ProbeReplayRow(**of, record_bytes=0)
                session.add(row)
            size_bytes = record_bytes(replay.message)
            charge(session, adapter.namespace, records=size_bytes - row.record_bytes)
            row.number, row.token_id, row.created_by = replay.number, who.token_id, who.name
            row.agrees, row.difference, row.tolerance = replay.agrees, replay.difference, replay.tolerance
            row.message, row.record_bytes, row.created_at = replay.message, size_bytes, utc_now()
            session.flush()
            after = {"digest": version.digest, "agrees": replay.agrees}
            record(session, who, "version.probe", adapter.namespace, exact_ref(version), after=after)
            return _view(row, adapter.name)

    def list(
        self, *, adapter: str, number: int | None, who: Principal, **page: Unpack[Paging]
    ) -> Paged[ProbeRecordView]:
        """The replays of an adapter's versions, or of one's, newest first. Raises InvalidName, NotFound."""
        with self._db.read() as session:
            found = find_adapter(session, adapter, who)
            query = select(ProbeReplayRow).where(ProbeReplayRow.adapter_pk == found.pk)
            if number is not None:
                version = find_version(session, Ref(adapter, f"v{number}"), who)
                query = query.where(ProbeReplayRow.digest == version.digest)

            def views(rows: Sequence[ProbeReplayRow]) -> list[ProbeRecordView]:
                return [_view(row, found.name) for row in rows]

            return page_of(session, query, ProbeReplayRow.pk, views=views, **page)


def _require_consistent(replay: ProbeRecord) -> None:
    """Raise Invalid for a replay whose numbers say something else than it does."""
    if not replay.agrees:
        return
    if replay.difference is None or replay.tolerance is None:
        raise Invalid(
            "a replay that agrees says by how much it differs and what rounding allows; record one with: "
            "adapterctl verify REF --probe --record",
            param="difference",
        )
    if replay.difference > replay.tolerance:
        raise Invalid(
            f"a difference of {replay.difference:g} is more than the {replay.tolerance:g} that rounding allows, so the replay "
            "doesn't agree; record it with: adapterctl verify REF --probe --record",
            param="agrees",
        )


def _require_recorded(session: Session, version: Version, who: Principal) -> None:
    """Raise Conflict if there is nothing to compare a replay with."""
    view = present(session, version, who)
    if recorded_probe(view.metrics, view.record) is None:
        raise Conflict(
            f"the record of {exact_ref(version)} has no probe that a replay could agree with, as of what was not trained here; "
            f"see: adapterctl show {exact_ref(version)}"
        )


def _view(row: ProbeReplayRow, adapter: str) -> ProbeRecordView:
    return view_of(ProbeRecordView, row, adapter=adapter)
