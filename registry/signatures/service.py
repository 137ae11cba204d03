"""Records signatures, with a version or later, and lists them; and the keys whose signatures this registry requires, and
what is checked in any other signature.

>>> trust = Trust([])
>>> trust.asks
False
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.artifacts.manifests import manifest_of
from registry.artifacts.models import ManifestAccess, ManifestRow
from registry.db.database import Database
from registry.db.statements import insert_if_new
from registry.db.stored_json import view_of
from registry.db.types import utc_now
from registry.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable, Verification
from registry.principal import Principal
from registry.signatures.models import Signature
from sdk.errors import AdapterctlError, VerificationFailed
from sdk.errors import Unavailable as Missing
from sdk.schemas.artifacts import SignatureView, SignedManifest
from sdk.schemas.manifest import Manifest
from sdk.signing import MANIFEST_FILE, PublicKey, Signable, check_bundle, find_signer, read_public_keys

#: How many signatures one manifest may have, so that a list of them stays short.
MAX_SIGNATURES = 50


class Signatures:
    """The service over the table of signatures."""

    def __init__(self, db: Database, trust: Trust) -> None:
        self._db = db
        self._trust = trust

    def add(self, digest: str, *, signed: SignedManifest, who: Principal) -> SignatureView:
        """Add a signature to a manifest of a namespace in which the caller may write; a second one by the same key
        replaces the first.

        Raises NotFound, Forbidden, Verification for a signature that can't hold, Conflict if there are too many.
        """
        with self._db.read() as session:
            row = _find(session, digest, who)
            writable = _writable(session, digest, who)
        if not writable:
            raise Forbidden("this token may only read this version; use one with a role of: admin, promoter, writer")
        self._trust.check(manifest_of(digest, row.body), signed)
        with self._db.write() as session:
            _find(session, digest, who)
            others = (
                select(func.count())
                .where(Signature.manifest_digest == digest, Signature.key_id != signed.key_id)
                .where(Signature.namespace.in_(writable))
                .group_by(Signature.namespace)
            )
            if max(session.scalars(others), default=0) >= MAX_SIGNATURES:
                raise Conflict(
                    f"{digest[:12]} has {MAX_SIGNATURES} signatures, and can't have more; sign with one of the same keys"
                )
            return record_signature(session, digest, signed, who, namespaces=writable)

    def list(self, digest: str, *, who: Principal) -> list[SignatureView]:
        """The signatures over a manifest, oldest first. Raises NotFound."""
        with self._db.read() as session:
            mine = and_(Signature.manifest_digest == digest, who.within(Signature.namespace))
            query = select(Signature).select_from(ManifestRow).outerjoin(Signature, mine)
            rows = session.scalars(query.where(*_to_fetch(digest, who)).order_by(Signature.pk)).all()
            if not rows:
                raise _missing(digest)
            found: dict[tuple[str, str], Signature] = {}
            for row in rows:
                # A signature that several namespaces have is listed once; without any, the manifest is there alone.
                if row is not None:
                    found.setdefault((row.key_id, row.bundle), row)
            return [view_of(SignatureView, row) for row in found.values()]


def record_signature(
    session: Session, digest: str, signed: SignedManifest, who: Principal, *, namespaces: list[str]
) -> SignatureView:
    """Record a checked signature, within the caller's transaction, and in the audit trails of these namespaces."""
    for namespace in namespaces:
        new = insert_if_new(
            session,
            Signature,
            manifest_digest=digest,
            namespace=namespace,
            key_id=signed.key_id,
            bundle=signed.bundle,
            created_by=who.name,
            created_at=utc_now(),
        )
        mine = (
            Signature.manifest_digest == digest,
            Signature.namespace == namespace,
            Signature.key_id == signed.key_id,
        )
        row = session.scalars(select(Signature).where(*mine).with_for_update()).one()
        before = None if new else {"key": row.key_id, "by": row.created_by}
        if new or row.bundle != signed.bundle:
            row.bundle, row.created_by, row.created_at = signed.bundle, who.name, utc_now()
            record(session, who, "version.sign", namespace, digest, before=before, after={"key": signed.key_id})
    session.flush()
    return view_of(SignatureView, row)


def _find(session: Session, digest: str, who: Principal) -> ManifestRow:
    """Return a manifest whose files the caller may fetch. Raises NotFound."""
    row = session.scalars(select(ManifestRow).where(*_to_fetch(digest, who))).first()
    if row is None:
        raise _missing(digest)
    return row


def _to_fetch(digest: str, who: Principal) -> tuple[ColumnElement[bool], ...]:
    """The conditions of the manifest with a digest, if the caller may fetch its files."""
    access = select(ManifestAccess.manifest_digest).where(
        ManifestAccess.manifest_digest == digest, who.within(ManifestAccess.namespace)
    )
    return (ManifestRow.digest == digest, ManifestRow.collected_at.is_(None), access.exists())


def _missing(digest: str) -> NotFound:
    return NotFound(f"there is no manifest {digest[:12]!a}; see what there is with: adapterctl list", param="digest")


def _writable(session: Session, digest: str, who: Principal) -> list[str]:
    """The namespaces of a manifest in which the caller may write, sorted."""
    query = select(ManifestAccess.namespace).where(
        ManifestAccess.manifest_digest == digest, who.within(ManifestAccess.namespace, "write")
    )
    return sorted(session.scalars(query))


class Trust:
    """Public keys, or none: then versions need no signature."""

    def __init__(self, keys: Sequence[PublicKey] = ()) -> None:
        self._keys = {key.key_id: key for key in keys}

    @classmethod
    def of(cls, setting: str | None) -> Trust:
        """Read the keys that `REGISTRY_SIGNING_KEYS` names: a PEM file, or a folder of `*.pem`.

        Raises Invalid if there are none in it, Unavailable if signatures can't be verified.
        """
        if setting is None:
            return cls()
        try:
            return cls(read_public_keys(Path(setting)))
        except Missing as error:
            raise Unavailable(error.message) from error
        except AdapterctlError as error:
            raise Invalid(f"REGISTRY_SIGNING_KEYS: {error.message}", param="REGISTRY_SIGNING_KEYS") from error

    @property
    def asks(self) -> bool:
        """Whether versions without a signature are refused."""
        return bool(self._keys)

    def require(self, manifest: Manifest, signed: SignedManifest | None) -> None:
        """Raise Verification unless a version with this manifest may be published with this signature, or without
        one.
        """
        if signed is None:
            if self.asks:
                raise Verification(
                    f"this registry accepts only signed versions; push again with --sign KEY, using one of: {self._listed()}",
                    param="signature",
                )
            return
        if self.asks and signed.key_id not in self._keys:
            raise Verification(
                f"the signature is by the key {signed.key_id[:12]}, which this registry does not accept; sign with one of: "
                f"{self._listed()}",
                param="signature",
            )
        self.check(manifest, signed)

    def lists(self, key_id: str) -> bool:
        """Whether a key is one of these."""
        return key_id in self._keys

    def check(self, document: Signable, signed: SignedManifest, *, file: str = MANIFEST_FILE) -> None:
        """Raise Verification for a signature that can't hold for this manifest, or for another document that is signed as `file`.

        Without the key nobody can tell whether it does: if the key is not known here, only what the signature says is
        checked.
        """
        key = self._keys.get(signed.key_id)
        with _explained():
            if key is None:
                check_bundle(document, signed.bundle, file=file)
            else:
                find_signer(document, signed.bundle, [key], file=file)

    def _listed(self) -> str:
        shown = ", ".join(key_id[:12] for key_id in list(self._keys)[:5])
        return shown + (", …" if len(self._keys) > 5 else "")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the errors of the SDK's module into the registry's."""
    try:
        yield
    except VerificationFailed as error:
        raise Verification(error.message, param="signature") from error
    except Missing as error:
        raise Unavailable(error.message) from error
