"""What is claimed of versions: shown to those who may read them, and known to nothing that decides.

A row is what the folder that was pushed has told, and nobody here can tell whether it is so. If a key that this registry lists has
signed it, the version's own record has it too, as stated by whoever signed.
"""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, raiseload

from registry.catalog.models import LIVE_ROWS, Adapter, Version, VersionClaims
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref
from registry.db.database import Database
from registry.errors import NotFound, Unreadable
from registry.principal import Principal
from registry.usage.charging import charge
from sdk.schemas.catalog import VersionView
from sdk.schemas.claims import ClaimState, ClaimsView, read_about


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

    def of(self, shown: VersionView, *, who: Principal) -> ClaimsView | None:
        """Return what is claimed of a version that is shown, by one statement; None if nothing, or nothing that can be read."""
        made = (
            select(VersionClaims, Version).join(Version, Version.pk == VersionClaims.version_pk).join(Version.adapter)
        )
        of = made.where(Adapter.name == shown.adapter, Version.digest == shown.digest, LIVE_ROWS)
        with self._db.read() as session:
            row = session.execute(of.where(who.within(Adapter.namespace)).options(raiseload(Version.base))).first()
            try:
                return None if row is None else _view(row[1], row[0])
            except Unreadable:
                return None


def state_of(row: VersionClaims) -> ClaimState:
    """Whether a key that this registry lists has signed what is claimed."""
    return "claimed" if row.key_id is None else "signed"


def give_up_claims(session: Session, version: Version) -> None:
    """Give up what is claimed of a deleted version."""
    gone = delete(VersionClaims).where(VersionClaims.version_pk == version.pk).returning(VersionClaims.record_bytes)
    charge(session, version.adapter.namespace, records=-sum(session.scalars(gone).all()))


def _view(version: Version, row: VersionClaims) -> ClaimsView:
    try:
        file = read_about(row.text)
    except ValueError as error:
        raise Unreadable(
            f"what is claimed of {exact_ref(version)} can't be read by this release ({error}); upgrade the registry"
        ) from None
    return ClaimsView(
        state=state_of(row),
        key_id=row.key_id,
        registry=file.registry,
        at=file.at,
        about=file.about,
        created_by=row.created_by,
        created_at=row.created_at,
    )
