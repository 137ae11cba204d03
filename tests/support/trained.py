"""What a training in this process returned, together with what it measured at each step."""

from __future__ import annotations

from pydantic import Field

from sdk.schemas.series import Point
from sdk.schemas.sweeps import MemberResult
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.training_rows import TrainingRows


class Trained(TrainingReport):
    """A report with the points that the training's host was told."""

    points: list[Point] = Field(exclude=True)
    member: MemberResult | None = Field(None, exclude=True)
    #: The first rows, as the steps saw them.
    seen: TrainingRows | None = Field(None, exclude=True)

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return self.column("loss")

    @property
    def rates(self) -> list[float]:
        """The learning rate of each step."""
        return self.column("lr")

    def column(self, name: str) -> list[float]:
        """The values of one series."""
        return [point.values[name] for point in self.points if name in point.values]
