"""From a name to a base, as one namespace knows it.

An id is looked up in the namespace that the work is for and among those published for all; never among those of another
tenant. A fingerprint is an identity, but it is also only found where the base was registered or published.
"""

from __future__ import annotations

from threading import Lock
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, bindparam, select
from sqlalchemy.orm import Session, defaultload, undefer

from registry.catalog.bases.names import ANYBODYS, NEAREST, Whose, meaning_of, namespaces_meaning
from registry.catalog.models import BaseModelRow, NamedBase, Version
from registry.db.stored_json import table, view_of
from registry.errors import Invalid, NotFound
from registry.principal import EVERYWHERE, Principal
from sdk.formats.packed_weights import block_size_of
from sdk.lora.stored_quantization import StoredQuantizationError, stored_recipe
from sdk.schemas.catalog import BaseBrief, BaseSelector, BaseView
from sdk.schemas.lora_config import QuantizationRecipe

#: Also reads a base's large columns.
WHOLE = (
    undefer(NamedBase.config),
    undefer(NamedBase.tensors),
    defaultload(NamedBase.base).undefer(BaseModelRow.tensors),
)


def find_base(
    session: Session, name: str, namespace: str, *, whose: Whose = ANYBODYS, whole: bool = False
) -> NamedBase:
    """Return the base that `name`, an id or at least 12 digits of a fingerprint, means in `namespace`: one of its own,
    or one published for all.

    With `whole`, its config and shapes are read too. Raises NotFound, Invalid for a name that means several.
    """
    usable = NamedBase.namespace.in_((namespace, EVERYWHERE))
    row = meaning_of(session, name, _among(usable, whose), options=WHOLE if whole else ())
    if row is None:
        where = "" if namespace in (EVERYWHERE, "-") else f" --namespace {namespace}"
        here = " in this namespace" if where else ""
        raise NotFound(
            f"there is no base {name[:200]!a}{whose.shown or here}; add it with: adapterctl base add FOLDER{where}",
            param="base",
        )
    return row


def find_visible(
    session: Session,
    name: str,
    who: Principal,
    *,
    namespace: str | None = None,
    whose: Whose = ANYBODYS,
    whole: bool = False,
) -> NamedBase:
    """Return the base that `name` means to the caller: in `namespace`, or else wherever they may read.

    Raises NotFound, Invalid if it means different bases there.
    """
    for space in (namespace, whose.only):
        if space is not None:
            who.require("read", space)
    if namespace is not None:
        return find_base(session, name, namespace, whose=whose, whole=whole)
    readable = who.within(NamedBase.namespace)
    row = meaning_of(session, name, _among(readable, whose), options=WHOLE if whole else ())
    if row is None:
        raise NotFound(
            f"there is no base {name[:200]!a}{whose.shown}; add it with: adapterctl base add FOLDER", param="base"
        )
    return row


def find_administered(session: Session, name: BaseSelector, who: Principal) -> NamedBase:
    """Exactly the base that an admin means. Raises NotFound, Forbidden, Invalid."""
    namespace = name.namespace or _only_namespace(session, name.name, who)
    who.require("admin", namespace, param="namespace")
    row = meaning_of(session, name.name, NamedBase.namespace == namespace)
    if row is None:
        published = find_base(session, name.name, namespace)
        raise NotFound(
            f"the base {published.id} does not belong to this namespace but is published for all; add --published",
            param="base",
        )
    # Locked in the same order as when it is registered; it may have been removed or changed until now.
    fingerprint = row.base.fingerprint
    session.execute(select(BaseModelRow.pk).where(BaseModelRow.pk == row.base_pk).with_for_update())
    session.expire(row)
    if meaning_of(session, fingerprint, NamedBase.namespace == namespace) is not row:
        raise NotFound(f"there is no base {name.name[:200]!a} in this namespace any more", param="base")
    return row


def _only_namespace(session: Session, name: str, who: Principal) -> str:
    """The namespace of a base that an admin names without one: the only one of theirs that has it. Raises Invalid for
    several, and for a name that means several bases.
    """
    base = find_visible(session, name, who)
    theirs = namespaces_meaning(session, name, who.within(NamedBase.namespace, "admin"))
    if len(theirs) > 1:
        shown = ", ".join("published" if space == EVERYWHERE else space for space in theirs[:5])
        raise Invalid(
            f"the base {base.base.fingerprint[:12]} is registered more than once ({shown}); say which is meant: --published, or "
            "--base-namespace NAMESPACE",
            param="namespace",
        )
    return theirs[0] if theirs else base.namespace


def _among(within: ColumnElement[bool], whose: Whose) -> ColumnElement[bool]:
    return within if whose.only is None else and_(within, NamedBase.namespace == whose.only)


def find_derived(session: Session, fingerprint: str, manifest_digest: str) -> NamedBase | None:
    """Return a base, whole, with exactly the files of a manifest, if the registry has derived what they say."""
    query = select(NamedBase).join(BaseModelRow, BaseModelRow.pk == NamedBase.base_pk)
    query = query.where(
        BaseModelRow.fingerprint == fingerprint,
        BaseModelRow.derived_at.is_not(None),
        NamedBase.manifest_digest == manifest_digest,
        NamedBase.facts == "derived",
    )
    return session.scalars(query.options(*WHOLE).limit(1)).first()


def tensors_of(row: NamedBase) -> dict[str, list[int]]:
    """The shape of each tensor, by name, of a base that was found whole: by what its namespace has sent, or else by
    what it said.

    What others have sent under the same fingerprint doesn't count for it.
    """
    return row.base.tensors if row.facts == "derived" else row.tensors


class KnownBase(NamedTuple):
    """What a publication needs to know about a base."""

    pk: int
    brief: BaseBrief
    #: The shape of each tensor, by name; {} if nobody has said them, or the base is quantised in a way that hides them.
    tensors: dict[str, list[int]]
    #: Its config.json; {} if nobody has given it.
    config: dict[str, Any]
    #: How it is packed, if it is stored in 4 bits.
    packing: QuantizationRecipe | None = None
    #: Why its shapes are not known: a clause whose subject is the base.
    hidden: str | None = None


def known_base(pk: int, brief: BaseBrief, tensors: dict[str, list[int]], config: dict[str, Any]) -> KnownBase:
    """Return what a publication needs to know about a base with these shapes and this config; {} for what nobody has
    said.
    """
    try:
        packing = stored_recipe(config, tensors)
    except StoredQuantizationError as error:
        # With other methods, the weights have different names and shapes than the modules that an adapter is checked
        # against.
        return KnownBase(pk, brief, {}, config, hidden=str(error))
    if packing is not None:
        packing = packing.model_copy(update={"block_size": block_size_of(tensors) or packing.block_size})
    return KnownBase(pk, brief, tensors, config, packing)


#: Tells whether anything about a base has changed since it was read. A key alone does not: SQLite gives the key of a
#: removed row to the next one.
_STAMP = (
    select(
        NamedBase.pk,
        NamedBase.named_at,
        NamedBase.edition,
        BaseModelRow.pk,
        BaseModelRow.fingerprint,
    )
    .join(BaseModelRow, BaseModelRow.pk == NamedBase.base_pk)
    .where(
        BaseModelRow.fingerprint == bindparam("fingerprint"),
        NamedBase.namespace.in_(bindparam("namespaces", expanding=True)),
    )
    .order_by(*NEAREST)
    .limit(1)
)


class KnownBases:
    """The bases that publications named last: the names of thousands of tensors are read once, not for each of them."""

    def __init__(self, *, keep: int = 16) -> None:
        self._keep = keep
        self._known: dict[tuple[object, ...], KnownBase] = {}
        self._guard = Lock()

    def find(self, session: Session, fingerprint: str, namespace: str) -> KnownBase:
        """Return the base with a whole fingerprint, as `namespace` knows it. Raises NotFound."""
        said = {"fingerprint": fingerprint, "namespaces": [namespace, EVERYWHERE]}
        found = session.execute(_STAMP, said).first()
        stamp = None if found is None else tuple(found)
        with self._guard:
            known = None if stamp is None else self._known.pop(stamp, None)
        if known is None or stamp is None:
            row = find_base(session, fingerprint, namespace, whole=True)
            known = known_base(row.base_pk, brief_base(row), tensors_of(row), table(row.config))
            stamp = (row.pk, row.named_at, row.edition, row.base.pk, row.base.fingerprint)
        with self._guard:
            # The one named last is at the end.
            self._known[stamp] = known
            while len(self._known) > self._keep:
                del self._known[next(iter(self._known))]
        return known


def files_of(session: Session, row: NamedBase) -> str | None:
    """The digest of the manifest of a base's files in storage: those of its namespace, or else those published for
    all.
    """
    if row.manifest_digest is not None or row.namespace == EVERYWHERE:
        return row.manifest_digest
    published = (NamedBase.namespace == EVERYWHERE, NamedBase.base_pk == row.base_pk)
    return session.scalars(select(NamedBase.manifest_digest).where(*published)).first()


def brief_base(row: NamedBase) -> BaseBrief:
    """Return a base as named in the record of versions."""
    return view_of(BaseBrief, row, fingerprint=row.base.fingerprint)


def base_of(version: Version) -> BaseBrief:
    """Return a version's base by the name that its namespace had for it when the version was made."""
    return BaseBrief(
        id=version.base_id,
        revision=version.base_revision,
        fingerprint=version.base.fingerprint,
        weights_digest=version.base_weights_digest,
        architecture=version.base_architecture,
    )


def present(row: NamedBase, *, whole: bool = False, replaces: str | None = None) -> BaseView:
    """Return a base as sent over the API; with its config if `whole`."""
    return view_of(
        BaseView,
        row,
        fingerprint=row.base.fingerprint,
        uploaded=row.manifest_digest is not None,
        config=table(row.config) if whole else None,
        replaces=replaces,
    )
