"""What each rule says of a made-up training, and what all of them say of real ones."""

from __future__ import annotations

import gzip
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sdk.advice.broken_rows import run_of_rows
from sdk.advice.rules import LEAST_STEPS, advice_after_divergence, advice_of, advice_so_far, checks_every, merged
from sdk.schemas.advice import Advice
from sdk.schemas.looks import HigherLoss, LookRecord
from sdk.schemas.series import Point
from sdk.schemas.version_records import TrainingRecord

STEPS = 400
RECORD = TrainingRecord(
    lr=2e-4,
    epochs=3.0,
    total_steps=STEPS,
    warmup_steps=12,
    samples=1000,
    effective_batch=8,
    objective="sft",
    dropout=0.05,
)


def falling(step: int) -> float:
    return 1.0 + 2.0 * math.exp(-step / 80)


def points(loss: Callable[[int], float] = falling, *, steps: int = STEPS, noise: float = 0.05) -> list[Point]:
    rng = random.Random(0)
    return [Point(step=at, values={"loss": loss(at) + rng.gauss(0, noise)}) for at in range(1, steps + 1)]


def looks(*losses: float, every: int = 30, spread: float = 0.01, start: int = 0) -> list[LookRecord]:
    """Looks with an interval of `spread` on either side of each difference."""
    found: list[LookRecord] = []
    for at, loss in enumerate(losses):
        best = min(found, key=lambda look: look.scores["loss"], default=None)
        worse = None
        if best is not None:
            more = loss - best.scores["loss"]
            worse = HigherLoss(step=best.step, mean=more, low=more - spread, high=more + spread)
        step = start + at * every
        found.append(LookRecord(step=step, rows=50, scores={"loss": loss}, seconds=1.0, worse=worse))
    return found


def said(some: Sequence[Point], seen: Sequence[LookRecord] = (), *, labels: int = 0, **changed: Any) -> list[Advice]:
    return advice_of(RECORD.model_copy(update=changed), some, seen, labels=labels)


WORSE = looks(3.0, 2.0, 1.6, 1.45, 1.4, 1.42, 1.44, 1.46, 1.47, 1.48, 1.49, 1.498)


class TestGood:
    @pytest.mark.parametrize("seen", [[], looks(3.0, 2.0, 1.5, 1.3, 1.25, every=100)])
    def test_one_that_learns_is_advised_nothing(self, seen: list[LookRecord]) -> None:
        assert said(points(), seen) == []

    def test_one_that_ends_a_little_above_its_best_look_is_advised_nothing(self) -> None:
        # 2 % is little, and 7 % is no difference if other rows could as well have been better.
        assert said(points(), looks(3.0, 1.4, 1.428, every=200)) == []
        assert said(points(), looks(3.0, 1.4, 1.498, every=200, spread=0.2)) == []

    def test_few_steps_say_nothing(self) -> None:
        assert said(points(lambda step: 1.0 + step, steps=LEAST_STEPS - 1)) == []
        assert said(points(lambda step: 1.0 + step, steps=LEAST_STEPS))[0].rule == "diverging"


class TestByHeart:
    def test_held_out_rows_that_get_worse_are_told_with_the_step_and_what_would_have_ended_it(self) -> None:
        (found,) = said(points(), WORSE)
        assert found.rule == "by_heart"
        assert found.message == (
            "the held-out loss was lowest at step 120 of 400 and is 7% higher now: --patience 2 would have ended at 180, while the"
            " training's loss falls; try --epochs 1"
        )
        assert found.changes == {"epochs": 1.0}

    def test_looks_that_only_a_sweep_asked_for_say_nothing(self) -> None:
        seen = looks(2.0, 1.5, 1.4, 1.5, 1.6, 1.7, every=60)
        assert said(points(), seen) != []
        only = [look.model_copy(update={"for_sweep": look.step > 120}) for look in seen]
        assert said(points(), only) == said(points(), only[:3]) == []

    def test_steps_are_advised_where_steps_were_asked_for(self) -> None:
        (found,) = said(points(), WORSE, epochs=None, max_steps=400)
        assert found.changes == {"max_steps": 120}

    def test_rows_whose_loss_is_far_below_that_of_held_out_ones_are_known_by_heart(self) -> None:
        seen = looks(3.0, 2.0, 1.8, every=200)
        (found,) = said(points(), seen, samples=8)
        assert found.message.startswith("after 400 passes the loss of the training's 8 rows is 1.0")
        assert (found.rule, found.changes) == ("by_heart", {"dropout": 0.1})
        assert said(points(), seen) == []
        assert said(points(), looks(3.0, 2.0, 1.2, every=200), samples=8) == []

    def test_held_out_rows_that_stop_getting_better_while_the_training_s_do_are_told(self) -> None:
        stalled = looks(3.0, 1.5, 1.2, 1.21, 1.2, every=100)
        (found,) = said(points(lambda step: 1.6 - step / 500), stalled, samples=500)
        assert found.message == (
            "the held-out loss has not fallen since step 200 of 400, while that of the training's rows fell by 29%; try --epochs 2"
        )
        # One pass over rows teaches none of them by heart.
        assert said(points(lambda step: 1.6 - step / 500), stalled, samples=3200) == []
        assert said(points(lambda step: 1.3 - step / 5000), stalled, samples=500) == []


class TestDiverging:
    def test_a_loss_that_rises_again_is_told_before_it_is_no_number(self) -> None:
        (found,) = said(points(lambda step: falling(step) + max(0, step - 200) / 200))
        assert (found.rule, found.changes) == ("diverging", {"lr": 6.7e-05})
        assert found.message.endswith("so it diverges; try --lr 6.7e-05")

    def test_held_out_rows_that_get_worse_while_nothing_is_learnt_are_no_rows_by_heart(self) -> None:
        (found,) = said(points(lambda step: 2.0 + step / 10_000), looks(2.0, 2.1, 2.3, every=200))
        assert found.rule == "diverging"
        assert "lowest before the first step and is 15% higher now" in found.message


class TestFlat:
    def test_a_loss_that_does_not_fall_is_told_with_and_without_looks(self) -> None:
        level = points(lambda step: 2.0)
        for seen in ([], looks(2.0, 2.001, 1.999, every=200)):
            (found,) = said(level, seen)
            assert (found.rule, found.changes) == ("flat", {"lr": 6e-4})

    def test_a_small_fall_that_held_out_rows_show_is_no_flat_loss(self) -> None:
        assert said(points(lambda step: 2.0, noise=0.5), looks(2.0, 1.97, 1.96, every=200)) == []

    @pytest.mark.parametrize(("objective", "labels", "chance"), [("dpo", 0, math.log(2)), ("classify", 3, math.log(3))])
    def test_guesses_are_told_by_the_loss_of_chance(self, objective: str, labels: int, chance: float) -> None:
        (found,) = said(points(lambda step: chance + math.exp(-step / 40)), objective=objective, labels=labels)
        assert found.rule == "flat"
        assert f"and {chance:.4g} by chance" in found.message
        assert said(points(lambda step: chance * math.exp(-step / 200)), objective=objective, labels=labels) == []


class TestSpikes:
    @pytest.mark.parametrize(
        ("norm", "changes"), [(1.0, {"max_grad_norm": 0.3}), (0.3, {}), (0.0, {"max_grad_norm": 0.3})]
    )
    def test_steps_that_stand_out_are_counted_and_the_largest_is_told(
        self, norm: float, changes: dict[str, float]
    ) -> None:
        (found,) = said(
            points(lambda step: falling(step) + 1.5 * (step % 97 == 0) + 2 * (step == 291)), max_grad_norm=norm
        )
        assert (found.rule, found.changes) == ("spikes", changes)
        assert found.message.startswith("the loss jumped at 4 of 400 steps, most at step 291, from 1.0")

    def test_noise_and_one_step_are_no_spikes(self) -> None:
        assert said(points(noise=0.2)) == []
        assert said(points(lambda step: falling(step) + 2 * (step == 291))) == []


class TestBrokenRows:
    def test_rows_that_follow_each_other_with_a_high_loss_are_named(self) -> None:
        rng = random.Random(1)
        losses = [rng.uniform(0.8, 1.6) for _ in range(300)]
        losses[40:44] = [3.0, 4.0, 3.5, 5.0]
        (found,) = advice_of(RECORD, points(), [], run=run_of_rows(losses))
        assert found.message.startswith(
            "rows 41 to 44 of the dataset have a loss of 3.875, and half of all rows one below 1.2"
        )
        assert (found.rule, found.changes) == ("broken_rows", {"max_grad_norm": 0.3})
        rng.shuffle(losses)
        assert run_of_rows(losses) is None

    def test_rows_in_any_order_have_a_run_less_than_once_in_a_hundred_files(self) -> None:
        rng = random.Random(2)
        runs = [run_of_rows([rng.paretovariate(1.5) for _ in range(rng.randrange(12, 200))]) for _ in range(300)]
        assert sum(run is not None for run in runs) <= 3

    def test_rows_that_are_a_little_higher_or_unknown_are_no_run(self) -> None:
        losses = [1.0 + at % 10 / 100 for at in range(200)]
        assert run_of_rows([*losses[:50], *[1.25] * 6, *losses[50:]]) is None
        assert run_of_rows([*losses[:50], *[math.nan] * 6, *losses[50:]]) is None
        assert run_of_rows([math.nan] * 40) is None
        assert run_of_rows([1.0, 9.0, 9.0]) is None


class TestWarmup:
    @pytest.mark.parametrize(("steps", "rules"), [(396, ["warmup"]), (201, ["warmup"]), (200, []), (0, [])])
    def test_a_warm_up_of_more_than_half_the_steps_is_told(self, steps: int, rules: list[str]) -> None:
        assert [one.rule for one in said(points(), warmup_steps=steps)] == rules


def said_at(step: int, loss: Callable[[int], float], seen: Sequence[LookRecord] = (), **changed: Any) -> list[Advice]:
    """What is said after a step of a training whose whole course this is."""
    losses = [point.values["loss"] for point in points(loss, steps=step)]
    record = RECORD.model_copy(update=changed)
    return advice_so_far(record, losses, [look for look in seen if look.step <= step])


class TestOnTheWay:
    def test_a_loss_that_rises_is_told_once_two_checks_in_a_row_have_seen_it(self) -> None:
        def rising(step: int) -> float:
            return falling(step) + max(0, step - 120) / 100

        told = {step: [one.rule for one in said_at(step, rising)] for step in range(50, STEPS, checks_every(STEPS))}
        first = next(step for step in told if said(points(rising, steps=step), total_steps=step))
        assert told == {step: ["diverging"] if step > first else [] for step in told}
        (found,) = said_at(first + checks_every(STEPS), rising)
        assert found.message.startswith(
            f"at step {first + checks_every(STEPS)} of 400, the training's loss was lowest around"
        )
        assert " higher now " in found.message

    def test_held_out_rows_that_get_worse_are_told_at_the_second_look_that_says_so(self) -> None:
        worse = looks(3.0, 1.4, 1.5, 1.52, every=60)
        told = {step: [one.rule for one in said_at(step, falling, worse)] for step in (120, 150, 180)}
        # Between looks nothing is known of these rows.
        assert told == {120: [], 150: [], 180: ["by_heart"]}
        (found,) = said_at(180, falling, worse)
        assert found.message == (
            "at step 180 of 400, the held-out loss was lowest at step 60 of 400 and is 9% higher now, while the training's loss falls;"
            " try --epochs 1"
        )
        better = looks(3.0, 1.4, 1.5, 1.39, every=60)
        assert said_at(180, falling, better) == []

    def test_spikes_and_a_long_warm_up_are_told_at_once(self) -> None:
        def jumping(step: int) -> float:
            return falling(step) + 1.5 * (step in (90, 110, 140))

        assert [one.rule for one in said_at(150, jumping)] == ["spikes"]
        # The loss falls too fast for that in the first part of a training, which its first steps are all.
        assert said_at(79, lambda step: falling(step) + 1.5 * (step in (30, 50, 70))) == []
        assert [one.rule for one in said_at(LEAST_STEPS, falling, warmup_steps=300)] == ["warmup"]
        assert said_at(LEAST_STEPS - 1, falling, warmup_steps=300) == []

    def test_that_nothing_is_learnt_is_not_said_before_the_end(self) -> None:
        flat = looks(2.0, 2.001, 2.0, 2.002, every=60)
        assert said(points(lambda step: 2.0, steps=180), flat, total_steps=180)[0].rule == "flat"
        assert said_at(180, lambda step: 2.0, flat) == []

    def test_what_is_told_again_by_a_rule_takes_the_place_of_the_first_only_at_the_end(self) -> None:
        first, then, other = (Advice(rule=rule, message=text) for rule, text in (("a", "1"), ("a", "2"), ("b", "3")))
        assert merged([first], [then, other], newer=False) == [first, other]
        assert merged([first, other], [then]) == [then, other]


class TestDiverged:
    def test_what_the_loss_did_before_is_told_with_the_rate_and_the_step(self) -> None:
        found = advice_after_divergence(RECORD, [3.0, 2.0, 2.5, 90.0], rate=1e-4)
        assert found.message == (
            "step 4 of 400 was the last with finite numbers, at a rate of 0.0001: the loss was 3 at step 1, lowest at step 2 (2),"
            " 90 at step 4; try --lr 2e-05"
        )
        assert (found.rule, found.changes) == ("diverging", {"lr": 2e-05})
        assert ": the loss was 3 at step 1; try" in advice_after_divergence(RECORD, [3.0], rate=1e-4).message


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[bool]]:
    """Whether the rules say anything, at the end or on the way, of each real training that `benchmarks.once.advice` made, by
    its kind.
    """
    path = Path(__file__).resolve().parents[3] / "assets" / "trainings.json.gz"
    found: dict[str, list[bool]] = {}
    for run in json.loads(gzip.decompress(path.read_bytes())):
        steps = [Point(step=at, values={"loss": loss}) for at, loss in enumerate(run["losses"], start=1)]
        seen = [look_of(*look) for look in run["looks"]]
        record = TrainingRecord.read(run["record"])
        odd = run_of_rows(run["rows"]) if run.get("rows") else None
        advice = advice_of(record, steps, seen, labels=run["labels"], update=run["update"], run=odd)
        # What is told on the way only matters where it may be a false alarm.
        early = run["kind"] == "good" and any(told_early(record, run["losses"], seen))
        found.setdefault(run["kind"], []).append(bool(advice) or early)
    return found


def told_early(record: TrainingRecord, losses: list[float], seen: list[LookRecord]) -> Iterator[bool]:
    for step in sorted({look.step for look in seen} | {*range(0, len(losses), checks_every(len(losses)))}):
        if 0 < step < len(losses):
            yield bool(advice_so_far(record, losses[:step], [look for look in seen if look.step <= step]))


def look_of(step: int, loss: float, *worse: float) -> LookRecord:
    against = None
    if worse:
        best, mean, low, high = worse
        against = HigherLoss(step=int(best), mean=mean, low=low, high=high)
    return LookRecord(step=step, rows=32, scores={"loss": loss}, seconds=0.0, worse=against)


def test_of_fifty_good_trainings_at_most_one_is_advised_anything(recorded: dict[str, list[bool]]) -> None:
    good = recorded["good"]
    assert len(good) >= 280
    assert sum(good) <= len(good) / 50


#: How many of ten trainings that were spoilt are advised something, by how: answers that are shuffled look like hard ones where
#: they can't be learnt by heart.
SEEN = {"rate": 10, "warmup": 10, "few": 9, "nothing": 9, "shuffled": 8, "broken": 9}


@pytest.mark.parametrize("kind", SEEN)
def test_trainings_that_were_spoilt_are_advised_something(recorded: dict[str, list[bool]], kind: str) -> None:
    spoilt = recorded[kind]
    assert len(spoilt) >= 20
    assert 10 * sum(spoilt) >= SEEN[kind] * len(spoilt)


def test_rules_take_time_in_proportion_to_the_steps() -> None:
    took = []
    for steps in (4_000, 16_000):
        some = points(steps=steps)
        took.append(min(timed(some) for _ in range(3)))
    assert took[1] < 10 * took[0]


def timed(some: list[Point]) -> float:
    began = time.process_time()
    advice_of(RECORD, some, [])
    return time.process_time() - began
