"""Names of tokens say who acted: no two in use are told apart by nothing, and none passes for the registry itself."""

from __future__ import annotations

import string
import unicodedata
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from registry.access.models import AuditEntry, Token
from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.db.types import utc_now
from registry.errors import Conflict, Forbidden, Invalid, InvalidName, Unauthenticated
from registry.principal import LOCAL, SYSTEM, Principal, Role
from sdk.formats.visible_labels import parse_label, same_label
from sdk.schemas.access import LostGrant, NewToken

#: Whoever comes without a token is who they are said to be.
TEAM_ADMIN = Principal("ana", {"team": Role.ADMIN})
UNSEEN = [
    "ci\n", "ci\t", "c\0i", "ci\x7f", "ci\u200b", "ci\u00ad", "c\u202ei", "ci\u2066", "ci\ufeff", "ci\u00a0x", "ci\u2003x",
    "ci\u3164", "ci\u2800", "ci\ufe0f", "ci\U000e0101", "ci\ud800", "ci\ue000",
]  # fmt: skip


def make(db: Database, name: str, *, who: Principal = SYSTEM, days: int | None = None, **grants: Role) -> NewToken:
    return Tokens(db).create(name=name, grants=grants or {"*": Role.READER}, days=days, who=who)


def trail(db: Database, action: str) -> list[AuditEntry]:
    with db.read() as session:
        return list(session.scalars(select(AuditEntry).where(AuditEntry.action == action).order_by(AuditEntry.pk)))


def works(db: Database, token: NewToken) -> dict[str, Role] | None:
    """What a token allows; None where it is worthless."""
    try:
        return dict(Tokens(db).check(token.secret).grants)
    except Unauthenticated:
        return None


class TestSigns:
    @pytest.mark.parametrize("name", UNSEEN)
    def test_what_can_not_be_seen_is_refused(self, db: Database, name: str) -> None:
        with pytest.raises(Invalid, match="can't be seen") as caught:
            make(db, name)
        assert caught.value.param == "name"
        assert caught.value.message.isascii()

    @pytest.mark.parametrize("name", ["", " ", " ci", "ci "])
    def test_so_are_blanks_at_the_ends_and_nothing_at_all(self, db: Database, name: str) -> None:
        with pytest.raises(Invalid, match="leave the space out"):
            make(db, name)

    def test_and_what_is_too_long(self, db: Database) -> None:
        make(db, "n" * 100)
        with pytest.raises(Invalid, match="at most 100"):
            make(db, "n" * 101)

    @pytest.mark.parametrize("name", ["ci", "Ana of team 2", "Anaïs", "佐藤", "o'brien@example.org", "ci/review:1"])
    def test_what_people_are_called_is_taken(self, db: Database, name: str) -> None:
        assert make(db, name).name == name

    @given(st.text(max_size=40))
    def test_what_is_taken_shows_every_sign(self, text: str) -> None:
        try:
            parse_label(text)
        except ValueError:
            return
        kinds = {unicodedata.category(sign) for sign in text if sign != " "}
        assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
        assert text == text.strip() != ""

    @given(st.text(alphabet=string.ascii_letters + " ", min_size=1, max_size=20))
    def test_case_and_blanks_tell_nobody_apart(self, text: str) -> None:
        assert same_label(text) == same_label(text.upper()) == same_label(text.replace(" ", "  "))


class TestReserved:
    @pytest.mark.parametrize("name", [LOCAL.name, SYSTEM.name, "System", "ANONYMOUS", "\uff52egistry"])
    def test_nobody_is_called_as_the_registry_itself(self, db: Database, name: str) -> None:
        with pytest.raises(Invalid, match="stands for the registry itself"):
            make(db, name)

    @pytest.mark.parametrize("name", ["admin", "Admin", "root"])
    def test_an_admin_of_a_namespace_makes_no_admin_of_all(self, db: Database, name: str) -> None:
        with pytest.raises(Invalid, match="admins of all namespaces"):
            make(db, name, who=TEAM_ADMIN, team=Role.READER)
        make(db, name)

    def test_no_token_owns_what_the_registry_itself_does(self, db: Database) -> None:
        owners = {LOCAL.owner, SYSTEM.owner}
        assert len(owners) == 2
        assert Tokens(db).check(make(db, "ci").secret).owner not in owners


class TestInUse:
    def test_two_that_act_in_one_namespace_have_different_names(self, db: Database) -> None:
        first = make(db, "ci", who=TEAM_ADMIN, team=Role.WRITER)
        for name in ("ci", "CI", "c\uff49"):
            with pytest.raises(Conflict, match=f"token {first.id}, which is in use here") as caught:
                make(db, name, who=TEAM_ADMIN, team=Role.READER)
            assert "--replace" in caught.value.message
        # A role in all namespaces is one here too, and the other way round.
        with pytest.raises(Conflict):
            make(db, "ci")
        make(db, "ops")
        with pytest.raises(Conflict, match="a token in use here is already called 'ops'") as caught:
            make(db, "ops", who=TEAM_ADMIN, team=Role.READER)
        assert "--replace" not in caught.value.message

    def test_elsewhere_it_is_nobodys_business(self, db: Database) -> None:
        make(db, "ci", team=Role.WRITER)
        assert make(db, "ci", other=Role.WRITER).name == "ci"

    def test_one_that_is_revoked_or_expired_is_not_in_use(self, db: Database) -> None:
        Tokens(db).revoke(make(db, "ci").id, who=SYSTEM)
        second = make(db, "ci", days=1)
        with db.write() as session:
            past = utc_now() - timedelta(seconds=1)
            session.execute(update(Token).where(Token.id == second.id).values(expires_at=past))
        make(db, "ci")
        with pytest.raises(Conflict):
            make(db, "ci")


class TestReplaced:
    def replace(self, db: Database, name: str, *, hours: int = 0, who: Principal = SYSTEM, **grants: Role) -> NewToken:
        return Tokens(db).create(name=name, grants=grants, replace=True, overlap_hours=hours, who=who)

    def test_the_earlier_one_ends_at_once(self, db: Database) -> None:
        first = make(db, "ci", team=Role.WRITER)
        second = self.replace(db, "ci", who=TEAM_ADMIN, team=Role.WRITER)
        assert (works(db, first), works(db, second)) == (None, {"team": Role.WRITER})
        (entry,) = trail(db, "token.replace")
        assert (entry.actor, entry.subject, entry.namespace, entry.before) == ("ana", first.id, "team", {"name": "ci"})
        assert entry.after["replaced_by"] == second.id

    def test_or_after_an_overlap(self, db: Database) -> None:
        first = make(db, "ci", team=Role.WRITER)
        self.replace(db, "ci", hours=2, team=Role.WRITER)
        assert works(db, first) is not None
        with db.read() as session:
            row = session.get_one(Token, first.id)
        assert row.expires_at is not None
        assert timedelta(hours=1, minutes=59) < row.expires_at - utc_now() <= timedelta(hours=2)
        # A third one would be the third in use.
        with pytest.raises(Conflict):
            make(db, "ci", team=Role.WRITER)
        third = self.replace(db, "ci", hours=1, team=Role.WRITER)
        with db.read() as session:
            ends = {token.id: token.expires_at for token in session.scalars(select(Token))}
        assert ends[third.id] is None
        assert all(
            end is not None and end - utc_now() <= timedelta(hours=1) for end in ends.values() if end is not None
        )

    def test_an_overlap_lengthens_no_life(self, db: Database) -> None:
        first = make(db, "ci", days=1, team=Role.WRITER)
        self.replace(db, "ci", hours=720, team=Role.WRITER)
        with db.read() as session:
            assert session.get_one(Token, first.id).expires_at == first.expires_at

    def test_nobody_replaces_what_they_do_not_administer(self, db: Database) -> None:
        for name, grants in (("ops", {"*": Role.ADMIN}), ("both", {"team": Role.READER, "other": Role.ADMIN})):
            held = Tokens(db).create(name=name, grants=grants, who=SYSTEM)
            with pytest.raises(Conflict, match="choose another name"):
                self.replace(db, name, who=TEAM_ADMIN, team=Role.READER)
            assert works(db, held) == grants

    def test_where_there_is_none_one_is_made(self, db: Database) -> None:
        assert works(db, self.replace(db, "ci", team=Role.WRITER)) == {"team": Role.WRITER}


class TestNamespaceRevoked:
    def test_every_token_loses_its_role_there(self, db: Database) -> None:
        ours = make(db, "ours", team=Role.WRITER)
        both = make(db, "both", team=Role.ADMIN, other=Role.READER)
        theirs = make(db, "theirs", other=Role.WRITER)
        ops = make(db, "ops")
        gone = make(db, "gone", team=Role.WRITER)
        Tokens(db).revoke(gone.id, who=SYSTEM)
        done = Tokens(db).revoke_namespace("team", who=TEAM_ADMIN)
        assert done.lost == [
            LostGrant(token=ours.id, name="ours", role="writer", revoked=True),
            LostGrant(token=both.id, name="both", role="admin", revoked=False),
        ]
        assert (done.kept, done.everywhere) == (None, 1)
        assert [works(db, token) for token in (ours, both, theirs, ops)] == [
            None,
            {"other": Role.READER},
            {"other": Role.WRITER},
            {"*": Role.READER},
        ]
        assert [(entry.subject, entry.namespace) for entry in trail(db, "token.narrow")] == [(both.id, "team")]
        assert [entry.subject for entry in trail(db, "token.revoke")] == [gone.id, ours.id]
        # Again is harmless.
        assert Tokens(db).revoke_namespace("team", who=TEAM_ADMIN).lost == []
        assert [entry.subject for entry in trail(db, "token.revoke")] == [gone.id, ours.id]

    def test_the_callers_own_stays(self, db: Database) -> None:
        made = make(db, "lead", team=Role.ADMIN)
        who = Tokens(db).check(made.secret)
        other = make(db, "ci", team=Role.ADMIN)
        done = Tokens(db).revoke_namespace("team", who=who)
        assert (done.kept, [one.token for one in done.lost]) == (made.id, [other.id])
        assert works(db, made) == {"team": Role.ADMIN}

    def test_all_namespaces_are_one_of_their_own(self, db: Database) -> None:
        ops, mixed = make(db, "ops"), Tokens(db).create(
            name="mixed", grants={"*": Role.READER, "team": Role.WRITER}, who=SYSTEM
        )  # fmt: skip
        done = Tokens(db).revoke_namespace("team", who=SYSTEM)
        assert ([one.token for one in done.lost], done.kept, done.everywhere) == ([mixed.id], None, 2)
        assert works(db, mixed) == {"*": Role.READER}
        done = Tokens(db).revoke_namespace("*", who=SYSTEM)
        assert ({one.token for one in done.lost}, done.everywhere) == ({ops.id, mixed.id}, 0)
        assert (works(db, ops), works(db, mixed)) == (None, None)

    @pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMIN])
    def test_only_its_admins_do_so(self, db: Database, role: Role) -> None:
        ours = make(db, "ours", team=Role.WRITER)
        for who in (Principal("x", {"team": role}), Principal("y", {"other": Role.ADMIN})):
            for namespace in ("team", "*"):
                with pytest.raises(Forbidden):
                    Tokens(db).revoke_namespace(namespace, who=who)
        with pytest.raises(InvalidName) as caught:
            Tokens(db).revoke_namespace("Team", who=SYSTEM)
        assert caught.value.param == "namespace"
        assert works(db, ours) is not None
