"""Copies of versions under other names, which keep their past."""

from __future__ import annotations

from registry.artifacts.manifests import read_manifest
from registry.catalog.publishing.pasts import past_of
from registry.catalog.publishing.publisher import Publisher
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref, require_digest, space_to_change
from registry.catalog.versions.kinds import require_adapter
from registry.db.database import Database
from registry.db.stored_json import read_stored
from registry.errors import Conflict, Verification
from registry.principal import Principal
from registry.signatures.service import Signatures, Trust
from sdk.schemas.artifacts import SignedManifest
from sdk.schemas.catalog import Publication, Published, VersionCopy
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.manifest import Manifest


class Copies:
    """The service that makes a version's bytes one of another adapter."""

    def __init__(self, db: Database, publisher: Publisher, signatures: Signatures, trust: Trust) -> None:
        self._db = db
        self._publisher = publisher
        self._signatures = signatures
        self._trust = trust

    def copy(self, *, copy: VersionCopy, who: Principal) -> Published:
        """Publish the bytes of a version that the caller may read under another name, in which they may write.

        The copy has the record of the version, and an edge to it; no job has made it, its aliases, notes and approvals stay where
        they are, and so does the version. The same copy again gives the one that is there. Raises InvalidName, InvalidRef,
        NotFound, Forbidden, Invalid for a merged model or another digest than the version's, Conflict for the version's own
        adapter, and what `Publisher.publish` raises.
        """
        space_to_change(copy.adapter, who)
        with self._db.read() as session:
            version = find_version(session, parse_ref(copy.ref), who)
            require_digest(version, copy.digest, param="digest")
            require_adapter(session, version, "copied")
            if version.adapter.name == copy.adapter:
                raise Conflict(
                    f"{exact_ref(version)} is a version of {copy.adapter} already; copy it to another name",
                    param="adapter",
                )
            past, manifest = past_of(session, version), read_manifest(session, version.digest)
            publication = Publication(
                adapter=copy.adapter,
                manifest=manifest,
                lora=read_stored(LoraConfig, version.lora, of=past.ref),
                tags={**version.tags, **copy.tags},
                description=version.description if copy.description is None else copy.description,
            )
        # Not within the transaction, which holds a connection already.
        publication = publication.model_copy(update={"signature": self._signature(manifest, who)})
        return self._publisher.publish(publication=publication, who=who, past=past)

    def _signature(self, manifest: Manifest, who: Principal) -> SignedManifest | None:
        """Return a signature over the version that the registry accepts, if there is one: it is over the same bytes."""
        for each in self._signatures.list(manifest.digest, who=who):
            signed = SignedManifest(key_id=each.key_id, bundle=each.bundle)
            try:
                self._trust.require(manifest, signed)
            except Verification:
                continue
            return signed
        return None
