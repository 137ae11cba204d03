"""Which setting is chosen where members were lost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from registry.db.types import Model
from registry.jobs.models import Checkpoint
from registry.sweeps.choosing import BestMember, Contest
from registry.sweeps.member_rows import MemberRows
from registry.sweeps.members import mean_of
from registry.sweeps.models import Member, Sweep
from registry.sweeps.proposing import _tried
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.sweep_axes import Values
from sdk.schemas.sweeps import SweepRequest

ROWS = 50
TRAINING = TrainingRequest(adapter="ns/a", base=BaseChoice(id="tiny"), data="0" * 64, eval_data="1" * 64)
REQUEST = SweepRequest(training=TRAINING, settings={"rank": Values(values=[1, 4])}, seeds=3)
NONE = float("nan")


def member(number: int, loss: float, *, weight: float = 1.0, outcome: str | None = "finished", **known: Any) -> Member:
    """The members of rank 1 are 1, 2 and 3, and those of rank 4 are 4, 5 and 6."""
    trial = (number + 2) // 3
    noise = np.random.default_rng(number).normal(0, 0.01, ROWS)
    losses, weights = (np.asarray(each, "<f4").tobytes() for each in ((loss + noise) * weight, np.full(ROWS, weight)))
    about = {"setting": {"rank": (1, 4)[trial - 1]}, "seed": number, "job": "j", "metrics": {}, **known}
    scores = {"row_losses": losses, "row_weights": weights, "loss": mean_of(losses, weights)}
    return Member(sweep="s", number=number, trial=trial, outcome=outcome, step=1, steps=1, **scores, **about)


def chosen(members: Sequence[Member]) -> BestMember:
    found = {one.number: one for one in members}
    contest = Contest(Sweep(id="s", namespace="ns"), REQUEST, members, {}).with_rows(
        lambda name, numbers: [(number, getattr(found[number], name)) for number in numbers]
    )
    rows = contest.losses()
    return contest.ordered(rows) if isinstance(rows, str) else contest.judged(rows)


def outcomes(found: BestMember) -> list[tuple[int, str]]:
    return [(one.trial, one.outcome) for one in found.verdict.settings]


STEADY = [member(number, 2.0) for number in (1, 2, 3)]


def test_a_setting_of_which_a_seed_was_pruned_is_not_scored_by_the_others() -> None:
    lucky = [member(4, 1.5), member(5, 2.6, outcome="pruned"), member(6, NONE)]
    found = chosen([*STEADY, *lucky])
    assert (outcomes(found), found.winner in (1, 2, 3)) == ([(1, "best"), (2, "pruned")], True)
    assert "Not compared, since a training of it was stopped early: rank 4." in found.verdict.notes
    tried = _tried(2, [(one, False) for one in lucky], {}, REQUEST)
    assert (tried.state, tried.score) == ("pruned", None)


def test_a_setting_of_which_a_seed_has_no_score_is_neither_best_nor_as_good() -> None:
    lucky = [member(4, 1.5), member(5, NONE), member(6, 1.5, outcome=None)]
    found = chosen([*STEADY, *lucky])
    assert outcomes(found) == [(1, "best"), (2, "failed")]
    assert "Not compared, since 2 of 3 trainings ended without a score: rank 4." in found.verdict.notes
    assert _tried(2, [(one, False) for one in lucky], {}, REQUEST).state == "failed"


def test_a_seed_that_a_budget_left_out_is_not_lost() -> None:
    assert outcomes(chosen([*STEADY, member(4, 1.5), member(5, 1.5, outcome=None, job=None)])) == [
        (2, "best"),
        (1, "worse"),
    ]


def test_where_every_setting_lost_a_seed_the_best_training_wins_and_no_setting_is_the_best() -> None:
    found = chosen([*STEADY[:2], member(3, NONE), member(4, 1.5), member(5, 2.0, outcome="pruned")])
    assert (found.winner, outcomes(found)) == (4, [(1, "failed"), (2, "pruned")])
    assert (found.verdict.told_apart, [one.score for one in found.verdict.settings]) == (False, [None, None])
    assert found.verdict.notes[0].startswith("every setting has a training that stopped early or without a score")


def test_members_are_compared_on_the_rows_of_most_and_others_are_named() -> None:
    odd = member(1, 1.0, weight=2.0)
    nearly = [member(number, 2.0, weight=1.0 + 1e-7) for number in (4, 5, 6)]
    found = chosen([odd, *STEADY[1:], *nearly])
    assert outcomes(found) == [(2, "best"), (1, "not compared")]
    assert found.verdict.notes[0] == "member 1 was scored on other held-out tokens, so it can't be compared"
    assert not any("Without a score" in note for note in found.verdict.notes)
    assert chosen([odd, member(4, 2.0)]).winner == 1


def test_where_no_setting_was_scored_alike_scores_are_taken_as_they_are() -> None:
    found = chosen([STEADY[0], member(2, 2.0, weight=2.0), member(4, 1.0, weight=3.0), member(5, 1.0)])
    assert outcomes(found) == [(2, "best"), (1, "not told apart")]
    assert found.verdict.notes[0].startswith("no setting has all of its trainings scored on the held-out tokens")


def test_losses_of_many_members_take_little_more_memory_than_their_numbers_do() -> None:
    members, rows = 200, 2_000
    weights = np.ones(rows, "<f4").tobytes()
    loss = np.random.default_rng(0).normal(2, 0.5, rows)
    sets = {"sweep": "s", "setting": {"rank": 1}, "seed": 0, "job": "j", "outcome": "finished", "row_weights": weights}
    engine = create_engine("sqlite://")
    tables = [model.__table__ for model in (Sweep, Member, Checkpoint)]
    Model.metadata.create_all(engine, tables=tables)  # type: ignore[arg-type]
    with Session(engine) as session:
        for number in range(1, members + 1):
            losses = (loss + number / 100).astype("<f4").tobytes()
            session.add(Member(number=number, trial=number, loss=2 + number / 100, row_losses=losses, **sets))
        session.commit()
    with Session(engine) as session:
        tracemalloc.start()
        rows_of = Contest.of(session, Sweep(id="s", namespace="ns"), REQUEST).losses()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    engine.dispose()
    assert isinstance(rows_of, MemberRows)
    assert rows_of.sums[-1] == pytest.approx(loss + members / 100)
    assert peak < 2 * members * rows * 4
