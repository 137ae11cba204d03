"""Tokens: shown once, kept as hashes, worthless once expired or revoked; given out only by who administers as much."""

from __future__ import annotations

import itertools
import json
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from registry.access.models import AuditEntry, Token
from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.db.types import utc_now
from registry.errors import Forbidden, Invalid, InvalidName, NotFound, Unauthenticated
from registry.principal import LOCAL, Principal, Role
from sdk.schemas.access import GrantView, NewToken

#: Whoever comes without a token is who they are said to be.
TEAM_ADMIN = Principal("ana", {"team": Role.ADMIN, "-": Role.READER})


#: Names that no other token has.
NAMES = (f"ci-{number}" for number in itertools.count())


def make(db: Database, name: str | None = None, *, days: int | None = None, **grants: Role) -> NewToken:
    """A token of `grants` (namespace=role), given out by an admin of all."""
    return Tokens(db).create(name=name or next(NAMES), grants=grants or {"*": Role.READER}, days=days, who=LOCAL)


def trail(db: Database) -> list[AuditEntry]:
    with db.read() as session:
        return list(session.scalars(select(AuditEntry).order_by(AuditEntry.pk)))


def everything_at_rest(db: Database, folder: Path) -> str:
    with sqlite3.connect(folder / "registry.sqlite3") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        dump = "\n".join(connection.iterdump())
    connection.close()
    return dump + "".join(path.read_bytes().decode("latin-1") for path in folder.iterdir())


def test_the_secret_is_nowhere_at_rest(db: Database, tmp_path: Path) -> None:
    made = make(db, team=Role.WRITER)
    Tokens(db).revoke(made.id, who=LOCAL)
    kept = everything_at_rest(db, tmp_path)
    assert "ci" in kept
    assert made.secret not in kept
    assert made.secret.removeprefix("actl_") not in kept
    assert made.secret not in repr(made)
    assert made.secret not in f"{made}"


def test_a_token_says_who_holds_it(db: Database) -> None:
    made = make(db, "ci", team=Role.PROMOTER, other=Role.READER, days=1)
    assert Tokens(db).check(made.secret) == Principal("ci", {"team": Role.PROMOTER, "other": Role.READER}, made.id)
    (listed,) = Tokens(db).list(who=LOCAL)
    assert (listed.id, listed.name, listed.created_by, listed.revoked_at) == (made.id, "ci", "local", None)
    assert listed.grants == [
        GrantView(namespace="other", role="reader"),
        GrantView(namespace="team", role="promoter"),
    ]
    assert listed.expires_at is not None
    assert timedelta(hours=23) < listed.expires_at - utc_now() < timedelta(hours=25)
    assert "secret" not in listed.model_dump()


def test_tokens_are_listed_the_newest_first(db: Database) -> None:
    made = [make(db, name) for name in ("a", "b", "c")]
    assert [token.id for token in Tokens(db).list(who=LOCAL)] == [token.id for token in reversed(made)]


@pytest.mark.parametrize("secret", [None, "", "actl_", "actl_guess", "é", "\ud800", "x" * 100_000])
def test_a_secret_that_nobody_gave_out_is_refused(db: Database, secret: str | None) -> None:
    make(db)
    with pytest.raises(Unauthenticated, match="adapterctl login"):
        Tokens(db).check(secret)


def test_a_hash_is_no_secret(db: Database) -> None:
    made = make(db)
    with db.read() as session:
        kept = session.get_one(Token, made.id).secret_sha256
    with pytest.raises(Unauthenticated):
        Tokens(db).check(kept)


def test_an_expired_token_is_refused(db: Database) -> None:
    tokens = Tokens(db)
    made = make(db, days=1)
    tokens.check(made.secret)
    with db.write() as session:
        past = utc_now() - timedelta(seconds=1)
        session.execute(update(Token).where(Token.id == made.id).values(expires_at=past))
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.check(made.secret)


def test_a_revoked_token_is_refused_at_once(db: Database) -> None:
    tokens = Tokens(db)
    made, other = make(db), make(db)
    revoked = tokens.revoke(made.id, who=LOCAL)
    assert revoked.revoked_at is not None
    with pytest.raises(Unauthenticated, match="revoked"):
        tokens.check(made.secret)
    tokens.check(other.secret)
    # Again is harmless, and changes nothing.
    assert tokens.revoke(made.id, who=LOCAL) == revoked
    assert [entry.action for entry in trail(db)].count("token.revoke") == 1
    with pytest.raises(NotFound, match="adapterctl token list"):
        tokens.revoke("nobody", who=LOCAL)


def test_a_token_without_a_role_is_refused(db: Database) -> None:
    with pytest.raises(Invalid, match="give it one"):
        Tokens(db).create(name="ci", grants={}, who=LOCAL)


@pytest.mark.parametrize("namespace", ["", "Team", "a/b", "team/*", "..", "**", "a" * 65])
def test_what_is_no_namespace_is_refused(db: Database, namespace: str) -> None:
    with pytest.raises(InvalidName, match=r"'\*' for all"):
        Tokens(db).create(name="ci", grants={namespace: Role.READER}, who=LOCAL)
    assert Tokens(db).list(who=LOCAL) == []


class TestOfANamespace:
    """An admin of some namespaces gives out, lists and revokes what lies within them, and knows of nothing else."""

    def test_gives_out_only_within_it(self, db: Database) -> None:
        tokens = Tokens(db)
        made = tokens.create(name="ci", grants={"team": Role.ADMIN}, who=TEAM_ADMIN)
        assert made.created_by == "ana"
        for grants in (
            {"other": Role.READER},
            {"-": Role.READER},
            {"team": Role.READER, "other": Role.READER},
            {"*": Role.READER},
        ):
            with pytest.raises(Forbidden, match="admin"):
                tokens.create(name="ci", grants=grants, who=TEAM_ADMIN)
        assert [token.id for token in tokens.list(who=LOCAL)] == [made.id]

    @pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMIN])
    def test_no_other_role_gives_out_anything(self, db: Database, role: Role) -> None:
        for where, there in itertools.product(("team", "*"), repeat=2):
            with pytest.raises(Forbidden):
                Tokens(db).create(name="ci", grants={there: Role.READER}, who=Principal("x", {where: role}))

    def test_lists_and_revokes_only_within_it(self, db: Database) -> None:
        tokens = Tokens(db)
        ours = make(db, "ours", team=Role.WRITER)
        foreign = [
            make(db, "other", other=Role.READER),
            make(db, "both", team=Role.READER, other=Role.READER),
            make(db),
        ]
        assert [token.id for token in tokens.list(who=TEAM_ADMIN)] == [ours.id]
        said = set()
        for token_id in [*(token.id for token in foreign), "0" * 16]:
            with pytest.raises(NotFound) as caught:
                tokens.revoke(token_id, who=TEAM_ADMIN)
            said.add(caught.value.message.replace(token_id, "ID"))
        # A token that is there and may not be seen is answered as one that is not there.
        assert len(said) == 1
        for token in foreign:
            tokens.check(token.secret)
        tokens.revoke(ours.id, who=TEAM_ADMIN)
        with pytest.raises(Unauthenticated):
            tokens.check(ours.secret)


def test_the_trail_says_who_made_and_revoked_what_and_holds_no_secret(db: Database) -> None:
    ana = make(db, "ana", team=Role.ADMIN)
    made = Tokens(db).create(name="ci", grants={"team": Role.WRITER}, days=1, who=Tokens(db).check(ana.secret))
    Tokens(db).revoke(made.id, who=LOCAL)
    _, create, revoke = trail(db)
    assert (create.actor, create.token_id, create.action, create.subject) == ("ana", ana.id, "token.create", made.id)
    assert create.before is None
    assert (create.after["name"], create.after["grants"]) == ("ci", [{"namespace": "team", "role": "writer"}])
    assert (revoke.actor, revoke.token_id, revoke.action, revoke.subject) == ("local", None, "token.revoke", made.id)
    assert revoke.before == {"name": "ci"}
    with db.read() as session:
        digest = session.get_one(Token, made.id).secret_sha256
    told = json.dumps([[entry.before, entry.after, entry.subject] for entry in (create, revoke)])
    assert made.secret.removeprefix("actl_") not in told
    assert digest not in told


def test_a_refused_token_leaves_no_trail(db: Database) -> None:
    with pytest.raises(Forbidden):
        Tokens(db).create(name="ci", grants={"other": Role.READER}, who=TEAM_ADMIN)
    assert trail(db) == []
