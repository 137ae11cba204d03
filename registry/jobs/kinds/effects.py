"""What the completion of a training or a merge does."""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.artifacts.manifests import blobs_of, record_manifest
from registry.artifacts.service import Artifacts
from registry.artifacts.uploads import finish_upload
from registry.catalog.publishing.new_version import refuse_code
from registry.catalog.publishing.publisher import Publisher
from registry.catalog.versions.finding import find_version, parse_ref, space_of
from registry.db.database import Database
from registry.db.stored_json import read_stored
from registry.errors import Invalid
from registry.jobs.claims import Succeed
from registry.jobs.kinds.outcomes import require_merged, settle
from registry.principal import SYSTEM, Principal
from registry.usage.charging import charge
from sdk.schemas.catalog import JobRef, Published
from sdk.schemas.jobs import JobView, MergeRequest, TrainingRequest
from sdk.schemas.work import Completion


class PublishVersion:
    """A training becomes a version: the job succeeds in the transaction that gives the number."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def __call__(self, *, job: JobView, completion: Completion, who: Principal, succeed: Succeed) -> None:
        """Publish the version that the attempt made, or find the one with the same bytes.

        Raises Verification where it is none that the job asked for.
        """
        publication = completion.version
        if publication is None:
            raise Invalid("the completion of a training holds a version", param="version")
        if publication.adapter != job.subject:
            raise Invalid(f"job {job.id} trains {job.subject}, not {publication.adapter}", param="version.adapter")
        settled, reported = settle(
            read_stored(TrainingRequest, job.request, of=f"the request of job {job.id}"), publication
        )

        def finish(session: Session, published: Published) -> None:
            version = published.version
            result = {
                "ref": version.ref,
                "digest": version.digest,
                "existing": published.existing,
                "metrics": settled.metrics,
            }
            succeed(session, result)

        self._publisher.publish(
            publication=settled,
            who=who,
            job=JobRef(id=job.id, attempt=completion.attempt),
            reported=reported,
            action="work",
            finish=finish,
        )


class KeepMerged:
    """A merge becomes a manifest of the merged model's files, fetched by its digest."""

    def __init__(self, db: Database, artifacts: Artifacts) -> None:
        self._db = db
        self._artifacts = artifacts

    def __call__(self, *, job: JobView, completion: Completion, who: Principal, succeed: Succeed) -> None:
        """Verify and record the merged model's files.

        Raises Verification also where they are not what the job asked for, QuotaExceeded where its namespace has no room.
        """
        merge = completion.merge
        if merge is None or merge.manifest.kind != "merged":
            raise Invalid("the completion of a merge holds a manifest of the kind 'merged'", param="merge")
        refuse_code(merge.manifest)
        request = read_stored(MergeRequest, job.request, of=f"the request of job {job.id}")
        with self._db.read() as session:
            base = find_version(session, parse_ref(request.ref), SYSTEM).base.fingerprint
        require_merged(request.spec, base, merge.manifest, merge.report)
        space = space_of(job.subject.partition("@")[0])
        self._artifacts.verify(upload=merge.upload, blobs=blobs_of(merge.manifest), who=who)
        with self._db.write() as session:
            digest, opened = record_manifest(session, merge.manifest, namespace=space)
            if opened:
                charge(session, space, merged=merge.manifest.size_bytes)
            finish_upload(session, merge.upload)
            result = {
                "ref": job.subject,
                "digest": digest,
                "manifest": merge.manifest.model_dump(),
                "report": merge.report.model_dump(),
                #: The worker's word, by dotted names.
                "reported": ["report.libraries", "report.metrics"],
            }
            succeed(session, result)
