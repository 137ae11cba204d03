"""Making, checking, replacing and revoking tokens.

A name says who acted, so two tokens in use that both have a role in a namespace have different names. Nothing else
depends on it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.access.keys import Keyed, keep, kept
from registry.access.models import Grant, Token, in_use
from registry.access.secret_digests import secret_digest
from registry.db.database import Database
from registry.db.stored_json import view_of
from registry.db.types import db_now, utc_now
from registry.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from registry.principal import EVERYWHERE, LOCAL, SYSTEM, Principal, Role, require_namespace
from sdk.formats.visible_labels import parse_label, same_label
from sdk.schemas.access import GrantView, LostGrant, NewToken, RevocationView, TokenView
from sdk.schemas.wire import digest_of

#: Names that stand for the registry itself in histories, and for callers without a token in logs.
_OURS = frozenset({LOCAL.name, SYSTEM.name, "system", "anonymous", "nobody", "adapterctl"})
#: Names that promise more than a role in some namespaces gives.
_ADMINS = frozenset({"admin", "administrator", "root"})
_MOST_NAME_CHARS = 100
#: Held while a token is created or revoked: two at once could take the same name, or use a token that is being revoked.
_TOKENS_LOCK = 0x6164617074746F6B

#: How many tokens may be in use with a role in one namespace.
MOST_TOKENS = 1000


class Tokens:
    """The service over the table of tokens."""

    def __init__(self, db: Database, *, on_ended: Callable[[Session, Collection[str]], None] | None = None) -> None:
        """`on_ended` is called in each transaction that ends or narrows a token, with the namespaces in which it loses roles."""
        self._db = db
        self._on_ended = on_ended

    def create(
        self,
        *,
        name: str,
        grants: Mapping[str, Role],
        days: int | None = None,
        replace: bool = False,
        overlap_hours: int = 0,
        who: Principal,
        idempotency_key: str | None = None,
    ) -> NewToken:
        """Create a token that allows `grants` (namespace to role); its secret can't be read again.

        The same key gives the same token with a new secret in the place of the first, which is stored nowhere. With
        `replace`, the tokens in use that have this name there end `overlap_hours` later. Raises Forbidden if the caller
        administers less than `grants`, InvalidName for what is not a namespace, Invalid for a name that can't be told
        from another, Conflict if a token in use has it, a namespace has too many, or the key is of another request or of
        a token that has ended, Unauthenticated if the caller's own token is revoked.
        """
        if not grants:
            raise Invalid("a token without a role allows nothing; give it one", param="grants")
        for namespace in grants:
            _check_namespace(namespace)
        token_id = secrets.token_hex(8)
        secret = f"actl_{secrets.token_urlsafe(32)}"
        token = Token(
            id=token_id,
            name=name,
            secret_sha256=secret_digest(secret),
            created_by=who.name,
            created_at=utc_now(),
            expires_at=None if days is None else utc_now() + timedelta(days=days),
            grants=[Grant(namespace=namespace, role=role.value) for namespace, role in sorted(grants.items())],
        )
        with self._alone(who) as (session, who):
            for namespace in grants:
                _require_admin(who, namespace)
            request = None
            if idempotency_key is not None:
                asked = [name, sorted(grants.items()), days, replace, overlap_hours]
                request = Keyed.of(who, idempotency_key, digest_of(asked))
            if request is not None and (earlier_id := kept(session, request)) is not None:
                view = _renewed(session, earlier_id, token.secret_sha256, who)
                return NewToken(**view.model_dump(), secret=secret)
            for namespace in grants:
                _require_few(session, namespace)
            _check_name(name, who)
            for earlier in _namesakes(session, name, grants):
                if not replace or not _administers(who, earlier):
                    raise _taken(name, earlier, who)
                _end(session, earlier, token, after=timedelta(hours=overlap_hours), who=who)
                self._ended(session, earlier)
            session.add(token)
            view = _present(token)
            # The admins of each namespace can see in their audit trail who got a role there.
            for grant in token.grants:
                after = view.model_dump(mode="json")
                record(session, who, "token.create", grant.namespace, token_id, after=after)
            if request is not None:
                keep(session, request, token_id)
        return NewToken(**view.model_dump(), secret=secret)

    def revoke(self, token_id: str, *, who: Principal) -> TokenView:
        """Revoke a token at once; repeating it is harmless.

        Raises NotFound for one that the caller may not see, Unauthenticated if the caller's own token is revoked.
        """
        with self._alone(who) as (session, who):
            token = session.get(Token, token_id, with_for_update=True)
            if token is None or token.forgotten_at is not None or not _administers(who, token):
                raise NotFound(f"there is no token {token_id[:40]!a}; list them with: adapterctl token list")
            if token.revoked_at is None:
                token.revoked_at = utc_now()
                for grant in token.grants:
                    record(session, who, "token.revoke", grant.namespace, token_id, before={"name": token.name})
                self._ended(session, token)
            return _present(token)

    def revoke_namespace(self, namespace: str, *, who: Principal) -> RevocationView:
        """Take away every token's role in a namespace, and revoke tokens without another role.

        The caller's own token keeps its role, and so do tokens with a role in all namespaces.
        Raises Forbidden unless the caller administers it, InvalidName for what is not a namespace, Unauthenticated if the
        caller's own token is revoked.
        """
        _check_namespace(namespace, param="namespace")
        lost, everywhere = [], 0
        with self._alone(who) as (session, who):
            _require_admin(who, namespace)
            for token in _in_use(session, {namespace, EVERYWHERE}):
                grants = {grant.namespace: grant for grant in token.grants}
                everywhere += EVERYWHERE in grants and namespace != EVERYWHERE
                if namespace not in grants or token.id == who.token_id:
                    continue
                role, last = grants[namespace].role, len(grants) == 1
                before = {"name": token.name, "role": role}
                if last:
                    # Its grant stays, so that it can be looked up later.
                    token.revoked_at = utc_now()
                    record(session, who, "token.revoke", namespace, token.id, before=before)
                else:
                    token.grants.remove(grants[namespace])
                    record(session, who, "token.narrow", namespace, token.id, before=before)
                self._ended(session, token, [namespace])
                lost.append(LostGrant(token=token.id, name=token.name, role=Role(role).value, revoked=last))
        kept = who.token_id if namespace in who.grants else None
        return RevocationView(namespace=namespace, lost=lost, kept=kept, everywhere=everywhere)

    def list(self, *, who: Principal) -> list[TokenView]:
        """The tokens that the caller administers, newest first, without secrets: the last `MOST_TOKENS`, and all that are
        in use.
        """
        namespaces = who.namespaces("admin")
        known = select(Token).where(Token.forgotten_at.is_(None))
        if namespaces is not None:
            granted = select(Grant.token_id).where(Grant.token_id == Token.id)
            elsewhere = granted.where(Grant.namespace.not_in(namespaces))
            known = known.where(granted.exists(), ~elsewhere.exists())
        newest = (Token.created_at.desc(), Token.id)
        with self._db.read() as session:
            found = {token.id: token for token in session.scalars(known.where(in_use()).order_by(*newest))}
            found |= {token.id: token for token in session.scalars(known.order_by(*newest).limit(MOST_TOKENS))}
            shown = sorted(found.values(), key=lambda token: token.id)
            return [_present(token) for token in sorted(shown, key=lambda token: token.created_at, reverse=True)]

    def check(self, secret: str | None) -> Principal:
        """Return who holds `secret`. Raises Unauthenticated if there is none, or it is unknown, expired or revoked."""
        if not secret:
            raise Unauthenticated("this registry needs a token; set ADAPTERCTL_TOKEN or run: adapterctl login URL")
        with self._db.read() as session:
            return _holder(session, Token.secret_sha256 == secret_digest(secret))

    def holder(self, owner: str) -> Principal:
        """Return who has this `Principal.owner`, with the roles that they have now. Raises Unauthenticated."""
        with self._db.read() as session:
            return _holder(session, Token.id == owner.removeprefix("token:"))

    def _ended(self, session: Session, token: Token, namespaces: Collection[str] | None = None) -> None:
        """Tell who goes by the roles that tokens have; None: it loses all of its own."""
        if self._on_ended is not None:
            self._on_ended(session, [grant.namespace for grant in token.grants] if namespaces is None else namespaces)

    @contextmanager
    def _alone(self, who: Principal) -> Iterator[tuple[Session, Principal]]:
        """Until the block ends, nobody else creates or revokes a token; yields the caller, with the roles that they have now.

        What was known about their token when the request came may predate its revocation. Raises Unauthenticated.
        """
        with self._db.write() as session:
            # On SQLite a writing transaction is exclusive anyway.
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TOKENS_LOCK})
            yield session, with_present_roles(session, who)


def with_present_roles(session: Session, who: Principal) -> Principal:
    """Return a caller with the roles that their token has now, by the database's clock. Raises Unauthenticated if it was revoked
    or has expired.
    """
    return who if who.token_id is None else _holder(session, Token.id == who.token_id, db_now(session))


def _check_name(name: str, who: Principal) -> None:
    try:
        label = same_label(parse_label(name))
    except ValueError as error:
        raise Invalid(f"the name of a token: {error}", param="name") from None
    if len(name) > _MOST_NAME_CHARS:
        raise Invalid(f"a token's name has at most {_MOST_NAME_CHARS} characters; choose a shorter one", param="name")
    if label in _OURS:
        raise Invalid(f"{name!a} stands for the registry itself in histories; choose another name", param="name")
    if label in _ADMINS and who.grants.get(EVERYWHERE) is not Role.ADMIN:
        raise Invalid(f"{name!a} can be given out only by admins of all namespaces; choose another name", param="name")


def _holder(session: Session, which: ColumnElement[bool], now: datetime | None = None) -> Principal:
    """Who holds a token. Raises Unauthenticated for one that is unknown, expired or revoked."""
    token = session.scalars(select(Token).where(which, in_use(now))).first()
    if token is None:
        raise Unauthenticated(
            "the token is unknown, expired or revoked; ask an admin for a new one, then run: adapterctl login URL"
        )
    return principal_of(token)


def principal_of(token: Token) -> Principal:
    """Return who holds a token, with the roles that it has now."""
    return Principal(token.name, {grant.namespace: Role(grant.role) for grant in token.grants}, token.id)


def _in_use(session: Session, namespaces: Collection[str] | None) -> Sequence[Token]:
    """The tokens that are neither revoked nor expired, oldest first; only those with a role in one of these
    namespaces.
    """
    query = select(Token).where(in_use())
    if namespaces is not None:
        query = query.where(Token.id.in_(select(Grant.token_id).where(Grant.namespace.in_(namespaces))))
    return session.scalars(query.order_by(Token.created_at, Token.id)).all()


def _require_few(session: Session, namespace: str) -> None:
    """Raise Conflict if a namespace has as many tokens in use as it may; an admin of all may create any number for all."""
    if namespace == EVERYWHERE:
        return
    there = select(Grant.token_id).join(Token, Token.id == Grant.token_id).where(Grant.namespace == namespace, in_use())
    if (session.scalar(select(func.count()).select_from(there.limit(MOST_TOKENS).subquery())) or 0) >= MOST_TOKENS:
        raise Conflict(
            f"the namespace {namespace!r} has {MOST_TOKENS} tokens in use, and can't have more; revoke some: "
            "adapterctl token list",
            param="grants",
        )


def _namesakes(session: Session, name: str, grants: Collection[str]) -> list[Token]:
    """The tokens in use that have this name, and a role in a namespace where a token with `grants` would have one."""
    # A role in all namespaces is a role in each of them.
    there = None if EVERYWHERE in grants else {*grants, EVERYWHERE}
    return [token for token in _in_use(session, there) if same_label(token.name) == same_label(name)]


def _renewed(session: Session, token_id: str, secret_sha256: str, who: Principal) -> TokenView:
    """Give a token that was created with the same key another secret. Raises Conflict if it is no longer in use."""
    token = session.scalars(select(Token).where(Token.id == token_id, in_use())).first()
    if token is None:
        raise Conflict(
            f"token {token_id}, which this idempotency key has created, is no longer in use; use a new key",
            param="idempotency_key",
        )
    token.secret_sha256 = secret_sha256
    view = _present(token)
    for grant in token.grants:
        record(session, who, "token.create", grant.namespace, token_id, after=view.model_dump(mode="json"))
    return view


def _taken(name: str, token: Token, who: Principal) -> Conflict:
    if not _administers(who, token):
        return Conflict(f"a token in use here is already called {name!a}; choose another name", param="name")
    return Conflict(
        f"token {token.id}, which is in use here, is already called {token.name!a}; choose "
        "another name, or replace it with --replace",
        param="name",
    )


def _end(session: Session, token: Token, successor: Token, *, after: timedelta, who: Principal) -> None:
    """End a token in favour of another with its name."""
    end = utc_now() + after
    if after:
        token.expires_at = end if token.expires_at is None else min(end, token.expires_at)
    else:
        token.revoked_at = end
    told = {"replaced_by": successor.id, "expires_at": end.isoformat()}
    for grant in token.grants:
        record(session, who, "token.replace", grant.namespace, token.id, before={"name": token.name}, after=told)


def _check_namespace(namespace: str, *, param: str = "grants") -> None:
    hint = "or '*' for all, '-' for names without a namespace"
    require_namespace(namespace, hint, also=(EVERYWHERE, "-"), param=param)


def _require_admin(who: Principal, namespace: str) -> None:
    if namespace == EVERYWHERE:
        who.require("admin", EVERYWHERE)
    elif not who.may("admin", namespace):
        raise Forbidden(f"this token may not give out roles in {namespace!r}; use one that is admin there")


def _administers(who: Principal, token: Token) -> bool:
    """Whether the caller is an admin of everything that a token allows."""
    namespaces = who.namespaces("admin")
    # A token that went down to schema 0001 and up again may have no grants left.
    within = bool(token.grants) and namespaces is not None and all(one.namespace in namespaces for one in token.grants)
    return namespaces is None or within


def _present(token: Token) -> TokenView:
    grants = [GrantView(namespace=grant.namespace, role=Role(grant.role).value) for grant in token.grants]
    return view_of(TokenView, token, grants=grants)
