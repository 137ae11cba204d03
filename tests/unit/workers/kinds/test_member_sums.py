"""What a member of a sweep says of each held-out row is checked before it is handed in."""

from __future__ import annotations

import numpy as np
import pytest

from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.sweeps import MOST_GROUPS, MemberResult
from sdk.schemas.training_report import TrainingReport
from sdk.statistics.row_sums import packed_rows, unpacked_rows
from workers.kinds.causes import AttemptFailed
from workers.kinds.training import _require_sums
from workers.pipelines.orders import TrainingResult

LOSSES, WEIGHTS = np.array([3.0, 4.5, 1.25]), np.array([2.0, 3.0, 1.0])


def result(eval_loss: float | None, *, member: bool = True) -> TrainingResult:
    report = TrainingReport(
        lora=LoraConfig(rank=8, alpha=16.0, dropout=0.0, target_modules=["q_proj"]),
        quantization=None,
        rows=1,
        supervised_tokens=1,
        training={},
        metrics={"loss": 1.0, **({} if eval_loss is None else {"eval_loss": eval_loss})},
        libraries={},
    )
    losses, weights = (packed_rows(np.arange(3), each, 3) for each in (LOSSES, WEIGHTS))
    found = MemberResult(outcome="finished", steps=3, row_losses=losses, row_weights=weights)
    return TrainingResult(report=report, member=found if member else None)


def test_sums_that_give_the_recorded_loss_are_handed_in() -> None:
    _require_sums(result(8.75 / 6 + 1e-7))


def test_sums_of_another_loss_are_refused() -> None:
    with pytest.raises(AttemptFailed, match=r"the losses of held-out rows give 1\.45833 in all") as caught:
        _require_sums(result(8.75 / 6 + 1e-3))
    assert caught.value.reason == "internal"


@pytest.mark.parametrize("lacking", [result(None), result(1.0, member=False)])
def test_a_member_without_held_out_rows_is_refused(lacking: TrainingResult) -> None:
    with pytest.raises(AttemptFailed, match="trained without held-out rows"):
        _require_sums(lacking)


def test_many_rows_are_summed_in_groups() -> None:
    rows = MOST_GROUPS + 2
    found = unpacked_rows(packed_rows(np.arange(rows), np.ones(rows), rows))
    assert found.shape == (MOST_GROUPS,)
    assert found[:3].tolist() == [2.0, 2.0, 1.0]
    text = packed_rows(np.arange(rows), np.ones(rows), rows)
    MemberResult(outcome="finished", steps=1, row_losses=text, row_weights=text)
