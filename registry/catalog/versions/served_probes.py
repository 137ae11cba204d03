"""Served probes: what versions answer to fixed prompts, by which engines are proved to serve them.

A record holds for a version's bytes over its base: it names the digest and the fingerprint, and goes with the version. The one of
the training that made the version comes with the completion of its job, and nothing takes its place. What was pushed may be
measured by whoever may send versions to its namespace; such a record says what its sender found, so that of a worker or an admin
counts before those of others, and of equals the first one does: nobody can replace what another has recorded.
"""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, undefer

from registry.access.audit.service import record as audit
from registry.catalog.models import LIVE_ROWS, Adapter, ServedProbeRow, Version
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref, require_digest
from registry.db.database import Database
from registry.db.stored_json import read_stored
from registry.db.types import utc_now
from registry.errors import Invalid, NotFound
from registry.principal import Principal
from registry.usage.charging import charge, record_bytes
from sdk.formats.refs import Ref
from sdk.schemas.catalog import VersionView
from sdk.schemas.serving import MOST_SERVED_PROBE_BYTES, ProbeSource, ServedProbe, ServedProbeRecord, ServedProbeView
from sdk.schemas.wire import canonical_json

#: Who may record one: people who send things, and workers.
ACTION = "send"
#: By their standing.
_SOURCES: tuple[ProbeSource, ...] = ("training", "worker", "sender")
_TRAINING = "job"


class ServedProbes:
    """The service over what versions answer."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, ref: str, *, who: Principal) -> ServedProbeView:
        """Return the record of the version that a ref names now which counts. Raises InvalidName, InvalidRef, NotFound, Unreadable."""
        with self._db.read() as session:
            version = find_version(session, parse_ref(ref), who)
            query = select(ServedProbeRow).where(ServedProbeRow.version_pk == version.pk).limit(1)
            query = query.order_by(ServedProbeRow.standing, ServedProbeRow.pk).options(undefer(ServedProbeRow.probe))
            row = session.scalars(query).first()
            if row is None:
                exact = exact_ref(version)
                raise NotFound(
                    f"there is no record of what {exact} answers, so no engine can be proved to serve it; make one with: "
                    f"adapterctl verify {exact} --probe --record",
                    param="ref",
                )
            return _view(version, row)

    def record(self, *, measured: ServedProbeRecord, who: Principal) -> ServedProbeView:
        """Record what the caller's measurement of a version found, in the place of what the same token has recorded before.

        Raises NotFound; Forbidden for readers; Invalid for another digest or base than the version's, for a merged model, and for
        a record that is too large; the commit may raise QuotaExceeded.
        """
        _require_small(measured.probe)
        with self._db.write() as session:
            version = find_version(session, Ref(measured.adapter, f"v{measured.number}"), who, action=ACTION, lock=True)
            require_digest(version, measured.digest, param="digest")
            if measured.base != version.base.fingerprint:
                raise Invalid(
                    f"{exact_ref(version)} was made over the base {version.base.fingerprint[:12]}, not {measured.base[:12]}; "
                    "measure it over its own base",
                    param="base",
                )
            if version.kind != "adapter":
                raise Invalid(
                    f"{exact_ref(version)} is a merged model, which no engine serves over a base; measure its adapter",
                    param="number",
                )
            standing = _SOURCES.index("worker" if who.may("work", version.adapter.namespace) else "sender")
            row = _store(session, version, measured.probe, owner=who.owner, created_by=who.name, standing=standing)
            after = {"digest": version.digest, "prompts": measured.probe.prompts_digest}
            audit(session, who, "version.answers", version.adapter.namespace, exact_ref(version), after=after)
            return _view(version, row)


def keep_trained(session: Session, version: VersionView, probe: ServedProbe | None, *, created_by: str) -> None:
    """Keep what a training has measured with the version that was just made of it; the first of several trainings counts.

    Raises Invalid for a record that is too large.
    """
    if probe is None:
        return
    _require_small(probe)
    made = select(Version).join(Adapter, Adapter.pk == Version.adapter_pk)
    made = made.where(Adapter.name == version.adapter, Version.digest == version.digest, LIVE_ROWS)
    row = session.scalars(made).one()
    there = select(ServedProbeRow.pk).where(ServedProbeRow.version_pk == row.pk, ServedProbeRow.owner == _TRAINING)
    if session.scalars(there).first() is None:
        _store(session, row, probe, owner=_TRAINING, created_by=created_by, standing=_SOURCES.index("training"))


def give_up_probes(session: Session, version: Version) -> None:
    """Give up what a deleted version answers."""
    gone = delete(ServedProbeRow).where(ServedProbeRow.version_pk == version.pk).returning(ServedProbeRow.record_bytes)
    charge(session, version.adapter.namespace, records=-sum(session.scalars(gone).all()))


def _store(
    session: Session, version: Version, probe: ServedProbe, *, owner: str, created_by: str, standing: int
) -> ServedProbeRow:
    of = {"version_pk": version.pk, "owner": owner}
    row = session.scalars(select(ServedProbeRow).filter_by(**of)).first()
    if row is None:
        row = ServedProbeRow(**of, record_bytes=0)
        session.add(row)
    row.probe = probe.model_dump(mode="json")
    row.standing, row.created_by, row.created_at = standing, created_by, utc_now()
    size_bytes = record_bytes(row.probe)
    charge(session, version.adapter.namespace, records=size_bytes - row.record_bytes)
    row.record_bytes = size_bytes
    session.flush()
    return row


def _require_small(probe: ServedProbe) -> None:
    size_bytes = len(canonical_json(probe.model_dump(mode="json")))
    if size_bytes > MOST_SERVED_PROBE_BYTES:
        raise Invalid(
            f"the record of what a version answers has {size_bytes} bytes, and may have {MOST_SERVED_PROBE_BYTES}; make it with: "
            "adapterctl verify REF --probe --record",
            param="probe",
        )


def _view(version: Version, row: ServedProbeRow) -> ServedProbeView:
    return ServedProbeView(
        adapter=version.adapter.name,
        number=version.number or 0,
        digest=version.digest,
        base=version.base.fingerprint,
        probe=read_stored(ServedProbe, row.probe, of=f"what {exact_ref(version)} answers"),
        source=_SOURCES[row.standing],
        created_by=row.created_by,
        created_at=row.created_at,
    )
