"""How a training is watched by its held-out rows, as its spec and its record say it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sdk.schemas.option_types import ByHand, Option, joined
from sdk.schemas.wire import IF_ANY, IF_SET, Wire

_INTERVAL = re.compile(r"[1-9][0-9]{0,7}m?")


def _require_interval(value: str) -> str:
    if not _INTERVAL.fullmatch(value):
        raise ValueError(f"{value[:40]!r} is not an interval; give steps, such as 50, or minutes, such as 10m")
    return value


#: "50" steps or "10m" minutes.
LookEvery = Annotated[
    str, Field(max_length=40), ByHand("int | str"), BeforeValidator(joined), AfterValidator(_require_interval)
]


class WatchFields(Wire):
    """The options of a training that say when it looks at its held-out rows, and what follows from a look."""

    #: After how many steps held-out rows are scored: "50", or "10m" for about as many steps as take ten minutes, which are
    #: counted once, at the beginning. None: as often as looks take about a tenth of the training's time.
    eval_every: Annotated[
        LookEvery | None,
        IF_ANY,
        Option(
            "Score held-out rows every N steps or minutes: 50, 10m.",
            default="as often as takes a tenth of the time",
            metavar="N|10m",
            alone=True,
        ),
    ] = None
    #: How many of the held-out rows are scored at a look: the same ones at each, chosen by `holdout_seed`. The first and the last score
    #: are of all rows. None: all.
    eval_rows: Annotated[
        Annotated[int, Field(ge=1)] | None,
        IF_ANY,
        Option("Held-out rows of a look; the first and last score are of all.", default="all", alone=True),
    ] = None
    #: Which weights become the version: those of the look with the lowest held-out loss, or the last ones. None: the last ones,
    #: but the best with patience and in a sweep.
    keep: Annotated[
        Literal["best", "last"] | None,
        IF_SET,
        Option(
            "Publish the weights of the best look, or the last ones.",
            default="best with --patience",
            swept="best",
            alone=True,
        ),
    ] = None
    #: After how many looks without a new best the training ends.
    patience: Annotated[
        Annotated[int, Field(ge=1, le=10_000)] | None,
        IF_ANY,
        Option("Early stopping: end after this many looks without a new best.", alone=True),
    ] = None
    #: By how much the held-out loss must be below the best so far to be a new best.
    min_delta: Annotated[
        float, Field(ge=0, le=1000), IF_ANY, Option("How much lower the held-out loss of a new best is.", alone=True)
    ] = 0.0

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best look become the version."""
        return self.keep == "best" or (self.keep is None and self.patience is not None)

    @property
    def chooses(self) -> bool:
        """Whether what held-out rows say decides anything."""
        return self.keeps_best or self.patience is not None

    @property
    def look_steps(self) -> int | None:
        """After how many steps a look comes; None: that is counted in minutes, or follows from the rows."""
        return None if self.eval_every is None or self.eval_every.endswith("m") else int(self.eval_every)

    @property
    def look_minutes(self) -> int | None:
        """After how many minutes a look comes."""
        return int(self.eval_every[:-1]) if self.eval_every is not None and self.eval_every.endswith("m") else None

    def clash_of_watching(self, total: int | None) -> str | None:
        """Say which of these options contradict each other, or a training of `total` steps at most, and what to do."""
        if self.min_delta and not self.chooses:
            return (
                "min_delta says when a look is the best, and nothing follows from that; give keep best or patience too"
            )
        if total is None or self.look_steps is None:
            return None
        if self.look_steps > total or (self.chooses and self.look_steps == total):
            return f"eval_every is {self.look_steps} and the training has {total} steps; give fewer than {total}"
        looks = (total - 1) // self.look_steps
        if self.patience is not None and self.patience >= looks + 1:
            return (
                f"patience {self.patience} never ends a training of {total} steps that looks after every {self.look_steps};"
                " give a smaller patience or eval_every"
            )
        return None


def no_prompts(shape: str) -> str:
    """Say that rows have no prompts to answer."""
    return f"samples are answers to held-out prompts, and {shape} rows have none; leave samples out"


#: The default interval keeps what looks cost below this share of a training, a row that is only scored taken as a third of
#: one that is learnt.
_SHARE, _LOOK = 0.1, 1 / 3


def default_interval(total: int, *, learnt_rows: int, held_out_rows: int) -> int | None:
    """Return after how many of `total` steps a look comes if nothing is asked; None: not before the end.

    There are as many looks as keep `held_out_rows` x looks / 3 within a tenth of the rows that are learnt in all steps.

    >>> default_interval(100, learnt_rows=1600, held_out_rows=100)
    20
    >>> default_interval(100, learnt_rows=1600, held_out_rows=1000)
    """
    looks = int(_SHARE * learnt_rows / (_LOOK * held_out_rows) + 1e-9)
    return -(-total // (looks + 1)) if looks else None
