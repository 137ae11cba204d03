"""Signed statements of aliases in the registry: what is handed in, by whom, and what pulls make of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from contract.promotion.databases import ON_BOTH
from sqlalchemy import select
from support.keys import Pair, make_key
from support.people import new_adapter
from support.registries import World
from support.usage import differing

from registry.principal import Role
from registry.promotion.models import Policy, StatementRow
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput, NotAllowed, NotFound, VerificationFailed
from sdk.pulling.api_source import ApiSource
from sdk.pulling.puller import Puller
from sdk.pulling.signed_aliases import AliasSigner
from sdk.pulling.source import StoredStatement
from sdk.schemas.statements import MOST_SIGNERS, AliasStatement, SignedStatement
from sdk.signing import STATEMENT_FILE, read_public_half, sign


@pytest.fixture(autouse=True)
def _no_key_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADAPTERCTL_SIGNING_KEY", raising=False)
    monkeypatch.delenv("ADAPTERCTL_SIGNING_PASSWORD", raising=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("theirs"), kind="P-384")


@pytest.fixture
def writer(acting: Callable[..., Client], space: str) -> Client:
    return acting(**{space: Role.WRITER})


@pytest.fixture
def adapter(writer: Client, space: str, tmp_path: Path) -> str:
    """The name of an adapter with two versions."""
    for _ in range(2):
        writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
    return f"{space}/a"


def at(ago_s: float = 0.0) -> str:
    return datetime.fromtimestamp(time.time() - ago_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def signed(client: Client, of: str, pair: Pair, **said: Any) -> SignedStatement:
    """A statement that was really signed: of what the alias names now, unless something else is given."""
    now = client.statements(of, "production")
    true = {"adapter": of, "alias": "production", "move": now.move, "digest": now.digest, "policies": now.policies}
    statement = AliasStatement.model_validate({**true, "at": at(), **said})
    made = sign(statement, pair.private, file=STATEMENT_FILE)
    pem = read_public_half(pair.private).pem.decode()
    return SignedStatement(statement=statement, key_id=made.key_id, public_key=pem, bundle=made.bundle)


def rows(people: World, adapter: str) -> list[StatementRow]:
    with people.services.db.read() as session:
        return [row for row in session.scalars(select(StatementRow)) if row.statement["adapter"] == adapter]


def fill(people: World, move: int, names: Sequence[str]) -> None:
    """Store statements like one that is there, as if these people had handed them in."""
    with people.services.db.write() as session:
        like = session.scalars(select(StatementRow).where(StatementRow.move == move)).first()
        columns = {column.name: getattr(like, column.name) for column in StatementRow.__table__.columns}
        for number, name in enumerate(names):
            session.add(StatementRow(**{**columns, "key_id": f"{number:064x}", "created_by": name}))


class TestPromoting:
    def test_a_promotion_is_signed_and_pulled(
        self, writer: Client, admin: Client, adapter: str, pair: Pair, space: str, tmp_path: Path
    ) -> None:
        moved = writer.promote(f"{adapter}@v1", "production", sign=pair.private)
        (found,) = writer.statements(adapter, "production").statements
        digest = writer.get(f"{adapter}@v1").digest
        said = found.statement
        assert (said.move, said.digest, said.policies) == (moved.move, digest, [])
        assert found.key_id == read_public_half(pair.private).key_id
        (entry,) = admin.audit(namespace=space, action="alias.sign")
        after = {"key": found.key_id, "move": moved.move, "digest": digest, "at": said.at}
        assert (entry.subject, entry.after) == (f"{adapter}@production", after)
        path = writer.pull(f"{adapter}@production", tmp_path / "out", require_signed_alias=pair.public)
        assert (path / "adapter_config.json").is_file()

    @ON_BOTH
    def test_each_move_has_a_larger_number(self, writer: Client, adapter: str, pair: Pair) -> None:
        moves = [writer.promote(f"{adapter}@v{number}", "production", sign=pair.private).move for number in (1, 2, 1)]
        assert moves == sorted(set(moves))
        writer.aliases.remove(adapter, "production")
        moves.append(writer.promote(f"{adapter}@v1", "production", sign=pair.private).move)
        assert moves == sorted(set(moves))

    def test_an_unsigned_move_is_refused_until_it_is_renewed(
        self, writer: Client, adapter: str, pair: Pair, tmp_path: Path
    ) -> None:
        writer.promote(f"{adapter}@v1", "production", sign=pair.private)
        writer.promote(f"{adapter}@v2", "production")
        target = tmp_path / "out"
        with pytest.raises(VerificationFailed, match="wait until the last move is signed"):
            writer.pull(f"{adapter}@production", target, require_signed_alias=pair.public)
        assert not target.exists()
        with pytest.raises(Conflict, match=r"names .*@v2 since move \d+, so nothing was signed"):
            writer.statements.sign(f"{adapter}@v1", "production", pair.private)
        renewed = writer.statements.sign(f"{adapter}@v2", "production", pair.private)
        assert renewed.statement.move == writer.statements(adapter, "production").move
        writer.pull(f"{adapter}@production", target, require_signed_alias=pair.public)
        # What was pulled before stays if the next move is not signed.
        before = {path.name: path.read_bytes() for path in target.rglob("*") if path.is_file()}
        writer.promote(f"{adapter}@v1", "production")
        with pytest.raises(VerificationFailed):
            writer.pull(f"{adapter}@production", target, require_signed_alias=pair.public)
        assert before == {path.name: path.read_bytes() for path in target.rglob("*") if path.is_file()}

    def test_a_key_that_can_not_sign_moves_nothing(self, writer: Client, adapter: str, tmp_path: Path) -> None:
        bad = make_key(tmp_path / "keys", kind="ed25519").private
        for key, error in ((bad, InvalidInput), (tmp_path / "none.pem", NotFound)):
            with pytest.raises(error):
                writer.promote(f"{adapter}@v1", "production", sign=key)
        assert writer.aliases(adapter) == []

    def test_a_move_between_answers_is_waited_for(
        self, people: World, writer: Client, adapter: str, pair: Pair, tmp_path: Path
    ) -> None:
        writer.promote(f"{adapter}@v1", "production", sign=pair.private)

        class Moving(ApiSource):
            """Moves the alias once it was resolved."""

            def statements_about(self, adapter: str, alias: str) -> list[StoredStatement]:
                if moves:
                    writer.promote(f"{adapter}@v{moves.pop()}", alias, sign=pair.private)
                return super().statements_about(adapter, alias)

        moves = [2]
        puller = Puller(Moving(writer.transport), writer.cache, people.url, http=writer.http)
        signer = AliasSigner.of(pair.public, "7d")
        assert puller.pull(f"{adapter}@production", alias_signer=signer).ref == f"{adapter}@v2"
        assert moves == []

    def test_only_an_alias_has_statements(self, writer: Client, space: str, pair: Pair) -> None:
        for ref in (f"{space}/a@v1", f"{space}/a@latest", f"{space}/a", "sweep:3f1c2a9b7d20/4"):
            with pytest.raises(InvalidInput, match="is not an alias, so nobody states what it names"):
                writer.pull(ref, require_signed_alias=pair.public)


class TestHandingIn:
    @pytest.fixture
    def moved(self, writer: Client, adapter: str) -> str:
        writer.promote(f"{adapter}@v1", "production")
        writer.promote(f"{adapter}@v2", "production")
        writer.promote(f"{adapter}@v1", "staging")
        return adapter

    @ON_BOTH
    def test_only_what_is_so_now_is_taken(self, people: World, writer: Client, moved: str, pair: Pair) -> None:
        now = writer.statements(moved, "production")
        first = writer.get(f"{moved}@v1").digest
        for said in (
            {"move": now.move - 1},
            {"move": now.move + 1},
            {"digest": first},
            {"digest": first, "move": now.move - 1},
            # The very statement of the other alias.
            {"alias": "staging"},
            {"policies": [first]},
        ):
            with pytest.raises(Conflict, match="sign what it names now with: adapterctl promote"):
                writer.statements.hand_in(signed(writer, moved, pair, **said))
        with pytest.raises(NotFound):
            writer.statements.hand_in(signed(writer, moved, pair, alias="canary"))
        with pytest.raises(NotFound):
            writer.statements.hand_in(signed(writer, moved, pair, adapter=f"{moved}-b"))
        with pytest.raises(InvalidInput, match="ahead of the registry's clock"):
            writer.statements.hand_in(signed(writer, moved, pair, at=at(-360.0)))
        assert rows(people, moved) == []
        writer.statements.hand_in(signed(writer, moved, pair, at=at(-240.0)))
        assert len(rows(people, moved)) == 1

    def test_a_bundle_over_anything_else_is_refused(
        self, people: World, writer: Client, moved: str, pair: Pair, other: Pair
    ) -> None:
        ours, theirs = signed(writer, moved, pair), signed(writer, moved, other)
        older = signed(writer, moved, pair, at=at(60.0))
        whole = ours.model_dump()
        for change in (
            {"bundle": older.bundle},
            {"bundle": "{}"},
            {"bundle": "[" * 60_000},
            {"bundle": theirs.bundle},
            {"key_id": theirs.key_id},
            {"public_key": theirs.public_key},
            {"key_id": theirs.key_id, "public_key": theirs.public_key},
        ):
            with pytest.raises(VerificationFailed):
                writer.statements.hand_in(SignedStatement.model_validate({**whole, **change}))
        for text in ("x", ours.public_key.strip(), ours.public_key.replace("\n", "\r\n"), "x\n" + ours.public_key):
            with pytest.raises(InvalidInput, match="not one public key in PEM"):
                writer.statements.hand_in(SignedStatement.model_validate({**whole, "public_key": text}))
        for change in ({"bundle": "x" * 65_537}, {"public_key": "x" * 2001}, {"more": 1}, {"key_id": "A" * 64}):
            body = {**whole, **change}
            answer = people.http.put("/api/v1/aliases/statement", json=body)
            assert answer.status_code == 422, answer.text
        assert rows(people, moved) == []

    def test_an_old_statement_replaces_no_newer_one(
        self, people: World, writer: Client, moved: str, pair: Pair
    ) -> None:
        old, new = signed(writer, moved, pair, at=at(60.0)), signed(writer, moved, pair)
        assert writer.statements.hand_in(old).statement == old.statement
        stored = writer.statements.hand_in(new)
        with pytest.raises(Conflict, match="has signed a later statement"):
            writer.statements.hand_in(old)
        # The same again changes nothing, whoever sends it.
        assert writer.statements.hand_in(new) == stored
        assert [row.statement["at"] for row in rows(people, moved)] == [new.statement.at]

    def test_only_those_who_may_move_it_hand_in(
        self, acting: Callable[..., Client], admin: Client, writer: Client, moved: str, space: str, pair: Pair
    ) -> None:
        ours = signed(writer, moved, pair)
        for client in (acting(**{space: Role.READER}), acting(**{space: Role.WORKER})):
            with pytest.raises(NotAllowed):
                client.statements.hand_in(ours)
            assert client.statements(moved, "production").statements == []
        stranger = acting(**{f"{space}-other": Role.ADMIN})
        for attempt in (lambda: stranger.statements.hand_in(ours), lambda: stranger.statements(moved, "production")):
            with pytest.raises(NotFound, match="there is no adapter"):
                attempt()
        admin.aliases.protect(moved, "production")
        with pytest.raises(NotAllowed, match="only a promoter"):
            writer.statements.hand_in(ours)
        acting(**{space: Role.PROMOTER}).statements.hand_in(ours)

    def test_the_policies_that_stand_are_stated(
        self, people: World, acting: Callable[..., Client], moved: str, space: str, pair: Pair
    ) -> None:
        digest = "c" * 64
        with people.services.db.write() as session:
            document = {"alias": "production", "alpha": 0.05, "require": [], "approvals": 0, "rollback": "allowed"}
            scopes = [
                (f"{space}/*", 1, "d" * 64, document),
                (f"{space}/*", 2, digest, document),
                (moved, 1, "e" * 64, None),
            ]
            for scope, version, of, stands in scopes:
                session.add(
                    Policy(
                        scope=scope,
                        alias="production",
                        version=version,
                        namespace=space,
                        document=stands,
                        digest=of,
                        loosened=[],
                        loosens=False,
                        created_by="admin",
                    )
                )
        promoter = acting(**{space: Role.PROMOTER})
        assert promoter.statements(moved, "production").policies == [digest]
        renewed = promoter.statements.sign(f"{moved}@v2", "production", pair.private)
        assert renewed.statement.policies == [digest]

    @ON_BOTH
    def test_several_keys_sign_and_so_many_people_and_no_more(
        self,
        people: World,
        writer: Client,
        acting: Callable[..., Client],
        space: str,
        moved: str,
        pair: Pair,
        other: Pair,
        tmp_path: Path,
    ) -> None:
        now = writer.statements(moved, "production")
        second, third = acting(**{space: Role.WRITER}), make_key(tmp_path / "third")
        for client, one in ((writer, pair), (second, other)):
            client.statements.sign(f"{moved}@v2", "production", one.private)
        for one in (pair, other):
            writer.pull(f"{moved}@production", require_signed_alias=one.public)
        with pytest.raises(VerificationFailed, match="2 signed statements, but none that"):
            writer.pull(f"{moved}@production", require_signed_alias=third.public)
        fill(people, now.move, [f"person {number}" for number in range(MOST_SIGNERS - 2)])
        stranger = acting(**{space: Role.WRITER})
        with pytest.raises(Conflict, match=f"{MOST_SIGNERS} people have signed"):
            stranger.statements.sign(f"{moved}@v2", "production", third.private)
        # Whoever has signed it already has a new key.
        second.statements.sign(f"{moved}@v2", "production", third.private)
        assert len({row.created_by for row in rows(people, moved)}) == len(rows(people, moved)) == MOST_SIGNERS
        writer.pull(f"{moved}@production", require_signed_alias=third.public)
        # A statement of an earlier move makes room.
        writer.promote(f"{moved}@v1", "production", sign=pair.private)
        stranger.statements.sign(f"{moved}@v1", "production", other.private)
        assert len(rows(people, moved)) == MOST_SIGNERS
        now = writer.statements(moved, "production")
        assert {view.statement.move for view in now.statements[:2]} == {now.move}

    def test_whoever_hands_in_many_keeps_nobody_out(
        self,
        people: World,
        writer: Client,
        acting: Callable[..., Client],
        space: str,
        moved: str,
        pair: Pair,
        other: Pair,
    ) -> None:
        now = writer.statements(moved, "production")
        writer.statements.sign(f"{moved}@v2", "production", pair.private)
        fill(people, now.move, ["junk"] * (MOST_SIGNERS - 1))
        signer = acting(**{space: Role.WRITER})
        signer.statements.sign(f"{moved}@v2", "production", other.private)
        for one in (pair, other):
            writer.pull(f"{moved}@production", require_signed_alias=one.public)
        assert len(rows(people, moved)) == MOST_SIGNERS

    def test_statements_count_for_the_namespace(
        self, people: World, writer: Client, moved: str, space: str, pair: Pair
    ) -> None:
        def used() -> int:
            return people.services.quotas.get(space, who=people.principal(Role.ADMIN)).records_bytes

        before = used()
        writer.statements.sign(f"{moved}@v2", "production", pair.private)
        writer.statements.sign(f"{moved}@v2", "production", pair.private)
        (row,) = rows(people, moved)
        assert row.record_bytes > len(row.bundle)
        assert used() == before + row.record_bytes
        assert space not in differing(people)


class TestHostileRegistries:
    """What somebody between, or the registry itself, may answer."""

    class Replaying(ApiSource):
        """Answers with what was true before."""

        then: dict[str, Any]

        def resolve(self, ref: str) -> Any:
            return self.then["version"]

        def statements_about(self, adapter: str, alias: str) -> list[StoredStatement]:
            return self.then["statements"]

    def test_an_old_state_is_refused_by_those_who_saw_a_newer_one(
        self, people: World, writer: Client, adapter: str, pair: Pair, tmp_path: Path
    ) -> None:
        ref, signer = f"{adapter}@production", AliasSigner.of(pair.public, "7d")
        writer.promote(f"{adapter}@v1", "production", sign=pair.private)
        source = self.Replaying(writer.transport)
        true = ApiSource(writer.transport)
        source.then = {"version": true.resolve(ref), "statements": true.statements_about(adapter, "production")}
        replayed = Puller(source, writer.cache, people.url, http=writer.http)
        writer.promote(f"{adapter}@v2", "production", sign=pair.private)
        # Who has seen nothing newer can't tell, until the statement is too old.
        assert replayed.resolve(ref, alias_signer=signer).ref == f"{adapter}@v1"
        writer.pull(ref, require_signed_alias=pair.public)
        target = tmp_path / "out"
        with pytest.raises(VerificationFailed, match="but this client has seen move") as caught:
            replayed.pull(ref, target, alias_signer=signer)
        assert caught.value.exit_code == 7
        assert not target.exists()
        # Offline it is what was seen last.
        assert (
            writer.puller.resolve(ref, offline=True, alias_signer=signer).digest == writer.get(f"{adapter}@v2").digest
        )

    def test_a_digest_that_is_not_the_files_is_not_signed(
        self, writer: Client, adapter: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer.promote(f"{adapter}@v1", "production")
        answered = writer.transport.call
        other = writer.get(f"{adapter}@v2")

        def lying(method: str, path: str, reply: Any, **given: Any) -> Any:
            """Another version's files under the digest that was asked for."""
            found = answered(method, path, reply, **given)
            return found.model_copy(update={"files": other.info.files}) if path == "/resolve" else found

        monkeypatch.setattr(writer.transport, "call", lying)
        for attempt in (
            lambda: writer.statements.sign(f"{adapter}@v1", "production", pair.private),
            lambda: writer.promote(f"{adapter}@v1", "staging", sign=pair.private),
        ):
            with pytest.raises(VerificationFailed, match="don't sign it"):
                attempt()
        monkeypatch.undo()
        assert writer.statements(adapter, "production").statements == []
        assert [alias.alias for alias in writer.aliases(adapter)] == ["production"]

    def test_an_interrupted_promotion_says_how_to_go_on(
        self, writer: Client, adapter: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered = writer.transport.call

        def broken(method: str, path: str, reply: Any, **given: Any) -> Any:
            """What is signed does not arrive."""
            if path == "/aliases/statement":
                raise NotAllowed("no")
            return answered(method, path, reply, **given)

        monkeypatch.setattr(writer.transport, "call", broken)
        with pytest.raises(
            NotAllowed, match=r"names .*@v1 now, but that is not signed: no; then run: adapterctl promote"
        ):
            writer.promote(f"{adapter}@v1", "production", sign=pair.private)
        monkeypatch.undo()
        writer.statements.sign(f"{adapter}@v1", "production", pair.private)
        writer.pull(f"{adapter}@production", require_signed_alias=pair.public)
