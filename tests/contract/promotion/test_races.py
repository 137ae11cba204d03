"""What happens between a verdict and the move that it lets through: nothing of it may be missed, and nobody waits in a
circle.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from contract.promotion.databases import ON_BOTH
from contract.promotion.gates import Rules, Space
from sqlalchemy import func, select, update
from support.registries import World
from support.statements import sent

from registry.access.models import Token
from registry.catalog.versions.finding import find_adapter
from registry.db.types import db_epoch_s
from registry.errors import Conflict, Forbidden, NotFound, PromotionRefused, RegistryError, Unauthenticated
from registry.principal import LOCAL
from registry.promotion.gate import MOST_CHANGES, unchanged
from registry.promotion.generations import raise_generation, scopes_of
from registry.promotion.models import Approval, TriedRows
from registry.promotion.rules.approvals import approvals
from registry.usage.charging import charge
from sdk.schemas.approvals import ApprovalRequest
from sdk.schemas.catalog import VersionMove
from sdk.schemas.policies import seconds_of

pytestmark = ON_BOTH

#: How old an approval may be.
AGE = "1h"


@pytest.fixture(scope="module")
def home(people: World) -> Space:
    """A namespace with an adapter of three versions."""
    made = Space(people, f"race-{uuid.uuid4().hex[:10]}")
    for _ in range(3):
        made.publish()
    return made


@pytest.fixture
def there(home: Space) -> Space:
    """The same, with an alias that no other test has."""
    return replace(home, alias=f"live-{uuid.uuid4().hex[:8]}")


def elsewhere(act: Callable[[], object]) -> None:
    """Do something in another thread, as another request would, and wait for it."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(act).result()


def once(act: Callable[[], object]) -> Callable[[], None]:
    """Do it elsewhere the first time."""
    left = [act]
    return lambda: elsewhere(left.pop()) if left else None


def say(there: Space, who: str, kind: str = "approve") -> None:
    request = ApprovalRequest(adapter=there.name, alias=there.alias, number=1, kind=kind, reason="seen")
    there.services.approvals.give(request=request, who=there.who(who))


def tried(there: Space) -> None:
    """Note a try on some rows, as scores do."""
    with there.services.db.write() as session:
        session.add(
            TriedRows(
                adapter=there.name,
                dataset_digest=there.rows(),
                digest=there.rows(),
                namespace=there.space,
                how="scored",
            )
        )
        raise_generation(session, there.name)


def tries(there: Space) -> Callable[..., int]:
    query = select(func.count()).select_from(TriedRows).where(TriedRows.adapter == there.name)
    return lambda session, question: session.scalar(query)


EVENTS: dict[str, Callable[[Space], object]] = {
    "a stricter policy for all": lambda there: there.policy("*", by=LOCAL, approvals=2),
    "a stricter policy of the adapter": lambda there: there.policy(approvals=2),
    "a disapproval": lambda there: say(there, "cat", "disapprove"),
    "a newer score": tried,
    "a revoked token": lambda there: there.services.tokens.revoke(
        there.who(f"ben {there.alias}").token_id or "", who=LOCAL
    ),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("rereads", [True, False], ids=["read again", "not read again"])
def test_what_changes_between_verdict_and_move_refuses_it(there: Space, event: str, rereads: bool) -> None:
    """Without the second reading each of these moves the alias: it is what refuses them."""
    if not rereads and there.services.db.url.startswith("postgresql"):
        pytest.skip("what is not read again is the same over every database")
    there.policy(approvals=1)
    say(there, f"ben {there.alias}")
    happening = Rules(then="failed", identity=tries(there), meanwhile=once(lambda: EVENTS[event](there)))
    check = unchanged if rereads else (lambda *_: True)
    gate = there.gate({"approvals": approvals, "scores": happening}, unchanged=check)
    try:
        if rereads:
            with pytest.raises(PromotionRefused):
                there.move(gate, 1)
        else:
            there.move(gate, 1)
    finally:
        if event == "a stricter policy for all":
            there.end_policy("*")
    assert there.named() == (None if rereads else 1)
    assert [one.outcome for one in there.decisions()] == ["refused" if rereads else "passed"]


def age(there: Space, ends_at_s: float) -> None:
    """Let the approvals for the alias be as old as a policy allows at this moment."""
    with there.services.db.write() as session:
        session.execute(
            update(Approval).where(Approval.alias == there.alias).values(created_at_s=ends_at_s - seconds_of(AGE))
        )


def expire(there: Space, ends_at_s: float) -> None:
    """Let the token of who has approved expire then."""
    with there.services.db.write() as session:
        theirs = update(Token).where(Token.id == there.who(f"ben {there.alias}").token_id)
        session.execute(theirs.values(expires_at=datetime.fromtimestamp(ends_at_s, UTC)))


def now_s(there: Space) -> float:
    with there.services.db.read() as session:
        return float(session.scalar(select(db_epoch_s())) or 0.0)


@pytest.mark.parametrize("ends", [age, expire])
def test_what_only_time_ends_is_judged_by_the_moment_of_the_move(
    there: Space, ends: Callable[[Space, float], None]
) -> None:
    there.policy(approvals=1, approval_age=AGE)
    say(there, f"ben {there.alias}")
    until_s = now_s(there) + 0.5
    ends(there, until_s)

    def judge_until_then() -> None:
        while now_s(there) <= until_s:
            time.sleep(0.02)

    rules = Rules(meanwhile=judge_until_then)
    with pytest.raises(PromotionRefused, match="1 approval"):
        there.move(there.gate({"scores": rules, "approvals": approvals}), 1)
    assert (there.named(), [one.outcome for one in there.decisions()]) == (None, ["refused"])
    # What time doesn't end is not judged again.
    assert rules.judged == 1


@pytest.fixture
def leaver(there: Space) -> str:
    """A promoter's name, whose token no other test needs."""
    return f"dan {uuid.uuid4().hex[:6]}"


def test_a_mover_whose_token_is_revoked_meanwhile_moves_nothing(there: Space, leaver: str) -> None:
    there.policy()
    dan = there.who(leaver)
    revoke = once(lambda: there.services.tokens.revoke(dan.token_id or "", who=LOCAL))
    with pytest.raises(Unauthenticated):
        there.move(there.gate(Rules(meanwhile=revoke)), 1, who=dan)
    assert (there.named(), there.decisions()) == (None, [])


def test_a_version_that_is_deleted_meanwhile_is_not_named(there: Space) -> None:
    there.policy()
    number = there.publish()
    body = VersionMove(ref=f"{there.name}@v{number}", reason="gone")
    delete = once(lambda: there.world.admin.versions.delete(body.ref, reason=body.reason))
    with pytest.raises(NotFound):
        there.move(there.gate(Rules(meanwhile=delete)), number)
    assert there.named() is None


def test_a_move_by_another_is_seen(there: Space) -> None:
    there.policy()
    other = there.gate(Rules())
    gate = there.gate(rules := Rules(meanwhile=once(lambda: there.move(other, 2))))
    there.move(gate, 1)
    assert [(move.from_number, move.to_number) for move in there.history()] == [(2, 1), (None, 2)]
    assert [one.from_number for one in there.decisions()] == [2, None]
    # What it was compared with may be another version now.
    assert rules.judged == 2


def test_a_move_that_expects_what_it_named_is_refused_after_another(there: Space) -> None:
    there.policy()
    gate = there.gate(Rules(meanwhile=once(lambda: there.move(there.gate(Rules()), 2))))
    with pytest.raises(Conflict, match="names v2, not v0"):
        there.move(gate, 1, expect=0)
    assert there.named() == 2


def test_inputs_that_change_all_the_time_end_in_a_conflict(there: Space) -> None:
    there.policy()
    gate = there.gate(rules := Rules(identity=tries(there), meanwhile=lambda: elsewhere(lambda: tried(there))))
    with pytest.raises(Conflict, match="changes faster than it can be judged") as refused:
        there.move(gate, 1)
    assert type(refused.value) is Conflict
    assert (rules.judged, there.named()) == (MOST_CHANGES, None)


def test_changes_of_what_is_not_asked_are_not_judged_again(there: Space) -> None:
    there.policy()
    other = replace(there, alias=f"{there.alias}-other")
    gate = there.gate(rules := Rules(meanwhile=once(lambda: (tried(there), other.policy()))))
    there.move(gate, 1)
    assert (rules.judged, there.named()) == (1, 1)


def test_one_of_many_movers_wins_each_step(there: Space) -> None:
    there.policy()
    gate = there.gate(Rules())
    there.move(gate, 3)
    people = [there.who(f"mover {n}") for n in range(6)]

    def try_it(number: int) -> bool:
        with suppress(Conflict):
            there.move(gate, 1 + number % 2, expect=3, who=people[number])
            return True
        return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(try_it, range(6))) == 1
    assert len(there.history()) == 2


class TestLocks:
    """See `registry.promotion.generations`: the adapter's row, generations, charges."""

    def test_generations_are_raised_last_but_for_charges_whatever_came_first(self, there: Space) -> None:
        with sent(there.services.db) as statements, there.services.db.write() as session:
            raise_generation(session, there.name)
            charge(session, there.space, records=1)
            raise_generation(session, "*")
            raise_generation(session, f"{there.space}/*")
            find_adapter(session, there.name, LOCAL, lock=True)
        with there.services.db.write() as session:
            charge(session, there.space, records=-1)
        order = [
            next(str(value) for value in values if str(value) in scopes_of(there.name, there.space))
            if "UPDATE promotion_generations" in sql
            else "charged"
            if "usage" in sql
            else "adapter"
            for sql, parameters in statements
            if "UPDATE promotion_generations" in sql or "INTO usage" in sql or "FROM adapters" in sql
            for values in [parameters.values() if isinstance(parameters, dict) else parameters]
        ]
        assert order == ["adapter", *scopes_of(there.name, there.space), "charged"]

    def test_whoever_raises_and_locks_the_adapter_afterwards_waits_for_no_mover_in_a_circle(self, there: Space) -> None:
        there.policy()
        raised, moved = threading.Event(), threading.Event()

        def publish() -> None:
            with there.services.db.write() as session:
                raise_generation(session, there.name)
                charge(session, there.space, records=0)
                raised.set()
                # On SQLite nobody else writes until this ends.
                moved.wait(0.0 if there.services.db.is_sqlite else 20.0)
                find_adapter(session, there.name, LOCAL, lock=True)

        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(publish)
            assert raised.wait(20)
            there.move(there.gate(Rules()), 1)
            moved.set()
            publishing.result()
        assert there.named() == 1

    def test_whoever_changes_what_is_asked_waits_until_the_alias_has_moved(self, there: Space) -> None:
        there.policy()
        held = threading.Event()

        def slowly(*_: object) -> bool:
            held.set()
            time.sleep(0.3)
            return True

        gate = there.gate(Rules(), unchanged=slowly)
        with ThreadPoolExecutor(1) as pool:
            moving = pool.submit(there.move, gate, 1)
            assert held.wait(20)
            there.policy(approvals=1)
            # The policy is written, so the move that held its scope is.
            assert there.named() == 1
            moving.result()

    def test_many_at_once_end_without_a_deadlock(self, there: Space) -> None:
        there.policy()
        there.move(there.gate(Rules()), 1)
        faults: list[BaseException] = []

        def again(act: Callable[[int], object]) -> None:
            for turn in range(6):
                try:
                    act(turn)
                except (PromotionRefused, Forbidden):
                    pass
                except RegistryError as error:
                    if type(error) is not Conflict:
                        faults.append(error)

        def locks_first(_: int) -> None:
            with there.services.db.write() as session:
                find_adapter(session, there.name, LOCAL, lock=True)
                raise_generation(session, there.name)
                raise_generation(session, f"{there.space}/*")
                charge(session, there.space, records=0)

        def charges_first(_: int) -> None:
            with there.services.db.write() as session:
                charge(session, there.space, records=7)
                raise_generation(session, "*")
                raise_generation(session, there.name)
                find_adapter(session, there.name, LOCAL, lock=True)
                charge(session, there.space, records=-7)

        acts: list[Callable[[int], object]] = [
            lambda turn: there.move(there.gate(Rules()), 1 + turn % 3),
            lambda turn: there.move(there.gate(Rules("failed")), 1 + turn % 3),
            lambda turn: there.check(there.gate(Rules()), 1 + turn % 3, who=there.boss),
            locks_first,
            charges_first,
            lambda turn: there.policy(rollback=("allowed", "checked")[turn % 2]),
            lambda turn: tried(there),
        ]
        there.who("ann")
        with ThreadPoolExecutor(len(acts)) as pool:
            list(pool.map(again, acts))
        assert faults == []
