"""Tokens: shown once, kept as hashes, worthless once expired or revoked."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from registry.auth.models import Token
from registry.auth.service import LOCAL, Principal, Role, Tokens
from registry.db import Database, utc_now
from registry.errors import Forbidden, NotFound, Unauthenticated


def test_the_secret_is_nowhere_at_rest(db: Database, tmp_path: Path) -> None:
    _, secret = Tokens(db).create(name="ci", role=Role.WRITER)
    with sqlite3.connect(tmp_path / "registry.sqlite3") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert "ci" in dump
    assert secret not in dump
    assert secret.removeprefix("actl_") not in dump
    for path in tmp_path.iterdir():
        assert secret.encode() not in path.read_bytes()


def test_a_token_says_who_holds_it(db: Database) -> None:
    tokens = Tokens(db)
    token_id, secret = tokens.create(name="ci", role=Role.PROMOTER, days=1)
    assert tokens.check(secret) == Principal("ci", Role.PROMOTER)
    (listed,) = tokens.list()
    assert (listed.id, listed.name, listed.role, listed.revoked_at) == (token_id, "ci", "promoter", None)
    assert listed.expires_at is not None
    assert timedelta(hours=23) < listed.expires_at - utc_now() < timedelta(hours=25)


def test_two_tokens_never_have_one_secret(db: Database) -> None:
    tokens = Tokens(db)
    assert len({tokens.create(name="x", role=Role.READER) for _ in range(20)}) == 20


@pytest.mark.parametrize("secret", [None, "", "actl_", "actl_guess", "é", "\ud800", "x" * 100_000])
def test_a_secret_that_nobody_gave_out_is_refused(db: Database, secret: str | None) -> None:
    Tokens(db).create(name="ci", role=Role.READER)
    with pytest.raises(Unauthenticated):
        Tokens(db).check(secret)


def test_a_hash_is_no_secret(db: Database) -> None:
    Tokens(db).create(name="ci", role=Role.READER)
    (listed,) = Tokens(db).list()
    with pytest.raises(Unauthenticated):
        Tokens(db).check(listed.secret_sha256)


def test_an_expired_token_is_refused(db: Database) -> None:
    tokens = Tokens(db)
    token_id, secret = tokens.create(name="ci", role=Role.READER, days=1)
    tokens.check(secret)
    with db.write() as session:
        past = utc_now() - timedelta(seconds=1)
        session.execute(update(Token).where(Token.id == token_id).values(expires_at=past))
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.check(secret)


def test_a_revoked_token_is_refused_at_once(db: Database) -> None:
    tokens = Tokens(db)
    token_id, secret = tokens.create(name="ci", role=Role.READER)
    _, other = tokens.create(name="ci", role=Role.READER)
    tokens.revoke(token_id)
    with pytest.raises(Unauthenticated, match="revoked"):
        tokens.check(secret)
    tokens.check(other)
    with pytest.raises(NotFound, match="adapter-registry token list"):
        tokens.revoke("nobody")


@pytest.mark.parametrize(
    ("action", "roles"),
    [
        ("read", {"reader", "writer", "promoter", "worker", "admin"}),
        ("write", {"writer", "promoter", "worker", "admin"}),
        ("work", {"worker", "admin"}),
    ],
)
def test_what_each_role_may_do(action: str, roles: set[str]) -> None:
    for role in Role:
        if role.value in roles:
            Principal("x", role).require(action)
        else:
            with pytest.raises(Forbidden, match="use one with a role of"):
                Principal("x", role).require(action)
    LOCAL.require(action)
