"""Versions of a namespace that were scored on rows with groups, for tests that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdk.schemas.evaluation import RowScore
from support.merging_desk import MergingDesk
from support.people import SEEDS
from support.scored_rows import CONDITIONS, evaluated
from support.trainings import save_jsonl

COLUMNS = "prompt=question,completion=answer"


def write_rows(path: Path, count: int = 48, *, distinct: int | None = None) -> Path:
    """Write rows that no other test has, two in each group; the first `distinct` are repeated."""
    seed, distinct = next(SEEDS), distinct or count
    rows = [
        {"question": f"q{seed}-{row % distinct}", "answer": f"a{row % distinct}", "repo": f"r{row // 2}"}
        for row in range(count)
    ]
    return save_jsonl(path, rows)


def scored(
    count: int, *, loss: float = 1.0, rouge: float = 0.5, exact: Sequence[int] = (), seed: int = 0, noise: float = 0.1
) -> list[RowScore]:
    """Scores of rows with lengths that are the same for every target, and noise that is not."""
    tokens = np.random.default_rng(7).integers(3, 60, size=count)
    rng = np.random.default_rng(next(SEEDS) if seed == 0 else seed)
    return [
        RowScore(
            row=row,
            loss_sum=float(tokens[row] * (loss + noise * rng.normal())),
            tokens=int(tokens[row]),
            prediction=f"said {row} {seed}",
            scores={"rouge_l": float(rouge + noise * rng.normal()), "exact_match": float(row in exact)},
        )
        for row in range(count)
    ]


@dataclass
class Bench:
    """A namespace in which versions are scored and compared."""

    desk: MergingDesk
    data: Path

    def score(
        self, rows: Sequence[RowScore], ref: str | None = None, *, data: Path | None = None, **conditions: Any
    ) -> str:
        """Score a new version, or one; return its ref."""
        ref = self.desk.push() if ref is None else ref
        taken = CONDITIONS.model_copy(update={"columns": COLUMNS, **conditions})
        evaluated(self.desk, ref, data or self.data, rows, spec={"columns": COLUMNS}, conditions=taken)
        return ref

    def pair(self, **better: Any) -> tuple[str, str]:
        """Two versions, the second of which has different scores."""
        return self.score(scored(48)), self.score(scored(48, **better))
