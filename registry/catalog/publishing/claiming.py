"""What the folder of a pull tells about the bytes that are pushed: whether it is kept as a claim, and what a signature makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.catalog.models import LIVE_ROWS, Adapter, Origin, Version, VersionClaims
from registry.catalog.publishing.new_version import NewClaims, NewVersion, Past, claims_of
from registry.catalog.versions.claims import state_of
from registry.catalog.versions.finding import exact_ref
from registry.catalog.versions.lifecycle import VersionState
from registry.db.statements import append
from registry.db.types import utc_now
from registry.errors import Invalid
from registry.signatures.service import Trust
from registry.usage.charging import charge, record_bytes
from sdk.schemas.catalog import Publication
from sdk.schemas.claims import AboutFile, ClaimState, read_about
from sdk.signing import ABOUT_FILE

#: What a signed record says, unless the publication says it.
_RECORD = ("dataset", "training", "metrics", "libraries")


def read_claims(publication: Publication, trust: Trust) -> NewClaims | None:
    """Return what a publication claims; None if that is nothing.

    Raises Invalid for what no pull writes and for what is told of other bytes, Verification for a signature that can't hold.
    """
    sent = publication.claimed
    if sent is None:
        return None
    try:
        file = read_about(sent.text)
    except ValueError as error:
        raise Invalid(
            f"the folder's claims can't be kept: {error}; push with --no-claims", param="claimed.text"
        ) from None
    if file.about.digest != publication.manifest.digest:
        raise Invalid(
            f"the folder's claims are about {file.about.digest[:12]}, and {publication.manifest.digest[:12]} is pushed; push with --no-claims",
            param="claimed.text",
        )
    if sent.signature is None:
        return NewClaims(sent.text, file, None, None)
    trust.check(sent, sent.signature, file=ABOUT_FILE)
    key_id = sent.signature.key_id
    return NewClaims(sent.text, file, key_id if trust.lists(key_id) else None, sent.signature.bundle)


def is_known_here(session: Session, new: NewVersion, file: AboutFile) -> bool:
    """Whether the database knows more than a folder could tell: the caller may read a version of the same bytes that a job here has
    made, or the very version that it was pulled from.
    """
    made = select(Origin.pk).where(Origin.version_pk == Version.pk, Origin.job.is_not(None)).exists()
    name = file.about.ref.partition("@")[0]
    of = select(Version.created_at, made, Adapter.name == name).join(Adapter, Adapter.pk == Version.adapter_pk)
    shown = Version.state.in_((VersionState.READY, VersionState.ARCHIVED))
    same = of.where(Version.digest == new.digest, shown, new.who.within(Adapter.namespace))
    rows = session.execute(same.where(or_(made, Adapter.name == name))).all()
    return any(by_job or (named and at.isoformat() == file.about.created_at) for at, by_job, named in rows)


def with_claims(new: NewVersion, claims: NewClaims) -> NewVersion:
    """Return a version of which this is claimed; if a key that this registry lists has signed it, its record says so too.

    Raises Invalid for a signed record that this release can't act on.
    """
    if claims.key_id is None:
        return replace(new, claims=claims)
    try:
        # It is acted on, and so must be what was signed to the letter: what can't be seen is a part of labels and columns.
        file = read_about(claims.text, exact=True)
    except ValueError as error:
        raise Invalid(
            f"the folder's signed claims can't be a record here: {error}; push with --no-claims", param="claimed.text"
        ) from None
    publication = _with_record(new.publication, file)
    return replace(new, claims=claims, publication=publication, reported=claims_of(publication), unclaimed=new)


def _with_record(publication: Publication, file: AboutFile) -> Publication:
    """Return a publication that says what is told, where it says nothing itself."""
    about = file.about
    said: dict[str, Any] = {name: getattr(about, name) for name in _RECORD if not getattr(publication, name)}
    if publication.method is None and publication.quantization is None:
        said["quantization"] = about.quantization
        said["method"] = about.method if about.method in ("qlora", "lora") else None
    if said.get("method") == "lora":
        said["quantization"] = None
    known = {name for name in ("dataset", "training", "libraries", "quantization") if said.get(name)}
    known |= {"quantization"} if said.get("method") == "lora" else set()
    said["unknown"] = [name for name in publication.unknown if name not in known]
    return publication.model_copy(update=said)


def keep_claims(
    session: Session, version: Version, new: NewVersion, *, namespace: str, existing: bool = False
) -> ClaimState | None:
    """Keep what is claimed of a version; return how. The first claims stay, unless these are the first that are signed.

    That a version which is `existing` gets claims is in the audit trail; of a new one, its publication is.
    """
    claims = new.claims
    if claims is None:
        return None
    row = session.get(VersionClaims, version.pk)
    if row is not None and (row.key_id is not None or claims.key_id is None):
        return state_of(row)
    size_bytes = record_bytes(claims.text, claims.bundle)
    charge(session, namespace, records=size_bytes - (0 if row is None else row.record_bytes))
    values = {
        "text": claims.text,
        "key_id": claims.key_id,
        "bundle": claims.bundle,
        "created_by": new.who.name,
        "created_at": utc_now(),
        "record_bytes": size_bytes,
    }
    if existing:
        before = None if row is None else {"claims sent by": row.created_by}
        after = {"claimed by": claims.file.registry, "signed by": claims.key_id}
        record(session, new.who, "version.claim", namespace, exact_ref(version), before=before, after=after)
    if row is None:
        append(session, VersionClaims, {"version_pk": version.pk, **values})
    else:
        for name, value in values.items():
            setattr(row, name, value)
    return "claimed" if claims.key_id is None else "signed"


def copy_claims(session: Session, past: Past, *, adapter: str, digest: str) -> None:
    """Let a copy that was just made have what is claimed of its version: it is the same bytes."""
    row = session.get(VersionClaims, past.version_pk)
    if row is not None:
        made = select(Version).join(Adapter, Adapter.pk == Version.adapter_pk)
        copy = session.scalars(made.where(Adapter.name == adapter, Version.digest == digest, LIVE_ROWS)).one()
        same = ("text", "key_id", "bundle", "created_by", "created_at", "record_bytes")
        append(session, VersionClaims, {"version_pk": copy.pk, **{name: getattr(row, name) for name in same}})
        charge(session, copy.adapter.namespace, records=row.record_bytes)
