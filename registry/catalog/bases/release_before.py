"""What servers of the previous release read about a base: they know one name for all namespaces."""

from __future__ import annotations

from sqlalchemy import case, select, update
from sqlalchemy.orm import Session

from registry.catalog.models import BaseModelRow, NamedBase
from registry.principal import EVERYWHERE


def tell_the_release_before(session: Session, base_pk: int) -> None:
    """Write what is published about a base, or was said first, to where servers of the previous release look: they know
    one name for all.

    If every namespace has given it up, nothing that takes room is left there: what was derived is derived again from
    files that are sent again.
    """
    session.flush()
    said = select(NamedBase.pk).where(NamedBase.base_pk == base_pk)
    first = said.order_by(case((NamedBase.namespace == EVERYWHERE, 0), else_=1), NamedBase.pk).limit(1)
    of = update(BaseModelRow).where(BaseModelRow.pk == base_pk).execution_options(synchronize_session=False)
    speaker = session.scalar(first)
    if speaker is None:
        session.execute(
            of.values(location=None, manifest_digest=None, config={}, tensors={}, size_bytes=0, derived_at=None)
        )
        return
    of = of.where(NamedBase.pk == speaker, NamedBase.base_pk == BaseModelRow.pk)
    said_of_it = ("id", "revision", "location", "manifest_digest")
    session.execute(of.values({name: getattr(NamedBase, name) for name in said_of_it}))
    # What was derived is true, whatever anybody says.
    claims = ("config", "tensors", "size_bytes")
    of = of.where(BaseModelRow.derived_at.is_(None))
    session.execute(of.values({name: getattr(NamedBase, name) for name in claims}))
