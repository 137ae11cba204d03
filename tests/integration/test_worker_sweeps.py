"""Sweeps with real workers: members are pruned at rungs, whatever happens meanwhile to child, worker or registry."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from faults.plans import Fault, Head, Plan, Strike
from faults.proxy import FaultProxy
from support import tiny
from support.soak import SOAKING
from support.trainings import save_jsonl
from support.waiting import wait_until
from support.workplace import Running, Workplace, opened

from sdk.api import sweeps
from sdk.schemas.job_requests import CheckpointPolicy, TrainingRequest
from sdk.schemas.sweep_axes import Values
from sdk.schemas.sweeps import SweepMember, SweepRequest, SweepSubmission, SweepView
from sdk.schemas.training import TrainingSpec

pytestmark = pytest.mark.slow

#: A child waits a quarter of it at a rung.
LEASE_S = 4.0


class AwayAtRungs(Plan):
    """No question at a rung is answered until the registry is back."""

    def __init__(self) -> None:
        super().__init__("away at rungs", most=0)
        self.asked = threading.Event()
        self.back = threading.Event()

    def draw(self, request: Head) -> Strike | None:
        if self.back.is_set() or not request.target.endswith("/rungs"):
            return None
        self.asked.set()
        return Strike(Fault.UNAVAILABLE)


class AwayFromTheSecond(Plan):
    """Only those questions at rungs are answered that the first training asks, until another one asks for the third time."""

    def __init__(self) -> None:
        super().__init__("away from the second", most=0)
        self._first: str | None = None
        self._refused = 0

    def draw(self, request: Head) -> Strike | None:
        if not request.target.endswith("/rungs"):
            return None
        self._first = self._first or request.target
        if request.target == self._first or self._refused == 2:
            return None
        self._refused += 1
        return Strike(Fault.UNAVAILABLE)


class Sweeping(Workplace):
    """A workplace whose workers reach the registry through a proxy."""

    held_out: str

    def begin(self, rates: list[float], *, steps: int, every_steps: int | None = None) -> SweepView:
        training = TrainingRequest(
            adapter=f"swept-{os.urandom(4).hex()}",
            base=self.base,
            data=self.data,
            eval_data=self.held_out,
            spec=TrainingSpec(
                method="lora",
                batch_size=2,
                grad_accum=1,
                warmup_ratio=0.0,
                schedule="constant",
                max_steps=steps,
                dropout=0.1,
            ),
            checkpoint=CheckpointPolicy(every_steps=every_steps, every_minutes=None),
        )
        request = SweepRequest(
            training=training, settings={"lr": Values(values=list(rates))}, stop_early="halving", parallel=1
        )
        return sweeps.submit(self.client.transport, SweepSubmission(request=request))

    def members(self, sweep: SweepView) -> list[SweepMember]:
        return sweeps.get(self.client.transport, sweep.id).members

    def ended(self, sweep: SweepView, worker: Running) -> SweepView:
        def state() -> str:
            # No reconciler runs here.
            self.world.services.driver.go_on()
            return sweeps.get(self.client.transport, sweep.id).state

        wait_until(lambda: state() == "ended", lambda: f"{self.members(sweep)}\n{worker.text}")
        return sweeps.get(self.client.transport, sweep.id)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweeping]:
    folder = tmp_path_factory.mktemp("sweeping")
    rows = [{"prompt": f"name {n} of {word}: ", "completion": word[::-1]} for n, word in enumerate(tiny.WORDS)]
    with opened(folder, Sweeping, lease_s=LEASE_S) as place:
        place.held_out = place.client.datasets.add(save_jsonl(folder / "others.jsonl", rows), namespace="-").digest
        yield place


@contextmanager
def through_a_proxy(place: Sweeping, plan: Plan) -> Iterator[str]:
    """The URL of the registry behind a plan of faults."""
    host, _, port = place.world.url.removeprefix("http://").partition(":")
    with FaultProxy() as proxy:
        proxy.upstream = (host, int(port))
        proxy.plan = plan
        yield proxy.url


def test_a_member_trains_on_while_the_registry_is_away_and_is_pruned_when_it_is_back(place: Sweeping) -> None:
    # It is asked again a second after an answer, as long as the member waits at a rung: at the third time, the member has left the
    # first rung, and has the wait at the second one and most of its steps before it.
    with through_a_proxy(place, AwayFromTheSecond()) as url, place.worker(forks=True, ADAPTERCTL_URL=url) as worker:
        view = place.ended(place.begin([0.05, 2e-5], steps=400), worker)
    first, second = view.members
    assert (first.outcome, first.steps) == ("finished", 400)
    assert (second.outcome, second.state) == ("pruned", "succeeded")
    # The first rung lets two go on, and the second one only the best.
    assert second.steps == 160 + second.surplus_steps
    said = place.said(second.job)
    assert "has not answered at step 40 yet; training on until it does" in said
    assert said.count("asked again later") == 1
    assert view.winner == 1
    assert first.ref is not None


def kill_child(worker: Running) -> None:
    os.kill(worker.child(), signal.SIGKILL)


@pytest.mark.soak
@pytest.mark.skipif(not SOAKING, reason="what is asked again by whom is tested without workers")
@pytest.mark.parametrize("kill", [kill_child, Running.kill], ids=["child", "worker"])
@pytest.mark.parametrize("pruned", [False, True])
def test_a_member_that_is_killed_at_a_rung_is_told_the_same_and_trained_once(
    place: Sweeping, kill: Callable[[Running], Any], pruned: bool
) -> None:
    plan = AwayAtRungs()
    with through_a_proxy(place, plan) as url:
        with place.worker(ADAPTERCTL_URL=url) as worker:
            if pruned:
                plan.back.set()
            sweep = place.begin([0.05, 2e-5], steps=400, every_steps=20)
            if pruned:
                wait_until(lambda: [one for one in place.members(sweep) if one.outcome], lambda: worker.text)
                plan.back.clear()
                plan.asked.clear()
            wait_until(plan.asked.is_set, lambda: worker.text)
            kill(worker)
            if kill is kill_child:
                plan.back.set()
                view = place.ended(sweep, worker)
        if kill is not kill_child:
            plan.back.set()
            with place.worker(ADAPTERCTL_URL=url) as worker:
                view = place.ended(sweep, worker)
    told = [(one.number, one.outcome, one.state) for one in view.members]
    assert told == [(1, "finished", "succeeded"), (2, "pruned", "succeeded")]
    assert place.job(view.members[pruned].job).attempt >= 2
    assert view.winner == 1
