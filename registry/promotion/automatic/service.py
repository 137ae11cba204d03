"""Scores new versions and moves aliases to them, if policies ask for it, by the registry's own identity.

Each step looks at what is stored, works out what comes next while nobody waits, and then does one transaction that checks
that this is still so. So any number of processes may do this at once, and one that is killed between two steps leaves what
the next one continues from: a job is added in the transaction that notes it, and what an alias has named is no candidate
any more. In a server the reconciler begins a round in the background; an embedded registry's runner does one before it ends.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.background import BackgroundWork
from registry.db.database import Database
from registry.db.types import utc_now
from registry.errors import NotFound, QuotaExceeded, RegistryError, Unavailable
from registry.jobs.base_contents import ChangedError
from registry.jobs.lifecycle import UNFINISHED
from registry.jobs.models import Job
from registry.pools import Pool
from registry.principal import SYSTEM, Principal
from registry.promotion.automatic.candidates import (
    Asking,
    AskingPolicies,
    Sight,
    candidates,
    end_of,
    left_behind,
    look_at,
    unsettled,
)
from registry.promotion.automatic.lifecycle import AutomaticState
from registry.promotion.automatic.noting import note, open_row
from registry.promotion.automatic.scoring import Scoring
from registry.promotion.decisions import refusal_of
from sdk.schemas.aliases import AliasMove, AliasView
from sdk.schemas.decisions import Decision, PromotionCheck

#: How many versions are read at once, and how often in a round, for one policy.
_PAGE, _PAGES = 200, 50
#: Among how many of the last versions of a policy is looked whether something is left.
_LAST = 20
#: For how many versions of each policy a round does something; the next round continues.
_OF_A_POLICY = 20
#: How many versions a round looks at again, since time has passed.
_AGAIN = 50
#: How long it is before that.
AGAIN_AFTER = timedelta(seconds=60)
#: How many of what is left behind a round puts an end to.
_LEFT = 200
#: What fails these fails them for good. The others wait for somebody: a vote, a replay, a signature.
_FOR_GOOD = frozenset({"floor", "not_worse", "forgetting", "contamination", "base"})

_POOL = Pool(
    "automatic promotion",
    waits="new versions that policies have scored, or aliases moved to, by the registry itself; nobody waits for them",
    at_once="1",
    item=f"a decision, for {_OF_A_POLICY} versions of each policy before the others",
    share="by turns: the policies of each scope one after another",
)

_log = logging.getLogger(__name__)


class Decides(Protocol):
    """What decides whether an alias may move, and moves it."""

    def check(self, *, check: PromotionCheck, who: Principal) -> Decision:
        """Decide without moving."""

    def move(self, *, move: AliasMove, who: Principal) -> AliasView:
        """Decide, and move. Raises PromotionRefused."""


class Automatic:
    """Does what policies ask the registry to do by itself."""

    def __init__(
        self,
        db: Database,
        gate: Decides,
        scoring: Scoring,
        *,
        may_write: Callable[[], bool],
        again_after: timedelta = AGAIN_AFTER,
    ) -> None:
        """`may_write` says whether the registry takes changes now. What waits is looked at again after a while."""
        self._db = db
        self._gate = gate
        self._scoring = scoring
        self._may_write = may_write
        self._again_after = again_after
        self._asking = AskingPolicies()
        self._going = threading.Lock()
        self._background = BackgroundWork(
            _POOL, self.go_on, name="automatic-promotion", failed="policies could not be followed", log=_log
        )

    def sweep(self) -> int:
        """Begin a round in the background, if there may be something to do; return 1 if it began."""
        return self._background.begin(self._is_asked)

    def wait(self) -> None:
        """Wait for what `sweep` has begun."""
        self._background.wait()

    def go_on(self) -> int:
        """Do one round; return how many steps were taken. 0: there is nothing to do now. Raises Unavailable."""
        if not self._may_write() or not self._going.acquire(blocking=False):
            return 0
        try:
            return self._round()
        finally:
            self._going.release()

    def is_left(self) -> bool:
        """Whether there is something to do that no job brings anybody to."""
        with self._db.read() as session:
            for asked in self._asking.now(session):
                left = unsettled(session, candidates(session, asked, most=_LAST))
                if any(_is_due(session, look_at(session, candidate)) for candidate in left):
                    return True
        return False

    def _is_asked(self) -> bool:
        with self._db.read() as session:
            return bool(left_behind(session, most=1) or self._asking.now(session))

    def _round(self) -> int:
        steps = self._put_ends()
        with self._db.read() as session:
            policies = self._asking.now(session)
        again = _AGAIN
        for asked in policies:
            acts = 0
            for sight in self._to_act_on(asked):
                if sight.row is not None and sight.row.state == AutomaticState.WAITING and not sight.is_new:
                    # What waits keeps nothing new from being looked at.
                    if again == 0:
                        continue
                    again -= 1
                elif acts == _OF_A_POLICY:
                    break
                else:
                    acts += 1
                steps += self._act_safely(sight)
        return steps

    def _to_act_on(self, asked: Asking) -> Iterator[Sight]:
        """What there may be something to do about now; what is decided for its policies is not looked at again."""
        below: int | None = None
        for _ in range(_PAGES):
            with self._db.read() as session:
                page = candidates(session, asked, most=_PAGE, below=below)
                left = unsettled(session, page)
            for candidate in reversed(left):
                with self._db.read() as session:
                    # What came before it may have moved the alias beyond it.
                    if not candidates(session, asked, most=1, of=candidate.version_pk):
                        continue
                    sight = look_at(session, candidate)
                    due = _is_due(session, sight, before=utc_now() - self._again_after)
                if due:
                    yield sight
            if len(page) < _PAGE:
                return
            below = page[-1].version_pk

    def _put_ends(self) -> int:
        """Put an end to what nothing will be done about any more; return how many."""
        with self._db.read() as session:
            ended = [
                (row, end)
                for row in left_behind(session, most=_LEFT)
                if (end := end_of(session, row, mover=SYSTEM.name)) is not None
            ]
        for row, end in ended:
            key = (row.adapter_pk, row.alias, row.digest, row.policies_digest)
            with self._db.write() as session:
                again = open_row(session, key)
                if again is not None:
                    again.state, again.at = end, utc_now()
        return len(ended)

    def _act_safely(self, sight: Sight) -> int:
        try:
            return self._acted(sight)
        except QuotaExceeded as error:
            # Not even what it waits for can be noted; other namespaces don't wait for this one.
            _log.info("%s is looked at again later: %s", sight.candidate.ref, error)
            return 0

    def _acted(self, sight: Sight) -> int:
        """Raises QuotaExceeded."""
        try:
            return self._act(sight)
        except (ChangedError, NotFound, Unavailable) as error:
            # Something was changed at this very moment, or takes longer: the next round sees what.
            _log.info("%s is looked at again later: %s", sight.candidate.ref, error)
            return 0
        except RegistryError as error:
            return self._waits(sight, error.message)
        except Exception:  # noqa: BLE001 - one version must not keep the others from being looked at
            _log.exception("%s can't be decided about for %s", sight.candidate.ref, sight.candidate.alias)
            return self._end(sight, AutomaticState.FAILED, "the registry failed at it; its log says how")

    def _act(self, sight: Sight) -> int:
        """Take the next step for a version; return 1 if there was one."""
        candidate = sight.candidate
        if not sight.moves and not sight.scored_rows:
            # The policy was ended at this very moment.
            return 0
        families = self._scoring.families(sight)
        if sight.moves:
            with self._db.read() as session:
                over = self._scoring.over_cap(session, sight, families)
            if over is not None:
                return self._end(sight, AutomaticState.REFUSED, over)
        decision = self._gate.check(
            check=PromotionCheck(adapter=candidate.adapter, alias=candidate.alias, number=candidate.number),
            who=SYSTEM,
        )
        submitted = self._scoring.submit(sight, decision.missing, families)
        if submitted.count:
            return submitted.count
        if submitted.waits is not None:
            return self._waits(sight, submitted.waits)
        if sight.moves:
            return self._decide(sight, decision, submitted.failed)
        if submitted.failed is not None:
            return self._end(sight, AutomaticState.FAILED, submitted.failed)
        return self._end(sight, AutomaticState.SCORED, None)

    def _decide(self, sight: Sight, decision: Decision, failed: str | None) -> int:
        """Move the alias if all rules pass; else note what that came to."""
        rest = [rule for rule in decision.rules if rule.outcome != "passed"]
        if any(rule.outcome == "failed" and rule.kind in _FOR_GOOD for rule in rest):
            return self._end(sight, AutomaticState.REFUSED, refusal_of(decision))
        if failed is not None:
            return self._end(sight, AutomaticState.FAILED, failed)
        if rest:
            return self._waits(sight, f"waits: {refusal_of(decision)}")
        candidate = sight.candidate
        move = AliasMove(
            adapter=candidate.adapter,
            alias=candidate.alias,
            number=candidate.number,
            expect=decision.from_number or 0,
            reason="the policies ask for it",
        )
        self._gate.move(move=move, who=SYSTEM)
        return self._end(sight, AutomaticState.MOVED, None)

    def _waits(self, sight: Sight, message: str) -> int:
        """Note what it waits for. That it still waits for the same is not a step."""
        before = None if sight.row is None else (sight.row.state, sight.row.message)
        note(self._db, sight, AutomaticState.WAITING, message)
        return int(before != (AutomaticState.WAITING, message))

    def _end(self, sight: Sight, state: AutomaticState, message: str | None) -> int:
        note(self._db, sight, state, message)
        if state in (AutomaticState.FAILED, AutomaticState.REFUSED):
            _log.info("%s is not for %s: %s", sight.candidate.ref, sight.candidate.alias, message)
        return 1


def _is_due(session: Session, sight: Sight, *, before: datetime | None = None) -> bool:
    """Whether there may be a next step: something has changed, its jobs have ended, or it has waited since `before`."""
    row = sight.row
    if row is None:
        return True
    if row.state == AutomaticState.SCORING:
        unfinished = select(Job.id).where(Job.id.in_(row.jobs), Job.state.in_(UNFINISHED)).limit(1)
        return session.scalars(unfinished).first() is None
    return not sight.is_over and (sight.is_new or (before is not None and row.at <= before))
