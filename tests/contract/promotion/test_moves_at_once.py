"""Several processes move aliases while another takes away what the moves stand on: a move that comes after that does not stand
on it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from contract.promotion.databases import IN_PROCESS_ON_BOTH, opened_alone
from contract.promotion.meanwhile import Meanwhile
from contract.promotion.scene import Scene, gate_of
from sqlalchemy import text
from support.registries import World
from support.soak import SOAKING, scale

from registry.app.services import Services
from registry.errors import Conflict, Forbidden, Unauthenticated
from registry.principal import Role
from registry.promotion.gate import Gate
from registry.queue import NoQueue
from sdk.schemas.aliases import AliasMove
from sdk.schemas.approvals import ApprovalRequest

VERSIONS, VOTERS, MOVERS = 3, ("ann", "ben", "cat"), ("mia", "max", "moe")
#: The longest that a verdict takes, in seconds.
VERDICT_S = 0.02
#: What may come in the way of a move.
EXPECTED = (Conflict, Forbidden, Unauthenticated)


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A registry of these tests alone."""
    with opened_alone(request, tmp_path_factory) as found:
        yield found


@dataclass
class Ground:
    """Something that moves may stand on, or must not: for which of them that can't be, by their keys.

    A move up to `begun` was over before it began, and one after `ended` began to be written after it had ended.
    """

    number: int
    begun: int
    ended: int | None = None

    def may_bear(self, move: int) -> bool:
        """Whether a move may stand on it."""
        return move > self.begun and (self.ended is None or move <= self.ended)


class Move(NamedTuple):
    """A move of the alias, and the token of whoever made it."""

    pk: int
    number: int
    token: str


@dataclass
class Race:
    """An alias whose policy asks for one approval."""

    scene: Scene
    approvals: dict[str, Ground] = field(default_factory=dict)
    vetoes: list[Ground] = field(default_factory=list)
    #: Token → the last move before it was revoked for sure.
    revoked: dict[str, int] = field(default_factory=dict)
    #: Each version of the policy has another one, in days.
    ages: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        for _ in range(VERSIONS):
            self.scene.publish()
        for name in MOVERS:
            self.scene.hire(name, Role.PROMOTER)
        self.scene.policy(approvals=1)

    def newest(self) -> int:
        """The key of the last move."""
        with self.scene.services.db.read() as session:
            return session.execute(text("SELECT max(pk) FROM alias_moves")).scalar() or 0

    def moves(self) -> list[Move]:
        """All moves of the alias, with the decisions that they name."""
        rows = text(
            "SELECT m.pk, m.to_number, d.token_id FROM alias_moves m JOIN adapters a ON a.pk = m.adapter_pk "
            "LEFT JOIN promotion_decisions d ON d.move = m.pk AND d.adapter_pk = m.adapter_pk AND d.moved "
            "WHERE a.name = :name ORDER BY m.pk"
        )
        with self.scene.services.db.read() as session:
            return [Move(*row) for row in session.execute(rows, {"name": self.scene.adapter()})]

    def wrong(self) -> list[str]:
        """What was moved although it stood on nothing."""
        found = []
        for move in self.moves():
            bearing = [one for one in self.approvals.values() if one.number == move.number and one.may_bear(move.pk)]
            if not bearing:
                found.append(f"{move} has no approval")
            if any(veto.number == move.number and veto.may_bear(move.pk) for veto in self.vetoes):
                found.append(f"{move} has a veto")
            if move.pk > self.revoked.get(move.token, move.pk):
                found.append(f"{move} is by a revoked token")
        return found

    # What is taken away, and given.

    def disturb(self, random: Random) -> None:
        """Give approvals, and take something away."""
        for number in range(1, VERSIONS + 1):
            self.approve(number, random.choice(VOTERS))
        time.sleep(random.uniform(0, 2 * VERDICT_S))
        act: Callable[[], None] = random.choice(
            (
                partial(self.withdraw, random),
                partial(self.replace_voter, random.choice(VOTERS)),
                partial(self.replace_mover, random.choice(MOVERS)),
                partial(self.veto, random.randint(1, VERSIONS)),
                self.change_policy,
            )
        )
        act()

    def approve(self, number: int, by: str) -> None:
        """Approve a version."""
        begun = self.newest()
        request = ApprovalRequest(adapter=self.scene.adapter(), alias="live", number=number, kind="approve")
        given = self.scene.services.approvals.give(request=request, who=self.scene.who(by))
        self.approvals.setdefault(given.id, Ground(number, begun))

    def withdraw(self, random: Random) -> None:
        """Withdraw an approval."""
        standing = [ident for ident, ground in self.approvals.items() if ground.ended is None]
        ident = random.choice(standing)
        self.scene.services.approvals.withdraw(ident=ident, who=self.scene.who("boss"))
        self._end([ident])

    def replace_voter(self, name: str) -> None:
        """Revoke somebody's token, and with it what they have approved."""
        owner = self.scene.who(name).owner
        self.scene.fire(name)
        with self.scene.services.db.read() as session:
            rows = session.execute(text("SELECT id FROM promotion_approvals WHERE owner = :owner"), {"owner": owner})
            theirs = [row.id for row in rows]
        self._end(theirs)
        self.scene.hire(name, Role.PROMOTER)

    def replace_mover(self, name: str) -> None:
        """Revoke the token of somebody who moves."""
        token = self.scene.who(name).token_id
        assert token is not None
        self.scene.fire(name)
        self.revoked[token] = self.newest()
        self.scene.hire(name, Role.PROMOTER)

    def veto(self, number: int) -> None:
        """Veto a version for a moment; an approval by the same token ends with that."""
        request = ApprovalRequest(adapter=self.scene.adapter(), alias="live", number=number, kind="disapprove")
        given = self.scene.services.approvals.give(request=request, who=self.scene.who("boss"))
        began = self.newest()
        time.sleep(VERDICT_S)
        ended = self.newest()
        self.scene.services.approvals.withdraw(ident=given.id, who=self.scene.who("boss"))
        self.vetoes.append(Ground(number, began, ended))

    def change_policy(self) -> None:
        """Set another version of the policy, with which all approvals end."""
        standing = [ident for ident, ground in self.approvals.items() if ground.ended is None]
        self.scene.policy(approvals=1, approval_age=f"{next(self.ages)}d")
        self._end(standing)

    def _end(self, idents: Sequence[str]) -> None:
        last = self.newest()
        for ident in idents:
            ground = self.approvals.get(ident)
            if ground is not None and ground.ended is None:
                ground.ended = last


def run(race: Race, gates: Sequence[Gate], meanwhile: Meanwhile, *, rounds: int, seed: int) -> None:
    """Move at once by all gates for as long as something is taken away, so many times."""
    over = threading.Event()
    random = Random(seed)

    def move(place: int, gate: Gate) -> None:
        own = Random(seed + place)
        while not over.is_set():
            body = AliasMove(adapter=race.scene.adapter(), alias="live", number=own.randint(1, VERSIONS))
            pause_s = own.uniform(0, VERDICT_S)
            # So that whoever takes something away has a turn to write.
            time.sleep(pause_s)
            with meanwhile.happens(lambda pause_s=pause_s: time.sleep(pause_s)), suppress(*EXPECTED):
                gate.move(move=body, who=race.scene.who(MOVERS[place]))

    with ThreadPoolExecutor(len(gates)) as pool:
        moving = [pool.submit(move, place, gate) for place, gate in enumerate(gates)]
        try:
            for _ in range(rounds):
                race.disturb(random)
        finally:
            over.set()
        for one in moving:
            one.result()


@pytest.fixture
def processes(world: World) -> Iterator[Callable[..., list[Gate]]]:
    """Return a function that makes gates of other processes of the registry."""
    opened: list[Services] = []

    def gates(meanwhile: Meanwhile, **given: Any) -> list[Gate]:
        here = world.services
        made = [Services(here.settings, storage=here.artifacts.storage, queue=NoQueue()) for _ in MOVERS]
        opened.extend(made)
        return [gate_of(services, {"meanwhile": meanwhile}, **given) for services in made]

    yield gates
    for services in opened:
        services.db.close()


@IN_PROCESS_ON_BOTH
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_move_stands_on_what_was_gone_before(
    world: World, tmp_path: Path, processes: Callable[..., list[Gate]]
) -> None:
    meanwhile = Meanwhile()
    race = Race(Scene(world, tmp_path / "files"))
    run(race, processes(meanwhile), meanwhile, rounds=scale(500, share=100), seed=1)
    assert race.wrong() == []
    assert race.moves()


@IN_PROCESS_ON_BOTH
@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not SOAKING, reason="what comes between is shown one by one in test_promotion_machine")
def test_gate_that_reads_once_is_seen_to_move_wrongly(
    world: World, tmp_path: Path, processes: Callable[..., list[Gate]]
) -> None:
    meanwhile = Meanwhile()
    race = Race(Scene(world, tmp_path / "files"))
    gates = processes(meanwhile, unchanged=lambda asked, held, last: True)
    for seed in range(20):
        run(race, gates, meanwhile, rounds=5, seed=seed)
        if race.wrong():
            return
    raise AssertionError("nothing went wrong")
