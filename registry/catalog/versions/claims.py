"""What is claimed of versions: shown to those who may read them, and known to nothing that decides.

A row is what the folder that was pushed has told, and nobody here can tell whether it is so. If a key that this registry lists has
signed it, the version's own record has it too, as stated by whoever signed.
"""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.orm import Session

from registry.catalog.models import Version, VersionClaims
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref
from registry.db.database import Database
from registry.errors import NotFound, Unreadable
from registry.principal import Principal
from registry.usage.charging import charge
from sdk.schemas.claims import ClaimState, ClaimsView, read_told


class ClaimedVersions:
    """The service over what is claimed of versions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, ref: str, *, who: Principal) -> ClaimsView:
        """Return what is claimed of the version that a ref names now.

        Raises InvalidName, InvalidRef, NotFound also if nothing is claimed of it, Unreadable.
        """
        with self._db.read() as session:
            version = find_version(session, parse_ref(ref), who)
            row = session.get(VersionClaims, version.pk)
            if row is None:
                raise NotFound(
                    f"nothing is claimed of {exact_ref(version)}; see its record with: adapterctl show", param="ref"
                )
            return _view(version, row)


def state_of(row: VersionClaims) -> ClaimState:
    """Whether a key that this registry lists has signed what is claimed."""
    return "claimed" if row.key_id is None else "signed"


def give_up_claims(session: Session, version: Version) -> None:
    """Give up what is claimed of a deleted version."""
    gone = delete(VersionClaims).where(VersionClaims.version_pk == version.pk).returning(VersionClaims.record_bytes)
    charge(session, version.adapter.namespace, records=-sum(session.scalars(gone).all()))


def _view(version: Version, row: VersionClaims) -> ClaimsView:
    try:
        told = read_told(row.text)
    except ValueError as error:
        raise Unreadable(
            f"what is claimed of {exact_ref(version)} can't be read by this release ({error}); upgrade the registry"
        ) from None
    return ClaimsView(
        state=state_of(row),
        key_id=row.key_id,
        registry=told.registry,
        at=told.at,
        about=told.about,
        created_by=row.created_by,
        created_at=row.created_at,
    )
