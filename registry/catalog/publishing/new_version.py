"""One publication under way: what is done for it in each of its transactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.artifacts.admission.inspection import ConfigFacts, WeightFacts, inspect_config, inspect_weights
from registry.artifacts.admission.rules import judge
from registry.artifacts.blob_check import Facts, Inspection
from registry.artifacts.manifests import blobs_of, record_manifest
from registry.artifacts.service import Bytes
from registry.artifacts.uploads import finish_upload
from registry.catalog.bases.finding import KnownBase, KnownBases
from registry.catalog.models import LIVE_ROWS, Adapter, Origin, Version, VersionParent, VersionTag, VersionTarget
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref, space_of
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.numbering import Counters, give_number, lock_counters
from registry.catalog.versions.present import Surroundings, parents_of, present, refresh_document
from registry.db.clock import utc_now
from registry.db.statements import append, insert_if_new, put
from registry.db.transactions import connection_of
from registry.errors import Invalid, RegistryError, Verification
from registry.principal import SYSTEM, Principal
from registry.signatures.service import record_signature
from registry.usage.charging import charge
from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.schemas.catalog import JobRef, Publication, Published, VersionView
from sdk.schemas.manifest import Manifest

#: Files that can run something when a library reads them.
_CODE_SUFFIXES = (".bin", ".ckpt", ".dll", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".sh", ".so")

_LIVE_ROW = select(Version.pk).where(
    Version.adapter_pk == bindparam("adapter"), Version.digest == bindparam("digest"), LIVE_ROWS
)


class _Edge(NamedTuple):
    parent_pk: int
    relation: str
    weight: float | None


class Ground(NamedTuple):
    """What a version stands on: its base, and what it was made from."""

    base: KnownBase
    parents: list[_Edge]


class Making:
    """One publication under way: what is done for it in each of its transactions."""

    def __init__(
        self,
        publication: Publication,
        who: Principal,
        bases: KnownBases,
        job: JobRef | None = None,
        finish: Callable[[Session, Published], None] | None = None,
        reported: Sequence[str] | None = None,
    ) -> None:
        self._publication = publication
        #: What is said of it that nobody derived from its bytes or its job.
        self._reported = _said(publication) if reported is None else list(reported)
        self._bases = bases
        self._who = who
        self._job = job
        self._finish = finish
        self._digest = publication.manifest.digest
        self._space = space_of(publication.adapter)
        files = {file.path: file for file in publication.manifest.files}
        self._config, self._weights = files[CONFIG_FILE], files[WEIGHTS_FILE]

    @property
    def bytes(self) -> Bytes:
        """What `Artifacts` verifies, or knows."""
        return {
            "upload": self._publication.upload,
            "blobs": blobs_of(self._publication.manifest),
            "who": self._who,
            "inspections": {
                self._config.sha256: Inspection(ConfigFacts, inspect_config),
                self._weights.sha256: Inspection(
                    WeightFacts, lambda file: inspect_weights(file, size_bytes=self._weights.size_bytes)
                ),
            },
        }

    def begin(self, session: Session) -> Ground:
        """Find what the version stands on. Raises NotFound."""
        base = self._bases.find(session, self._publication.manifest.base_fingerprint, self._space)
        # Found now: once this version is ready, its adapter's `latest` is the version itself.
        parents = [
            _Edge(find_version(session, parse_ref(parent.ref), self._who).pk, parent.relation, parent.weight)
            for parent in self._publication.parents
        ]
        return Ground(base, parents)

    def judge(self, facts: Mapping[str, Facts], ground: Ground) -> list[str]:
        """Hold what is in the files against the record and the base; return warnings. Raises Verification."""
        config, weights = facts[self._config.sha256], facts[self._weights.sha256]
        assert isinstance(config, ConfigFacts)
        assert isinstance(weights, WeightFacts)
        return judge(weights, config, lora=self._publication.lora, base_tensors=ground.base.tensors)

    def passes(self, facts: Mapping[str, Facts], ground: Ground) -> list[str] | None:
        """Return the warnings of what the gate lets pass; None for what it does not."""
        try:
            return self.judge(facts, ground)
        except Verification:
            return None

    def announce(self, session: Session, ground: Ground) -> None:
        """Write the pending row, unless these bytes have a live one."""
        counters = self._counters(session)
        if self._find(session, counters) is None:
            version = self._unwritten(counters, ground)
            self._say(version, VersionState.PENDING)
            put(session, version)

    def make_ready(self, session: Session, ground: Ground, warnings: list[str]) -> Published:
        """Make verified bytes a version with a number, or find the one that they are. Raises Verification.

        The commit raises QuotaExceeded where the namespace has no room for it.
        """
        digest = self._record_files(session)
        version, counters = self._row(session, ground)
        new = version.state == VersionState.PENDING
        if version.state == VersionState.QUARANTINED:
            raise Verification(
                f"these bytes are in quarantine ({version.refusal}); an admin may let them be a version with: "
                f"adapterctl release {exact_ref(version)}"
            )
        if new:
            self._say(version, VersionState.READY, manifest_digest=digest, warnings=warnings)
            size_bytes = self._publication.manifest.size_bytes
            give_number(session, version, counters, size_bytes)
            charge(session, self._space, versions=size_bytes)
            origin = self._add_parts(session, version, ground)
            about = {
                "digest": digest,
                "base": ground.base.brief.fingerprint,
                "job": None if self._job is None else self._job.id,
            }
            record(session, self._who, "version.publish", self._space, self._ref(version), after=about)
            view = self._write_document(session, version, ground, origin)
        else:
            append(session, Origin, self._origin(version))
            view = present(session, version, self._who)
        published = Published(version=view, existing=not new)
        if self._finish is not None:
            self._finish(session, published)
        return published

    def put_away(self, session: Session, ground: Ground, error: Verification) -> Verification:
        """Keep what the gate refuses where only its digest leads to it; return the error that says so.

        It is paid for as any version is: the commit raises QuotaExceeded where there is no room for it.
        """
        digest = self._record_files(session)
        version, _ = self._row(session, ground)
        if version.state != VersionState.PENDING:
            # The same bytes have a row that is past this: ready once, or put away already.
            return error
        self._say(version, VersionState.QUARANTINED, manifest_digest=digest, refusal=error.message)
        version.moved_at = utc_now()
        put(session, version)
        charge(session, self._space, versions=self._publication.manifest.size_bytes)
        origin = self._add_parts(session, version, ground)
        ref = self._ref(version)
        record(session, self._who, "version.quarantine", self._space, ref, after={"refusal": error.message})
        self._write_document(session, version, ground, origin)
        return Verification(
            f"{error.message}. It is kept in quarantine; an admin may let it be a version with: adapterctl release {ref}",
            param=error.param,
        )

    def refuse(self, session: Session, error: RegistryError) -> None:
        """Move a pending row to failed; a row that another publisher made ready meanwhile is left alone."""
        version = self._find(session, self._counters(session))
        if version is not None and version.state == VersionState.PENDING:
            version.state, version.refusal = VersionState.FAILED, error.message

    # The parts of these.

    def _counters(self, session: Session) -> Counters:
        """The adapter's, made where it is new; nobody else changes anything of it until the transaction ends."""
        name = self._publication.adapter
        while (found := lock_counters(session, name)) is None:
            insert_if_new(session, Adapter, name=name, namespace=self._space, created_by=self._who.name, last_number=0)
        return found

    def _find(self, session: Session, counters: Counters) -> Version | None:
        """The one live row of these bytes in their adapter."""
        told = {"adapter": counters.adapter_pk, "digest": self._digest}
        pk = connection_of(session).execute(_LIVE_ROW, told).scalar()
        return None if pk is None else session.get_one(Version, pk, populate_existing=True)

    def _row(self, session: Session, ground: Ground) -> tuple[Version, Counters]:
        """The one live row of these bytes, or a pending one that is yet to be written; and their adapter, locked."""
        counters = self._counters(session)
        return self._find(session, counters) or self._unwritten(counters, ground), counters

    def _unwritten(self, counters: Counters, ground: Ground) -> Version:
        base = ground.base.brief
        keys = {
            "adapter_pk": counters.adapter_pk,
            "digest": self._digest,
            "base_pk": ground.base.pk,
            "base_id": base.id,
            "base_revision": base.revision,
            "base_weights_digest": base.weights_digest,
            "base_architecture": base.architecture,
        }
        return Version(state=VersionState.PENDING, created_at=utc_now(), **keys)

    def _ref(self, version: Version) -> str:
        return exact_ref(version, self._publication.adapter)

    def _say(
        self,
        version: Version,
        state: VersionState,
        *,
        manifest_digest: str | None = None,
        warnings: list[str] | None = None,
        refusal: str | None = None,
    ) -> None:
        """Take a pending row to its state.

        What is said of the version is written again: the row may be that of another push, which died or is slower.
        """
        recipe, publication = self._publication.quantization, self._publication
        said = {
            "state": state,
            "created_by": self._who.name,
            "manifest_digest": manifest_digest,
            "warnings": warnings,
            "refusal": refusal,
            "kind": publication.manifest.kind,
            "lora": publication.lora.model_dump(),
            "rank": publication.lora.rank,
            "method": publication.method or ("unknown" if recipe is None else "qlora"),
            "quantization": None if recipe is None else recipe.model_dump(),
            "tags": publication.tags,
            "description": publication.description,
            "unknown": publication.unknown,
        }
        for name, value in said.items():
            setattr(version, name, value)

    def _record_files(self, session: Session) -> str:
        """Record the manifest, and its signature where it has one; return the manifest's digest."""
        publication = self._publication
        digest = record_manifest(session, publication.manifest, namespace=self._space).digest
        if publication.signature is not None:
            record_signature(session, digest, publication.signature, self._who, namespaces=[self._space])
        finish_upload(session, publication.upload)
        return digest

    def _add_parts(self, session: Session, version: Version, ground: Ground) -> dict[str, Any]:
        """Write down what lineage and search find a new version by; return its origin."""
        pk = version.pk
        for edge in ground.parents:
            # A parent that is named twice in one relation is one edge.
            insert_if_new(session, VersionParent, version_pk=pk, **edge._asdict())
        tags = [{"version_pk": pk, "key": key, "value": value} for key, value in self._publication.tags.items()]
        append(session, VersionTag, *tags)
        modules = sorted({module[:200] for module in self._publication.lora.target_modules})
        append(session, VersionTarget, *[{"version_pk": pk, "module": module} for module in modules])
        origin = self._origin(version)
        append(session, Origin, origin)
        return origin

    def _write_document(
        self, session: Session, version: Version, ground: Ground, origin: dict[str, Any]
    ) -> VersionView:
        """Write down what `resolve` answers for a new version, and return it as the caller may see it.

        Nobody could name it or write to it before; how its parents are called now is the one thing to be read.
        """
        parents = parents_of(session, [version.pk], SYSTEM).get(version.pk, []) if ground.parents else []
        newborn = Surroundings(
            adapter=self._publication.adapter,
            base=ground.base.brief,
            origin=Origin(**origin),
            aliases=[],
            notes=[],
            parents=parents,
            files=self._publication.manifest.files,
        )
        return refresh_document(session, version, self._who, known=newborn)

    def _origin(self, version: Version) -> dict[str, Any]:
        dataset = self._publication.dataset
        return {
            "version_pk": version.pk,
            "job": None if self._job is None else self._job.id,
            "attempt": None if self._job is None else self._job.attempt,
            "dataset_digest": None if dataset is None else dataset.digest,
            "dataset": None if dataset is None else dataset.model_dump(),
            "training": self._publication.training,
            "metrics": self._publication.metrics,
            "libraries": self._publication.libraries,
            "reported": self._reported,
            "created_by": self._who.name,
        }


def _said(publication: Publication) -> list[str]:
    """The parts of a version's record that are the word of whoever pushes it."""
    words = ("dataset", "libraries", "method", "metrics", "quantization", "training")
    return [name for name in words if getattr(publication, name)]


def require_files(manifest: Manifest) -> None:
    """Raise Invalid or Verification for a manifest that is none of an adapter."""
    if manifest.kind != "adapter":
        raise Invalid("a version of an adapter has a manifest of the kind 'adapter'", param="manifest.kind")
    digests = {file.path: file.sha256 for file in manifest.files}
    for required in (CONFIG_FILE, WEIGHTS_FILE):
        if required not in digests:
            raise Verification(
                f"an adapter needs a file {required}; save it with PEFT's save_pretrained", param="manifest"
            )
    refuse_code(manifest)
    if digests[CONFIG_FILE] == digests[WEIGHTS_FILE]:
        raise Verification(f"{CONFIG_FILE} and {WEIGHTS_FILE} are the same bytes; save the adapter again")


def refuse_code(manifest: Manifest) -> None:
    """Raise Verification for a manifest with a file that can run something when a library reads it."""
    for file in manifest.files:
        if file.path.lower().endswith(_CODE_SUFFIXES):
            raise Verification(
                f"{file.path} is pickled or is code, which runs when it is loaded; convert pickled weights with: "
                "adapterctl convert FOLDER, and push without such files",
                param="manifest",
            )
