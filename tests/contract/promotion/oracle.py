"""Says from the bare tables whether every move of an alias with a policy was allowed: no code of the registry is asked.

It looks after each step. Whoever moved an alias then did so after whatever else the step changed, so the move must be right by
the tables as they are now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

#: How far scores that are made again may be from the first ones.
ROUNDING = 1e-6
_MAY_PROMOTE = ("promoter", "admin")


class Standing(NamedTuple):
    """A policy that stands."""

    scope: str
    version: int
    document: Mapping[str, Any]


class Oracle:
    """Knows the adapters of one namespace, and what it has seen happen to them."""

    def __init__(self, space: str, names: Sequence[str]) -> None:
        self.space = space
        self.names = [f"{space}/{name}" for name in names]
        self.pks: dict[int, str] = {}
        self.last_move = 0
        #: Approval → the policies that stood when it was given, by scope and version.
        self.given_under: dict[str, frozenset[tuple[str, int]]] = {}
        #: Adapter, alias and number of what an alias has named by a decision.
        self.earned: set[tuple[int, str, int]] = set()
        #: How often each outcome was seen.
        self.seen: dict[str, int] = {}

    def look(self, session: Session) -> None:
        """Judge what is new. Raises AssertionError."""
        self.learn(session)
        for pk in self.pks:
            moves = _all(
                session,
                "SELECT pk, alias, kind, from_number, to_number, moved_by FROM alias_moves "
                "WHERE adapter_pk = :adapter AND pk > :last ORDER BY pk",
                adapter=pk,
                last=self.last_move,
            )
            for move in moves:
                self._judge(session, pk, move)
        newest = _all(session, "SELECT max(pk) AS pk FROM alias_moves")[0]["pk"]
        self.last_move = newest or 0
        for pk in self.pks:
            self._compare_aliases(session, pk)

    def learn(self, session: Session) -> None:
        """See which adapters and approvals there are, without judging."""
        for name in self.names:
            for row in _all(session, "SELECT pk FROM adapters WHERE name = :name", name=name):
                self.pks[row["pk"]] = name
        for pk in self.pks:
            self._note_approvals(session, pk)

    def pk_of(self, adapter: str) -> int:
        """The key of an adapter."""
        return next(pk for pk, name in self.pks.items() if name == adapter)

    def standing(self, session: Session, adapter: str, alias: str) -> list[Standing]:
        """The newest version of each policy that holds for an alias, unless it was removed."""
        found = []
        for scope in ("*", f"{self.space}/*", adapter):
            rows = _all(
                session,
                "SELECT version, document FROM promotion_policies WHERE scope = :scope AND alias = :alias ORDER BY version DESC",
                scope=scope,
                alias=alias,
            )
            document = _parsed(rows[0]["document"]) if rows else None
            if document is not None:
                found.append(Standing(scope, rows[0]["version"], document))
        return found

    def why_not(
        self, session: Session, adapter_pk: int, alias: str, number: int, mover: str, *, removal: bool = False
    ) -> str | None:
        """Say which policy doesn't hold for a version; None: all do."""
        (version,) = _all(
            session,
            "SELECT digest, created_by FROM versions WHERE adapter_pk = :adapter AND number = :number",
            adapter=adapter_pk,
            number=number,
        )
        policies = self.standing(session, self.pks[adapter_pk], alias)
        under = frozenset((one.scope, one.version) for one in policies)
        votes = _all(
            session,
            "SELECT id, kind, token_id, created_by FROM promotion_approvals WHERE adapter_pk = :adapter AND alias = :alias "
            "AND digest = :digest AND withdrawn_at IS NULL",
            adapter=adapter_pk,
            alias=alias,
            digest=version["digest"],
        )
        if policies and any(vote["kind"] == "disapprove" for vote in votes) and not removal:
            return "somebody has disapproved it"
        voters = {
            vote["created_by"]
            for vote in votes
            if vote["kind"] == "approve"
            and self.given_under[vote["id"]] == under
            and self._roles(session, vote["token_id"]) & {*_MAY_PROMOTE}
        } - {version["created_by"], mover}
        for policy in policies:
            asked = policy.document.get("approvals") or 0
            if len(voters) < asked:
                return f"{policy.scope} asks for {asked} approvals, and {sorted(voters)} have approved"
            for rule in [] if removal else policy.document.get("require") or []:
                losses = self._losses(session, version["digest"], rule["data"])
                most = rule["metrics"]["loss"]["at_most"]
                if not losses or losses[0] > most or any(abs(loss - losses[0]) > ROUNDING for loss in losses):
                    return f"{policy.scope} asks for a loss of at most {most}, and there are {losses}"
        return None

    def _note_approvals(self, session: Session, pk: int) -> None:
        for row in _all(session, "SELECT id, alias FROM promotion_approvals WHERE adapter_pk = :pk", pk=pk):
            if row["id"] not in self.given_under:
                policies = self.standing(session, self.pks[pk], row["alias"])
                self.given_under[row["id"]] = frozenset((one.scope, one.version) for one in policies)

    def _judge(self, session: Session, pk: int, move: Mapping[str, Any]) -> None:
        policies = self.standing(session, self.pks[pk], move["alias"])
        if not policies:
            self._count("free")
            return
        what = f"move {dict(move)} under {policies}"
        decisions = _all(
            session,
            "SELECT alias, kind, number, from_number, outcome, moved, policies, reason, token_id, decided_by, rules "
            "FROM promotion_decisions WHERE adapter_pk = :pk AND move = :move",
            pk=pk,
            move=move["pk"],
        )
        assert len(decisions) == 1, f"{what} has {len(decisions)} decisions"
        (decision,) = decisions
        about = ("alias", "kind", "from_number")
        assert [decision[name] for name in about] == [move[name] for name in about], what
        assert decision["moved"], what
        assert (decision["number"], decision["decided_by"]) == (move["to_number"], move["moved_by"]), what
        under = {(one["scope"], one["version"]) for one in _parsed(decision["policies"])}
        assert under == {(one.scope, one.version) for one in policies}, f"{what} was decided under {under}"
        mover, outcome = move["moved_by"], decision["outcome"]
        if mover == "registry":
            assert any(one.document.get("promote") == "automatic" for one in policies), what
        elif mover != "local":
            assert self._roles(session, decision["token_id"], ended=True) & {*_MAY_PROMOTE}, what
        removal = move["kind"] == "remove"
        number = move["from_number"] if removal else move["to_number"]
        if outcome == "passed":
            why = self.why_not(session, pk, move["alias"], number, mover, removal=removal)
            assert why is None, f"{what}: {why}"
            assert all(rule["outcome"] == "passed" for rule in _parsed(decision["rules"])), what
        elif outcome == "overridden":
            audited = _all(
                session,
                "SELECT actor FROM audit_entries WHERE action = 'alias.override' AND subject = :subject ORDER BY pk DESC",
                subject=f"{self.pks[pk]}@{move['alias']}",
            )
            assert audited, f"{what} is in no audit trail"
            assert audited[0]["actor"] == mover, what
            assert decision["reason"], what
            assert mover == "local" or "admin" in self._roles(session, decision["token_id"], ended=True), what
        else:
            assert (outcome, move["kind"]) == ("rolled_back", "rollback"), what
            assert (pk, move["alias"], number) in self.earned, f"{what} goes to what it never earned"
            assert not any(one.document.get("rollback") == "checked" for one in policies), what
        if not removal:
            self.earned.add((pk, move["alias"], number))
        self._count(f"removal {outcome}" if removal else outcome)
        if mover == "registry":
            self._count("automatic")

    def _compare_aliases(self, session: Session, pk: int) -> None:
        """What aliases name is what their last moves say."""
        named = _all(
            session,
            "SELECT a.name AS alias, v.number FROM aliases a JOIN versions v ON v.pk = a.version_pk WHERE a.adapter_pk = :pk",
            pk=pk,
        )
        moves = _all(session, "SELECT alias, to_number FROM alias_moves WHERE adapter_pk = :pk ORDER BY pk", pk=pk)
        last = {move["alias"]: move["to_number"] for move in moves}
        expected = {alias: number for alias, number in last.items() if number is not None}
        assert {row["alias"]: row["number"] for row in named} == expected

    def _roles(self, session: Session, token_id: str | None, *, ended: bool = False) -> set[str]:
        """The roles that a token gives in the namespace; none for one that is revoked, unless `ended` ones count."""
        rows = _all(
            session,
            "SELECT g.role FROM grants g JOIN tokens t ON t.id = g.token_id WHERE t.id = :token AND g.namespace IN ('*', :space)"
            + ("" if ended else " AND t.revoked_at IS NULL"),
            token=token_id,
            space=self.space,
        )
        return {row["role"] for row in rows}

    def _losses(self, session: Session, digest: str, data: str) -> list[float]:
        rows = _all(
            session,
            "SELECT metrics FROM evaluations WHERE namespace = :space AND digest = :digest AND dataset_digest = :data "
            "ORDER BY created_at",
            space=self.space,
            digest=digest,
            data=data,
        )
        return [_parsed(row["metrics"])["loss"] for row in rows]

    def _count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1


def _all(session: Session, statement: str, **given: Any) -> Sequence[Mapping[str, Any]]:
    return session.execute(text(statement), given).mappings().all()


def _parsed(stored: Any) -> Any:
    """JSON as it is stored: SQLite gives it as text."""
    return json.loads(stored) if isinstance(stored, str) else stored
