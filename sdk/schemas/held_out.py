"""Which rows are held out of a training, as its spec, its record and previews of its rows say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from sdk.schemas.option_types import Option
from sdk.schemas.wire import IF_ANY, Wire


@dataclass(frozen=True)
class HoldOut:
    """Which rows are held out of a training."""

    #: The share of the rows, above 0 and below 1.
    share: float
    seed: int = 0
    #: The column whose groups stay together.
    by: str | None = None


class HoldoutFields(Wire):
    """The options of a training that say which rows are held out."""

    #: Share of the rows that is held out if no held-out rows are given; their loss is measured before and after.
    holdout: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        IF_ANY,
        Option(
            "Instead of --eval-data: hold this share of the rows out, such as 0.1.",
            metavar="SHARE",
            alone=True,
            of_rows=True,
        ),
    ] = None
    #: Rows with the same value in this column stay on one side of the split. None: each row is split by itself.
    holdout_by: Annotated[
        Annotated[str, Field(min_length=1, max_length=200)] | None,
        IF_ANY,
        Option(
            "Rows with the same in this column are held out together, or not at all.",
            metavar="COLUMN",
            alone=True,
            of_rows=True,
        ),
    ] = None
    #: The seed that chooses the held-out rows; it is separate from the training's, so trainings with different seeds
    #: hold out the same rows.
    holdout_seed: Annotated[
        int,
        Field(ge=0, le=2**32 - 1),
        IF_ANY,
        Option("Seed of the split: which rows are held out.", alone=True, of_rows=True),
    ] = 0

    @property
    def hold_out(self) -> HoldOut | None:
        """Which rows are held out; None if none are."""
        return None if self.holdout is None else HoldOut(self.holdout, self.holdout_seed, self.holdout_by)

    @property
    def of_holdout(self) -> dict[str, Any]:
        """These options that aren't as in most trainings, by name."""
        return self.model_dump(include=set(HoldoutFields.model_fields))

    @property
    def clash_of_holdout(self) -> str | None:
        """What these options lack to go together, and what to do; None if nothing."""
        if self.holdout is None and (self.holdout_by is not None or self.holdout_seed):
            return "holdout_by and holdout_seed say which rows are held out, and no share is; give holdout, such as 0.1"
        return None


def both_held_out() -> str:
    """Say that held-out rows are given and a share is to be held out, too."""
    return "held-out rows are given, so none are held out of the others; leave out holdout, or eval_data"


def no_held_out(options: list[str]) -> str:
    """Say that options need held-out rows, and that there are none."""
    verb = "looks" if len(options) == 1 else "look"
    return f"{' and '.join(options)} {verb} at held-out rows, and there are none; give eval_data, or a share as holdout"
