"""Who is killed, and when: plans drawn from a seed, moments recognised from outside, and the blow itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from queue import Queue
from random import Random

from faults.jobs.gates import Dropped
from faults.jobs.parts import Worker, kill_process
from faults.jobs.stack import STEPS, Stack
from faults.plans import Head
from support.workplace import wait_until

_LOOK_S = 0.05
#: A checkpoint is written within some tens of milliseconds.
_LOOK_CLOSELY_S = 0.01


class Target(StrEnum):
    """Who is killed, by SIGKILL."""

    #: The process of a worker. Whoever looks after it starts it again.
    WORKER = "worker"
    #: Its child, which trains.
    CHILD = "child"
    #: The registry, with all its processes; it is started again.
    SERVER = "server"
    #: One of its processes.
    PROCESS = "server process"
    #: That one which reconciles.
    LEADER = "reconciler"


class Moment(StrEnum):
    """When."""

    #: The job was given to a worker.
    CLAIMED = "claimed"
    #: So many steps are done.
    STEP = "step"
    #: A checkpoint is being written.
    CHECKPOINT = "checkpoint"
    #: A checkpoint is uploaded and not recorded.
    RECORDING = "recording"
    #: The adapter is uploaded and not published; the request never arrives.
    PUBLISHING = "publishing"
    #: The request to publish is on its way, or arrived.
    DURING = "during publication"
    #: The request to publish arrives once another attempt has the job.
    LATE = "late publication"
    #: The version is there and the worker doesn't know.
    PUBLISHED = "published"
    #: At any time.
    ANY = "any"


#: Recognised by a request that waits to pass.
_AT_GATES = (Moment.RECORDING, Moment.PUBLISHING, Moment.DURING, Moment.LATE)
#: Struck now, an attempt is over, and there is another unless that was the last.
_REPEATABLE = (Moment.CLAIMED, Moment.STEP, Moment.CHECKPOINT, Moment.RECORDING, Moment.PUBLISHING)
#: While these last there is a child.
_TRAINING = (Moment.STEP, Moment.CHECKPOINT, Moment.RECORDING, Moment.ANY)
#: The first are those that the short run does: at gates, since no request passes by there on a busy machine before it is seen.
_FIRST = [
    (Target.CHILD, Moment.RECORDING),
    (Target.WORKER, Moment.LATE),
    (Target.SERVER, Moment.DURING),
    (Target.LEADER, Moment.RECORDING),
]
_OTHERS = [
    (target, moment)
    for target in Target
    for moment in (_TRAINING if target is Target.CHILD else Moment)
    if (target, moment) not in _FIRST
]
COMBINATIONS = [*_FIRST, *Random("combinations").sample(_OTHERS, len(_OTHERS))]


@dataclass(frozen=True)
class Strike:
    """One kill that is planned."""

    #: Which job of the round.
    job: int
    target: Target
    moment: Moment
    #: In how many attempts, one after another.
    times: int
    step: int
    delay_s: float


@dataclass(frozen=True)
class Kill:
    """One that happened."""

    strike: Strike
    job: str
    attempt: int
    worker: str
    at: float


def draw(seed: int, *, jobs: int) -> list[Strike]:
    """Return the plan of a round, in which each job is struck: each combination has its turn, and the next time thrice for one job, which may be too much."""
    random = Random(f"kills of jobs {seed}")
    plan = []
    for number, job in enumerate(random.sample(range(jobs), jobs)):
        turn, place = divmod(seed * jobs + number, len(COMBINATIONS))
        target, moment = COMBINATIONS[place]
        again = turn % 2 and moment in _REPEATABLE and target in (Target.WORKER, Target.CHILD)
        delay_s = random.uniform(0, 8) if moment is Moment.ANY else random.uniform(0, 0.1)
        plan.append(Strike(job, target, moment, 3 if again else 1, random.randint(1, STEPS * 3 // 4), delay_s))
    return plan


class Executioner:
    """Waits for a strike's moment with a job, and strikes."""

    def __init__(self, stack: Stack, job: str, strike: Strike) -> None:
        self._stack = stack
        self._job = job
        self._strike = strike
        self._began = time.monotonic()
        self._guard = threading.Lock()
        #: The attempt that was struck last.
        self._struck = 0
        #: Whether the job's end may be there before the blow.
        self._is_due = strike.moment is Moment.PUBLISHED
        #: What happened, and who has to be brought back.
        self._fallen: Queue[Kill] = Queue()

    def carry_out(self) -> list[Kill]:
        """Strike as often as planned, as long as the job goes on. Who was killed is back when this returns."""
        moment = self._strike.moment
        path = f"/jobs/{self._job}/{'checkpoints' if moment is Moment.RECORDING else 'complete'}"
        kills: list[Kill] = []
        with (
            self._stack.gates.before(path, self._at_gate) if moment in _AT_GATES else nullcontext(),
            self._stack.gates.swallowing(path) if moment is Moment.PUBLISHED else nullcontext(),
        ):
            while len(kills) < self._strike.times and (self._is_due or not self._stack.row(self._job).state.is_final):
                if self._is_time():
                    self._strike_now()
                kills += self._bring_back()
                time.sleep(_LOOK_CLOSELY_S if moment is Moment.CHECKPOINT else _LOOK_S)
        return [*kills, *self._bring_back()]

    def _is_time(self) -> bool:
        """Whether the moment is there, for those that no gate tells."""
        strike, row = self._strike, self._stack.row(self._job)
        if row.attempt <= self._struck:
            return False
        match strike.moment:
            case Moment.CLAIMED:
                return row.worker is not None
            case Moment.STEP:
                return row.step >= strike.step
            case Moment.CHECKPOINT:
                attempts = f"jobs/{self._job}-{row.attempt}-*/checkpoints/.partial-step-*"
                return any(any(worker.cache.glob(attempts)) for worker in self._stack.workers_at_work)
            case Moment.DURING if self._is_due:
                time.sleep(strike.delay_s)
                return True
            case Moment.PUBLISHED:
                return row.state.is_final
            case Moment.ANY:
                return time.monotonic() - self._began >= strike.delay_s
        return False

    def _at_gate(self, _request: Head) -> None:
        """Called while a request waits to pass."""
        attempt = self._stack.row(self._job).attempt
        if attempt <= self._struck:
            return
        if self._strike.moment is Moment.DURING:
            self._is_due = True
            return
        self._strike_now()
        if self._strike.moment is not Moment.LATE:
            raise Dropped
        if self._strike.target is Target.WORKER:
            wait_until(
                lambda: (row := self._stack.row(self._job)).attempt > attempt or row.state.is_final,
                lambda: self._stack.explain(self._job),
            )

    def _strike_now(self) -> None:
        with self._guard:
            row = self._stack.row(self._job)
            worker = self._stack.worker_named(row.worker)
            if worker is None or row.attempt <= self._struck:
                # It waits to be claimed again.
                return
            at = time.time()
            if self._blow(worker, row.attempt):
                self._struck = row.attempt
                self._fallen.put(Kill(self._strike, self._job, row.attempt, worker.name, at))

    def _blow(self, worker: Worker, attempt: int) -> bool:
        registry = self._stack.registry
        kill: dict[Target, Callable[[], bool]] = {
            Target.WORKER: worker.kill,
            Target.CHILD: lambda: kill_process(worker.child_of(self._job, attempt)),
            Target.SERVER: registry.kill,
            Target.PROCESS: lambda: kill_process(next(iter(registry.processes()), None)),
            Target.LEADER: lambda: kill_process(self._stack.leader()),
        }
        return kill[self._strike.target]()

    def _bring_back(self) -> list[Kill]:
        """Start those again who have fallen and who have somebody that would; return what happened to them."""
        found = []
        while not self._fallen.empty():
            kill = self._fallen.get()
            found.append(kill)
            if self._strike.target is Target.WORKER:
                worker = self._stack.worker_named(kill.worker)
                assert worker is not None
                worker.wait_until_gone()
                self._stack.start(worker)
            elif self._strike.target is Target.SERVER:
                self._stack.start(self._stack.registry)
        return found
