"""Which aliases of an adapter only promoters may move: protected ones, and those that a later room protects as well."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, AliasProtection
from registry.db.database import Database

#: The key under which a session has what else protects aliases.
_OTHERS = "other protections"


def protect_also(db: Database, named: Callable[[Session, str, str], set[str]]) -> None:
    """From now on, count the aliases that `named` returns as protected, too, for the name and namespace of an adapter."""
    db.session_info[_OTHERS] = named


def protected_aliases(session: Session, adapter: Adapter) -> set[str]:
    """Return the aliases of an adapter that only promoters may move, whether they exist or not."""
    scopes = ["*", adapter.name, *([] if adapter.namespace == "-" else [f"{adapter.namespace}/*"])]
    protected = set(session.scalars(select(AliasProtection.alias).where(AliasProtection.scope.in_(scopes))))
    others = session.info.get(_OTHERS)
    return protected if others is None else protected | others(session, adapter.name, adapter.namespace)
