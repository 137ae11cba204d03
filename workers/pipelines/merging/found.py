"""What a read-back found, and the error for anything that is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError


@dataclass
class FoundCorrect:
    """What a read-back found to be correct."""

    tensors: int = 0
    copied: int = 0
    rows: int = 0
    #: Sums of squares by module: of W' − W from the bytes on the disk, over all experts, and of the part that may be rounding.
    squares: dict[str, float] = field(default_factory=dict)
    blur_squares: dict[str, float] = field(default_factory=dict)
    #: Module to the sum of squares of s·B·A, from A and B alone.
    formula_squares: dict[str, float] = field(default_factory=dict)
    #: Modules that are changed by more than adding s·B·A: their outputs are scaled to magnitudes (DoRA), rows are replaced.
    scaled: set[str] = field(default_factory=set)

    @property
    def norms(self) -> dict[str, float]:
        """Module to ‖W' − W‖."""
        return {module: math.sqrt(square) for module, square in sorted(self.squares.items())}

    @property
    def blur(self) -> dict[str, float]:
        """Module to how far rounding alone may have moved that norm."""
        return {module: math.sqrt(square) for module, square in self.blur_squares.items()}

    def add(self, other: FoundCorrect) -> None:
        """Add the findings for another tensor."""
        self.tensors += other.tensors
        self.copied += other.copied
        self.rows += other.rows
        self.scaled |= other.scaled
        for mine, theirs in (
            (self.squares, other.squares),
            (self.blur_squares, other.blur_squares),
            (self.formula_squares, other.formula_squares),
        ):
            for module, square in theirs.items():
                mine[module] = mine.get(module, 0.0) + square


def wrong(name: str, said: str) -> PipelineError:
    """Return the error for a tensor whose bytes are wrong."""
    return PipelineError(
        FailureReason.VERIFICATION,
        f"The merged model is not what was asked for: the bytes of {name} on the disk {said}; merge once more, and"
        " check the disk if it stays so.",
    )
