"""What a gateway learns of the holder of a token: grants in its own namespaces, and nothing else."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import update
from support.registries import World

from registry.access.models import Token
from registry.access.secret_digests import secret_digest
from registry.db.types import utc_now
from registry.principal import SYSTEM, Role
from sdk.api.serving import standing
from sdk.client import Client
from sdk.errors import InvalidInput, NotAllowed, NotFound

NOBODY = "0" * 64


@pytest.fixture
def gateway(acting: Callable[..., Client], space: str) -> Client:
    return acting(**{space: Role.SERVER})


@pytest.fixture
def holder(people: World) -> Callable[..., str]:
    """Return a function that makes a token with roles by namespace, and returns its secret."""

    def make(**grants: Role) -> str:
        name = f"user {uuid.uuid4().hex}"
        return people.services.tokens.create(name=name, grants=grants, who=SYSTEM).secret

    return make


def grants_of(gateway: Client, secret: str) -> list[tuple[str, str]]:
    return [(one.namespace, str(one.role)) for one in standing(gateway.transport, secret_digest(secret)).grants]


def test_a_gateway_learns_what_a_holder_may_do_in_its_namespaces(
    gateway: Client, acting: Callable[..., Client], holder: Callable[..., str], space: str
) -> None:
    assert grants_of(gateway, holder(**{space: Role.READER, "elsewhere": Role.ADMIN})) == [(space, "reader")]
    assert grants_of(gateway, holder(elsewhere=Role.ADMIN)) == []
    # A role everywhere is one here, and that it is one elsewhere too is not said.
    assert grants_of(gateway, holder(**{"*": Role.WRITER})) == [(space, "writer")]
    both = acting(**{space: Role.SERVER, f"{space}x": Role.SERVER, "elsewhere": Role.READER})
    assert grants_of(both, holder(**{"*": Role.READER, "elsewhere": Role.ADMIN})) == [
        (space, "reader"),
        (f"{space}x", "reader"),
    ]
    assert grants_of(acting(**{"*": Role.SERVER}), holder(**{"*": Role.READER, space: Role.WRITER})) == [
        ("*", "reader"),
        (space, "writer"),
    ]


def test_a_token_that_has_ended_and_one_that_never_was_are_answered_alike(
    gateway: Client, holder: Callable[..., str], people: World, space: str
) -> None:
    revoked, expired = holder(**{space: Role.READER}), holder(**{space: Role.READER})
    assert grants_of(gateway, revoked) == grants_of(gateway, expired) == [(space, "reader")]
    people.services.tokens.revoke(people.services.tokens.check(revoked).token_id or "", who=SYSTEM)
    with people.services.db.write() as session:
        ended = utc_now() - timedelta(seconds=1)
        session.execute(update(Token).where(Token.secret_sha256 == secret_digest(expired)).values(expires_at=ended))
    answers = [standing(gateway.transport, secret_digest(secret)) for secret in (revoked, expired, "actl_never")]
    assert all(answer.grants == [] for answer in answers)
    assert len({answer.valid_for_s for answer in answers}) == 1


def test_an_answer_is_valid_no_longer_than_its_token(
    gateway: Client, holder: Callable[..., str], people: World, space: str
) -> None:
    secret = holder(**{space: Role.READER})
    assert standing(gateway.transport, secret_digest(secret)).valid_for_s == 5
    with people.services.db.write() as session:
        soon = utc_now() + timedelta(seconds=3)
        session.execute(update(Token).where(Token.secret_sha256 == secret_digest(secret)).values(expires_at=soon))
    assert 0 < standing(gateway.transport, secret_digest(secret)).valid_for_s <= 3


@pytest.mark.parametrize("role", list(Role))
def test_only_gateways_and_admins_ask_for_others(acting: Callable[..., Client], space: str, role: Role) -> None:
    client = acting(**{space: role})
    if role in (Role.SERVER, Role.ADMIN):
        assert standing(client.transport, NOBODY).grants == []
    else:
        with pytest.raises(NotAllowed, match="role of: admin, server"):
            standing(client.transport, NOBODY)


def test_a_role_elsewhere_makes_no_gateway_here(
    acting: Callable[..., Client], holder: Callable[..., str], space: str
) -> None:
    mixed = acting(**{space: Role.READER, f"{space}x": Role.SERVER})
    assert grants_of(mixed, holder(**{space: Role.ADMIN})) == []


def test_what_is_no_digest_is_refused(gateway: Client) -> None:
    for text in ("", "0" * 63, "A" * 64, "actl_secret"):
        with pytest.raises(InvalidInput):
            standing(gateway.transport, text)


def test_a_gateway_reads_as_a_reader_does_and_changes_nothing(gateway: Client, space: str) -> None:
    assert gateway.adapters() == []
    for change in (
        lambda: gateway.tokens.create("x", {space: "reader"}),
        lambda: gateway.set_alias(f"{space}/a", "x", 1),
        lambda: gateway.tokens(),
    ):
        with pytest.raises((NotAllowed, NotFound)):
            change()


def test_a_revoked_gateway_learns_nothing_more(
    people: World, gateway: Client, holder: Callable[..., str], space: str
) -> None:
    secret = holder(**{space: Role.READER})
    people.services.tokens.revoke(gateway.tokens.whoami().token or "", who=SYSTEM)
    time.sleep(0.6)
    with pytest.raises(NotAllowed):
        grants_of(gateway, secret)
