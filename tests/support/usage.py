"""Upload sessions that are begun and abandoned, and what is counted for them and everything else that namespaces
have.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import undefer

from registry.app.services import Services
from registry.artifacts.models import ManifestRow, Upload
from registry.catalog.bases.finding import WHOLE, tensors_of
from registry.catalog.models import NamedBase, Origin, ServedProbeRow, Version, VersionClaims, VersionNote
from registry.db.types import utc_now
from registry.evaluations.last_scores import counted_names
from registry.evaluations.models import Evaluation, EvaluationPicks
from registry.jobs.models import Checkpoint, Job, JobEvent, SeenRows
from registry.quotas.service import count_anew
from registry.series.models import JobSeries, SeriesBlock, VersionSeries
from registry.sweeps.models import Member, Sweep
from registry.usage.charging import BYTES, COUNTED, record_bytes
from registry.usage.models import Usage
from sdk.client import Client
from sdk.schemas.access import QuotaView
from sdk.schemas.artifacts import BlobSpec, UploadRequest, UploadView
from support.adapters import digest
from support.people import SEEDS
from support.registries import World


def begin(client: Client, namespace: str | None, *blobs: BlobSpec) -> UploadView:
    """Open an upload session, and send nothing."""
    body = UploadRequest(blobs=list(blobs))
    return client.call("POST", "/uploads", UploadView, body=body, params={"namespace": namespace})


def blob(size_bytes: int) -> BlobSpec:
    """Bytes that nobody else has."""
    return BlobSpec(sha256=digest(f"bytes {next(SEEDS)}"), size_bytes=size_bytes)


def end_time_of(world: World, *uploads: str) -> None:
    """Let upload sessions expire."""
    with world.services.db.write() as session:
        over = utc_now() - timedelta(seconds=1)
        session.execute(update(Upload).where(Upload.id.in_(uploads)).values(expires_at=over))


def by_kind(quota: QuotaView) -> dict[str, int]:
    """The kinds whose count is not 0."""
    return {name: size for name in BYTES if (size := getattr(quota, name))}


def differing(world: World) -> dict[str, Any]:
    """Where sums and tables differ, by namespace: the running sum, and what is there."""
    with world.services.db.read() as session:
        counted = count_anew(session)
        rows = {row.namespace: {name: getattr(row, name) for name in COUNTED} for row in session.scalars(select(Usage))}
    nothing = dict.fromkeys(COUNTED, 0)
    pairs = {name: (rows.get(name, nothing), counted.get(name, nothing)) for name in {*rows, *counted}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def mismeasured(services: Services, *namespaces: str) -> list[str]:
    """The rows of these namespaces, or of all, whose `record_bytes` is not what they take, measured again from what they hold."""
    with services.db.read() as session:
        bodies = {row.digest: row.body.encode() for row in session.scalars(select(ManifestRow))}
        found = []
        for version in session.scalars(select(Version)):
            own = (version.warnings, version.lora, version.quantization, version.tags, version.description)
            size = record_bytes(bodies.get(version.digest), *own, version.unknown)
            for made in session.scalars(select(Origin).where(Origin.version_pk == version.pk)):
                size += record_bytes(made.dataset, made.training, made.metrics, made.libraries, made.reported)
            for note in session.scalars(select(VersionNote).where(VersionNote.version_pk == version.pk)):
                size += record_bytes(note.text)
            if version.manifest_digest is not None:
                found.append((version.adapter.namespace, f"version {version.pk}", size, version.record_bytes))
        for base in session.scalars(select(NamedBase).options(*WHOLE)):
            if base.manifest_digest is not None or base.facts != "derived":
                body = bodies.get(base.manifest_digest or "")
                size = record_bytes(base.config, tensors_of(base), body)
                found.append((base.namespace, f"base {base.pk} {base.facts}", size, base.record_bytes))
        for row in session.scalars(select(Evaluation)):
            size = record_bytes(row.spec, row.samples, row.libraries, row.scorer_errors)
            size += sum(record_bytes(name) for name in (*row.metrics, *counted_names(row.metrics, row.spec)))
            found.append((row.namespace, f"evaluation {row.id}", size, row.record_bytes))
        of_picks = (
            select(EvaluationPicks, Evaluation.namespace).join(Evaluation).options(undefer(EvaluationPicks.picked))
        )
        for picks, space in session.execute(of_picks):
            found.append((space, f"picks of {picks.evaluation_id}", record_bytes(picks.picked), picks.record_bytes))
        for job in session.scalars(select(Job).options(undefer(Job.forecast))):
            size = record_bytes(job.request, job.forecast)
            found.append((job.namespace, f"job {job.id}", size, job.record_bytes))
            if job.result is not None:
                found.append((job.namespace, f"result of {job.id}", record_bytes(job.result), job.result_bytes))
            said = session.scalars(select(JobEvent).where(JobEvent.job_id == job.id, JobEvent.kind != "state"))
            taken = sum(record_bytes(event.progress, event.message) for event in said)
            found.append((job.namespace, f"events of {job.id}", taken, job.events_bytes))
        spaces: dict[str, str] = dict(session.execute(select(Job.id, Job.namespace)).all())
        for point in session.scalars(select(Checkpoint)):
            size = record_bytes(point.report, bodies[point.manifest_digest])
            found.append((spaces[point.job_id], f"checkpoint {point.job_id} {point.step}", size, point.record_bytes))
        for seen in session.scalars(select(SeenRows).options(undefer(SeenRows.recorded))):
            found.append(
                (spaces[seen.job_id], f"rows of {seen.job_id}", record_bytes(seen.recorded), seen.record_bytes)
            )
        for block in session.scalars(select(SeriesBlock)):
            size = record_bytes(block.names, block.data)
            found.append((spaces[block.job_id], f"points {block.job_id} {block.number}", size, block.record_bytes))
        for series in session.scalars(select(JobSeries)):
            blocks = select(func.sum(SeriesBlock.record_bytes)).where(SeriesBlock.job_id == series.job_id)
            size = session.scalar(blocks) or 0
            found.append((spaces[series.job_id], f"series of {series.job_id}", int(size), series.size_bytes))
        for kept in session.scalars(select(VersionSeries)):
            size = record_bytes(kept.names, kept.data)
            of = session.get_one(Version, kept.version_pk).adapter.namespace
            found.append((of, f"series of version {kept.version_pk}", size, kept.record_bytes))
        for probe in session.scalars(select(ServedProbeRow).options(undefer(ServedProbeRow.probe))):
            of = session.get_one(Version, probe.version_pk).adapter.namespace
            found.append((of, f"served probe {probe.pk}", record_bytes(probe.probe), probe.record_bytes))
        for claims in session.scalars(select(VersionClaims)):
            of = session.get_one(Version, claims.version_pk).adapter.namespace
            size = record_bytes(claims.text, claims.bundle)
            found.append((of, f"claims of version {claims.version_pk}", size, claims.record_bytes))
        for sweep in session.scalars(select(Sweep).options(undefer(Sweep.verdict))):
            size = record_bytes(sweep.submission) + (0 if sweep.verdict is None else record_bytes(sweep.verdict))
            found.append((sweep.namespace, f"sweep {sweep.id}", size, sweep.record_bytes))
            long = (Member.row_losses, Member.row_weights, Member.signature)
            members = select(Member).where(Member.sweep == sweep.id).options(*map(undefer, long))
            for member in session.scalars(members):
                parts = [getattr(member, part.key) for part in (Member.metrics, *long)]
                size = record_bytes(member.setting, *parts)
                found.append((sweep.namespace, f"member {sweep.id}/{member.number}", size, member.record_bytes))
    wrong = [row for row in found if (not namespaces or row[0] in namespaces) and row[2] != row[3]]
    return [f"{what}: {measured}, not {kept}" for _, what, measured, kept in wrong]
