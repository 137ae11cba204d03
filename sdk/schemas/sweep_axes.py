"""What a sweep varies: for each option its values, or a range from which values are taken."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sdk.schemas.wire import IF_ANY, IF_SET, JsonScalar, Wire

#: The most values of one option, and the most members of a sweep.
MOST_VALUES = 1_000
MOST_MEMBERS = 1_000
#: The most options that vary.
MOST_AXES = 8


class Values(Wire):
    """Values of an option, in the order in which they were given."""

    values: Annotated[list[JsonScalar], Field(min_length=1, max_length=MOST_VALUES)]


class Range(Wire):
    """Values from `low` to `high`, both included."""

    low: float
    high: float
    #: Whether equal ratios count as equally far.
    log: Annotated[bool, IF_ANY] = False
    #: Whether values are whole numbers.
    whole: Annotated[bool, IF_ANY] = False
    #: How many values a grid takes, evenly; samplers draw from all.
    count: Annotated[Annotated[int, Field(ge=2, le=MOST_VALUES)] | None, IF_SET] = None

    @model_validator(mode="after")
    def _goes_up(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"the range {self.low:g}..{self.high:g} does not go up; write the smaller number first")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range begins above 0, and {self.low:g}..{self.high:g} doesn't; begin above 0")
        return self


Axis = Values | Range
#: The value of each option that varies, by its name.
Setting = dict[str, JsonScalar]
