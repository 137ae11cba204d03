"""Publication: bytes, then name. pending → verified → ready with a number, in the caller's last transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.artifacts.gate import judge
from registry.artifacts.inspection import ConfigFacts, WeightFacts, inspect_config, inspect_weights
from registry.artifacts.manifests import blobs_of, record_manifest
from registry.artifacts.reading import Inspection
from registry.artifacts.service import Artifacts, finish_upload
from registry.audit.service import record
from registry.auth.principal import Principal
from registry.catalog.bases import find_base
from registry.catalog.describe import Surroundings, refresh_document, view_version
from registry.catalog.lifecycle import LIVE, VersionState
from registry.catalog.models import Adapter, Origin, Version, VersionParent, VersionTag, VersionTarget
from registry.catalog.numbering import give_number, require_room_for_kept
from registry.catalog.resolve import exact_ref, find_version, parse_ref, space_of
from registry.db import Database, insert_if_new, utc_now
from registry.errors import Invalid, RegistryError, Verification
from registry.signatures.service import record_signature
from registry.signatures.trust import Trust
from sdk.schemas.catalog import JobRef, Publication, Published, VersionView

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

#: Files that can run something when a library reads them.
_CODE_SUFFIXES = (".bin", ".ckpt", ".dll", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".sh", ".so")


class _Edge(NamedTuple):
    parent_pk: int
    relation: str
    weight: float | None


class _Begun(NamedTuple):
    """A pending row's key, its base with its tensors' shapes, and the versions that it was made from."""

    pending: int
    base_pk: int
    tensors: dict[str, list[int]]
    parents: list[_Edge]


class Publisher:
    """Makes versions. Inline here: the caller waits until its version is ready or refused."""

    def __init__(
        self, db: Database, artifacts: Artifacts, *, trust: Trust | None = None, quarantine: bool = False
    ) -> None:
        self._db = db
        self._artifacts = artifacts
        self._trust = trust or Trust()
        #: Whether whole bytes that are no adapter of this base, or change nothing, are kept for an admin to look at.
        self._quarantine = quarantine

    def publish(
        self,
        *,
        publication: Publication,
        who: Principal,
        job: JobRef | None = None,
        action: str = "write",
        finish: Callable[[Session, Published], None] | None = None,
    ) -> Published:
        """Verify the uploaded bytes and make them a version, or find the version that they are already.

        `action` is what the caller must be allowed to do in the adapter's namespace: "write", or "work" for a worker. `finish` runs in the transaction that gives the number, so that a job and its version succeed together or
        not at all. Raises Invalid, NotFound (base, parent, upload, or a namespace that the caller may not see),
        Forbidden, QuotaExceeded, Verification, Conflict.
        """
        who.require(
            action,
            space_of(publication.adapter),
            missing=f"there is no adapter {publication.adapter!r} that this token may see; choose another name",
            param="adapter",
        )
        self._trust.require(publication.manifest, publication.signature)
        begun = self._begin(publication, who)
        try:
            config, weights = self._inspect(publication, who)
            try:
                warnings = judge(weights, config, lora=publication.lora, base_tensors=begun.tensors)
            except Verification as error:
                if not self._quarantine:
                    raise
                raise self._put_away(begun, publication, who, job, error) from error
            with self._db.write() as session:
                view, existing = self._make_ready(session, begun, publication, who, job, warnings)
                published = Published(version=view, existing=existing)
                if finish is not None:
                    finish(session, published)
            return published
        except RegistryError as error:
            self._refuse(begun.pending, error)
            raise

    def _begin(self, publication: Publication, who: Principal) -> _Begun:
        """Write the pending row; return what is needed to make it ready."""
        if publication.manifest.kind != "adapter":
            raise Invalid("a version of an adapter has a manifest of the kind 'adapter'", param="manifest.kind")
        paths = {file.path for file in publication.manifest.files}
        for required in (CONFIG_FILE, WEIGHTS_FILE):
            if required not in paths:
                raise Verification(
                    f"an adapter needs a file {required}; save it with PEFT's save_pretrained", param="manifest"
                )
        for path in sorted(paths):
            if path.lower().endswith(_CODE_SUFFIXES):
                raise Verification(
                    f"{path} is pickled or is code, which runs when it is loaded; convert pickled weights with: "
                    "adapterctl convert FOLDER, and push without such files",
                    param="manifest",
                )
        try:
            return self._insert_pending(publication, who)
        except IntegrityError:
            # Another publisher of the same bytes was first; its row is the one to work on.
            return self._insert_pending(publication, who)

    def _insert_pending(self, publication: Publication, who: Principal) -> _Begun:
        with self._db.write() as session:
            base = find_base(session, publication.manifest.base_fingerprint, whole=True)
            # Found now: once this version is ready, its adapter's `latest` is the version itself.
            parents = [
                _Edge(find_version(session, parse_ref(parent.ref), who).pk, parent.relation, parent.weight)
                for parent in publication.parents
            ]
            if session.scalars(select(Adapter.pk).where(Adapter.name == publication.adapter)).first() is None:
                insert_if_new(
                    session,
                    Adapter,
                    name=publication.adapter,
                    namespace=space_of(publication.adapter),
                    created_by=who.name,
                    last_number=0,
                )
            return _Begun(_live_row(session, publication, base.pk, who), base.pk, base.tensors, parents)

    def _inspect(self, publication: Publication, who: Principal) -> tuple[ConfigFacts, WeightFacts]:
        """Verify every blob, and say what config and weights hold."""
        files = {file.path: file for file in publication.manifest.files}
        config_file, weights_file = files[CONFIG_FILE], files[WEIGHTS_FILE]
        if config_file.sha256 == weights_file.sha256:
            raise Verification(f"{CONFIG_FILE} and {WEIGHTS_FILE} are the same bytes; save the adapter again")
        found = self._artifacts.verify(
            upload=publication.upload,
            blobs=blobs_of(publication.manifest),
            who=who,
            inspections={
                config_file.sha256: Inspection(ConfigFacts, inspect_config),
                weights_file.sha256: Inspection(
                    WeightFacts, lambda file: inspect_weights(file, size_bytes=weights_file.size_bytes)
                ),
            },
        )
        config, weights = found[config_file.sha256], found[weights_file.sha256]
        assert isinstance(config, ConfigFacts)
        assert isinstance(weights, WeightFacts)
        return config, weights

    def _make_ready(
        self,
        session: Session,
        begun: _Begun,
        publication: Publication,
        who: Principal,
        job: JobRef | None,
        warnings: list[str],
    ) -> tuple[VersionView, bool]:
        pending = begun.pending
        digest = _record_files(session, publication, who)
        finish_upload(session, publication.upload)
        said = {"state": VersionState.READY, "manifest_digest": digest, "warnings": warnings}
        won = _take(session, pending, publication, who, said)
        gone = (VersionState.FAILED, VersionState.DELETED)
        if not won and session.get_one(Version, pending, populate_existing=True).state in gone:
            # Another push of the same bytes was refused, for a reason of its own, and took the row along; or the version
            # that had these bytes was deleted meanwhile.
            pending = _live_row(session, publication, begun.base_pk, who)
            won = _take(session, pending, publication, who, said)
        version = session.get_one(Version, pending, populate_existing=True)
        if won:
            give_number(session, version, publication.manifest.size_bytes)
            _add_parts(session, version.pk, begun.parents, publication)
        if version.state == VersionState.QUARANTINED:
            raise Verification(
                f"these bytes are in quarantine ({version.refusal}); an admin may let them be a version with: "
                f"adapterctl release {exact_ref(version)}"
            )
        origin = _origin(pending, publication, who, job)
        session.add(origin)
        if won:
            record(
                session,
                who,
                "version.publish",
                version.adapter.namespace,
                exact_ref(version),
                after={"digest": digest, "base": version.base.fingerprint, "job": None if job is None else job.id},
            )
            # Nobody could name it or write to it before; how its parents are called now is the one thing to be read.
            newborn = Surroundings(origin, [], [], [], publication.manifest.files)
            return refresh_document(session, version, who, known=None if begun.parents else newborn), False
        session.flush()
        return view_version(session, version, who), True

    def _put_away(
        self, begun: _Begun, publication: Publication, who: Principal, job: JobRef | None, error: Verification
    ) -> Verification:
        """Keep what the gate refuses where only its digest leads to it; return the error that says so."""
        with self._db.write() as session:
            digest = _record_files(session, publication, who)
            finish_upload(session, publication.upload)
            said = {"state": VersionState.QUARANTINED, "manifest_digest": digest, "refusal": error.message}
            if not _take(session, begun.pending, publication, who, {**said, "moved_at": utc_now()}):
                # The same bytes have a row that is past this: ready once, or put away already.
                return error
            version = session.get_one(Version, begun.pending, populate_existing=True)
            require_room_for_kept(session, version)
            _add_parts(session, version.pk, begun.parents, publication)
            session.add(_origin(version.pk, publication, who, job))
            ref = exact_ref(version)
            record(session, who, "version.quarantine", version.adapter.namespace, ref, after={"refusal": error.message})
            refresh_document(session, version, who)
        return Verification(
            f"{error.message}. It is kept in quarantine; an admin may let it be a version with: adapterctl release {ref}",
            param=error.param,
        )

    def _refuse(self, pending: int, error: RegistryError) -> None:
        """Move a pending row to failed; a row that another publisher made ready meanwhile is left alone."""
        with self._db.write() as session:
            session.execute(
                update(Version)
                .where(Version.pk == pending, Version.state == VersionState.PENDING)
                .values(state=VersionState.FAILED, refusal=error.message)
            )


def _record_files(session: Session, publication: Publication, who: Principal) -> str:
    """Record a version's manifest, and its signature where it has one; return the manifest's digest."""
    space = space_of(publication.adapter)
    digest = record_manifest(session, publication.manifest, namespace=space)
    if publication.signature is not None:
        record_signature(session, digest, publication.signature, who, namespaces=[space])
    return digest


def _live_row(session: Session, publication: Publication, base_pk: int, who: Principal) -> int:
    """Return the key of the one live row of these bytes in this adapter: the existing one, or a new pending one."""
    digest = publication.manifest.digest
    adapter = select(Adapter.pk).where(Adapter.name == publication.adapter).scalar_subquery()
    live = (Version.adapter_pk == adapter, Version.digest == digest, Version.state.in_(LIVE))
    found = session.scalars(select(Version.pk).where(*live)).first()
    if found is not None:
        return found
    version = Version(
        adapter_pk=adapter,
        digest=digest,
        state=VersionState.PENDING,
        base_pk=base_pk,
        created_by=who.name,
        **_said_of(publication),
    )
    session.add(version)
    session.flush()
    return version.pk


def _take(session: Session, pending: int, publication: Publication, who: Principal, said: dict[str, Any]) -> bool:
    """Move a pending row to the state that is `said`; say whether this call did.

    What is said of the version is written again: the row may be that of another push, which died or is slower.
    A quarantined row stays one, whoever pushes its bytes again.
    """
    won = session.execute(
        update(Version)
        .where(Version.pk == pending, Version.state == VersionState.PENDING)
        .values(created_by=who.name, **_said_of(publication), **said)
        .returning(Version.pk)
    ).first()
    return won is not None


def _add_parts(session: Session, version_pk: int, parents: list[_Edge], publication: Publication) -> None:
    """Write down what lineage and search find a new version by."""
    for edge in parents:
        # A parent that is named twice in one relation is one edge.
        insert_if_new(session, VersionParent, version_pk=version_pk, **edge._asdict())
    session.add_all(
        [VersionTag(version_pk=version_pk, key=key, value=value) for key, value in publication.tags.items()]
    )
    session.add_all([VersionTarget(version_pk=version_pk, module=module[:200]) for module in _modules(publication)])


def _origin(version_pk: int, publication: Publication, who: Principal, job: JobRef | None) -> Origin:
    return Origin(
        version_pk=version_pk,
        job=None if job is None else job.id,
        attempt=None if job is None else job.attempt,
        dataset_digest=None if publication.dataset is None else publication.dataset.digest,
        dataset=None if publication.dataset is None else publication.dataset.model_dump(),
        training=publication.training,
        metrics=publication.metrics,
        libraries=publication.libraries,
        created_by=who.name,
    )


def _modules(publication: Publication) -> list[str]:
    return sorted(set(publication.lora.target_modules))


def _said_of(publication: Publication) -> dict[str, Any]:
    recipe = publication.quantization
    return {
        "kind": publication.manifest.kind,
        "lora": publication.lora.model_dump(),
        "rank": publication.lora.rank,
        "method": publication.method or ("unknown" if recipe is None else "qlora"),
        "quantization": None if recipe is None else recipe.model_dump(),
        "tags": publication.tags,
        "description": publication.description,
        "unknown": publication.unknown,
    }
