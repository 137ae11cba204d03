"""Sweeps, as sent between client and registry: what is asked for, the members, and what they say about the options."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from sdk.schemas.evaluation import SCORER_PREFIX, EvaluationSpec, is_of_texts, is_scorer
from sdk.schemas.job_requests import TrainingRequest
from sdk.schemas.jobs import JobSettings
from sdk.schemas.option_types import Option
from sdk.schemas.sweep_axes import MOST_AXES, MOST_MEMBERS, Axis, Setting
from sdk.schemas.sweep_grid import grid
from sdk.schemas.varied_options import checked_axis, require_distinct, why_fixed
from sdk.schemas.wire import IF_ANY, IF_SET, Open, Wire

#: The held-out loss, which a training measures itself; other metrics are those of an evaluation on the same rows.
HELD_OUT_LOSS = "eval_loss"
#: The metric of a member that is the size of the files that it handed in.
ADAPTER_SIZE = "adapter_size_bytes"

#: The shares of the steps at which members are compared. Those of halving are η = 4 times apart, and the end is the third; with the
#: median, more of them cost looks and lost more winners (benchmarks/RESULTS.md).
HALVING_RUNGS = (0.1, 0.4)
MEDIAN_RUNGS = (0.1, 0.4, 0.7)

#: To how many held-out prompts each member writes an answer at most, if the best is chosen by these.
_MOST_GENERATED = 1_000

Sampler = Literal["grid", "random", "tpe"]
StopEarly = Literal["none", "halving", "median"]
Publish = Literal["best", "all", "none"]

#: The shares of its steps after which a member asks whether it goes on.
RUNGS: dict[StopEarly, list[float]] = {"none": [], "halving": [*HALVING_RUNGS], "median": [*MEDIAN_RUNGS]}

#: Commands beside `adapterctl sweep NAME`, so that no adapter of such a name is swept.
COMMANDS = ("list", "show", "pause", "go", "cancel")


class SweepFields(Wire):
    """The options of a sweep itself."""

    sample: Annotated[
        Sampler, Option("How settings are chosen: all of them, at random, or by what earlier ones scored (tpe).")
    ] = "grid"
    #: How many settings are tried; a grid has all of them.
    trials: Annotated[
        Annotated[int, Field(ge=1, le=MOST_MEMBERS)] | None,
        IF_SET,
        Option("How many settings are tried; not with a grid, which has all."),
    ] = None
    stop_early: Annotated[
        StopEarly,
        Field(exclude_if=lambda value: value == "none"),
        Option("Stop members early that are behind the best of those so far (halving), or behind their median."),
    ] = "none"
    choose: Annotated[
        str,
        Field(min_length=1, max_length=100),
        Option("What the winner is best in: a metric of an evaluation.", default="the held-out loss", metavar="METRIC"),
    ] = HELD_OUT_LOSS
    #: How many trainings each setting has, with the spec's seed and those that follow it.
    seeds: Annotated[int, Field(ge=1, le=16), Option("Trainings of each setting, with seeds that follow --seed.")] = 1
    #: None: as many as the machine has on which a member begins; its checkpoints go on with these.
    threads: Annotated[
        Annotated[int, Field(ge=1, le=1024)] | None,
        IF_SET,
        Option(
            "Threads that each member computes with, so that it ends with the same bytes on any number of cores.",
            default="the cores of the machine",
        ),
    ] = None
    #: How many members wait or run at once.
    parallel: Annotated[int, Field(ge=1, le=MOST_MEMBERS), Option("How many members wait or run at once.")] = 8
    #: No member begins after members have trained for so long in all, on whatever device.
    max_gpu_hours: Annotated[
        Annotated[float, Field(gt=0, le=1e6)] | None,
        IF_SET,
        Option("Start no member once all together have trained this long, on whatever device.", metavar="HOURS"),
    ] = None
    #: No member begins so many seconds after the sweep began, on the database's clock.
    max_time_s: Annotated[Annotated[float, Field(gt=0, le=31_536_000)] | None, IF_SET] = None
    #: By how much a setting may be worse and still be as good: a share of the best score.
    margin: Annotated[
        float,
        Field(gt=0, le=1),
        Option("Margin: as good as the best is what is worse by at most this share of its score.", metavar="SHARE"),
    ] = 0.01
    publish: Annotated[Publish, Option("Which members become versions: the winner, all that finished, or none.")] = (
        "best"
    )


class SweepRequest(SweepFields):
    """Train an adapter with several settings, and find out which is the best."""

    #: What every member is asked for; the options in `settings`, and the seed, are replaced in its spec.
    training: TrainingRequest
    settings: Annotated[dict[str, Axis], Field(min_length=1, max_length=MOST_AXES)]

    @property
    def most_members(self) -> int:
        """How many trainings it has at most."""
        return self.seeds * (len(grid(self.settings)) if self.trials is None else self.trials)

    @field_validator("settings")
    @classmethod
    def _values_are_the_options_own(cls, settings: dict[str, Axis]) -> dict[str, Axis]:
        return {name: checked_axis(name, axis) for name, axis in settings.items()}

    @model_validator(mode="after")
    def _settings_can_be_compared(self) -> Self:
        by_loss = self.choose == HELD_OUT_LOSS
        if said := next(filter(None, (why_fixed(name, by_loss=by_loss) for name in self.settings)), None):
            raise ValueError(said)
        if (self.sample == "grid") != (self.trials is None):
            raise ValueError(
                f"{self.sample} goes on as long as it is asked; give trials"
                if self.trials is None
                else "a grid tries all of its settings; leave trials out, or give sample random or tpe"
            )
        if self.sample == "grid":
            require_distinct(self.training.spec, grid(self.settings))
        if not by_loss and (said := self._why_unscored()) is not None:
            raise ValueError(said)
        if self.most_members > MOST_MEMBERS:
            raise ValueError(
                f"there are {self.most_members:,} members with {self.seeds} seeds, and a sweep has at most {MOST_MEMBERS:,}; give"
                " fewer settings or seeds"
            )
        return self

    def _why_unscored(self) -> str | None:
        """Say why members can't be chosen by an evaluation's score, and what to do; None if they can."""
        choose = self.choose
        try:
            evaluation_by(choose)
            is_known = is_of_texts(choose) or choose == "accuracy"
        except ValidationError:
            is_known = False
        if not is_known:
            return (
                f"{choose[:80]!a} is not a score by which members can be chosen; choose {HELD_OUT_LOSS}, or a score of answers such as"
                " rouge_l"
            )
        if self.stop_early != "none":
            return (
                f"members are stopped early by their held-out loss, but the best is chosen by {choose}; leave stop_early or choose"
                " out"
            )
        if self.training.eval_data is None:
            return (
                f"{choose} is scored by an evaluation, which needs held-out rows of their own; give them as eval_data"
            )
        return None


def evaluation_by(choose: str) -> EvaluationSpec:
    """Return the evaluation that has a score. Raises ValidationError for one that needs further options."""
    asked: dict[str, Any] = {"generate_rows": _MOST_GENERATED if is_of_texts(choose) else 0}
    if is_scorer(choose):
        asked["scorers"] = [choose.removeprefix(SCORER_PREFIX).partition(".")[0]]
    elif is_of_texts(choose):
        asked["metrics"] = [choose]
    return EvaluationSpec.model_validate(asked)


class SweepSubmission(JobSettings):
    """A sweep as submitted; the settings of its jobs are those of its members."""

    request: SweepRequest
    #: Refuse it if no worker that is there now can run its members.
    require_worker: Annotated[bool, IF_ANY] = False


class SweepState(StrEnum):
    """The states of a sweep."""

    #: Members wait or run, or the next ones are about to.
    RUNNING = "running"
    #: No member begins; those that run go on.
    PAUSED = "paused"
    #: All members have ended; the winner is being chosen and published.
    CHOOSING = "choosing"
    #: There is a verdict, or it is said why there is none.
    ENDED = "ended"
    #: Somebody cancelled it, and its members with it.
    CANCELLED = "cancelled"


class SweepMember(Wire):
    """One training of a sweep, whose ref is `sweep:ID/NUMBER`."""

    #: Counts from 1 within the sweep.
    number: int
    #: Counts from 1; the members of a trial have the same setting, and other seeds.
    trial: int
    setting: Setting
    seed: int
    job: str
    #: Of its job.
    state: str
    #: "finished" at its end or for lack of patience, "pruned" by the sweep; None: not yet, or it failed.
    outcome: Annotated[Literal["finished", "pruned"] | None, Open] = None
    #: Why it failed.
    reason: str | None = None
    #: Scores of held-out rows, of test rows, time, memory and so on, as a version has them; and the size of its adapter.
    metrics: dict[str, float] = {}
    steps: int | None = None
    #: The step of its best look.
    best_step: int | None = None
    #: Steps that it took after the one at which it should have ended, before it knew.
    surplus_steps: Annotated[int, IF_ANY] = 0
    #: The version that was made of it.
    ref: str | None = None


class SettingVerdict(Wire):
    """What the members of one setting say, against the best."""

    trial: int
    setting: Setting
    #: The numbers of its members that count.
    members: list[int]
    #: The mean over its seeds; None: it has none, since its members failed or were pruned.
    score: float | None = None
    #: Of the score, over rows and, with several seeds, over seeds.
    standard_error: float | None = None
    #: How much worse than the best, with the ends of its interval; None for the best itself.
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    #: Adjusted for all comparisons with the best.
    p: float | None = None
    #: The smallest difference that these rows and seeds show in 80 % of all cases.
    can_show: float | None = None
    #: "not compared": a training of it was scored on other rows than most.
    outcome: Annotated[Literal["best", "worse", "as good", "not told apart", "not compared", "pruned", "failed"], Open]


class SweepVerdict(Wire):
    """Which setting is the best, and how sure that is."""

    metric: str
    lower_is_better: bool
    #: In units of the metric.
    margin: float
    rows: int
    seeds: int
    #: The best first.
    settings: list[SettingVerdict]
    #: Whether every other setting is shown to be worse.
    told_apart: bool
    #: What follows, in words.
    recommendation: str
    #: The scores of the winner on rows by which nothing was chosen, by metric.
    test: dict[str, float] = {}
    notes: list[str] = []


class SweepView(Wire):
    """A sweep as shown to readers."""

    id: str
    adapter: str
    state: Annotated[SweepState, Open]
    request: SweepRequest
    created_by: str
    created_at: datetime
    finished_at: datetime | None = None
    #: How many members it will have at most; None: nobody knows yet.
    most_members: int | None = None
    #: Left out in lists.
    members: list[SweepMember] = []
    #: How many members are in each state of jobs.
    counts: dict[str, int] = {}
    #: How long members have trained, in all.
    train_s: float = 0.0
    #: The number of the member that is the best of the best setting.
    winner: int | None = None
    #: The version that this became.
    ref: Annotated[str | None, IF_SET] = None
    verdict: SweepVerdict | None = None
    #: Why it ended without one, or no further member begins.
    message: str | None = None
    #: Of one that was just submitted: why no worker that is there now can run its members.
    waits: Annotated[str | None, IF_SET] = None


class RungReached(Wire):
    """A training of a sweep has come to one of the steps at which it may be ended."""

    attempt: Annotated[int, Field(ge=1)]
    #: Counts from 0.
    rung: Annotated[int, Field(ge=0, le=100)]
    step: Annotated[int, Field(ge=1)]
    #: The held-out loss there.
    loss: float


class RungAnswer(Wire):
    """Whether a training goes on."""

    goes_on: bool


#: Held-out rows beyond so many are summed in as many groups: row i belongs to group i mod `MOST_GROUPS`.
MOST_GROUPS = 20_000
#: Of float32 numbers in base64.
_MOST_CHARACTERS = 4 * -(-4 * MOST_GROUPS // 3)


class MemberResult(Wire):
    """What a training of a sweep hands in beside its adapter."""

    outcome: Literal["finished", "pruned"]
    steps: Annotated[int, Field(ge=1)]
    surplus_steps: Annotated[int, Field(ge=0), IF_ANY] = 0
    #: Of each held-out row, or group of rows, scored with the weights that are handed in: Σ loss · weight and Σ weight, as
    #: little-endian float32 in base64. The held-out loss is the sum of the first over that of the second.
    row_losses: Annotated[str, Field(max_length=_MOST_CHARACTERS + 4)]
    row_weights: Annotated[str, Field(max_length=_MOST_CHARACTERS + 4)]
