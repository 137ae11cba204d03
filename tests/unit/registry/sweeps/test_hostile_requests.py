"""Bodies of some 30 KB that would take long to look at."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from registry.sweeps.requests import examined_first
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.sweep_axes import Axis, Values
from sdk.schemas.sweeps import SweepRequest, SweepSubmission

#: Far more than it takes, and far less than all combinations, or as many checks of long texts, would.
_SOON_S = 8.0
_LONG = ",".join(f"m{number}" for number in range(5000))


def submission(settings: dict[str, Axis], **asked: object) -> SweepSubmission:
    base = BaseChoice(id="b", fingerprint="b" * 64)
    training = TrainingRequest(adapter="x/a", base=base, data="d" * 64)
    return SweepSubmission(request=SweepRequest.model_validate({"training": training, "settings": settings, **asked}))


def test_only_a_few_of_all_combinations_are_made() -> None:
    names = [f"m{number}" for number in range(1000)]
    axes: dict[str, Axis] = {name: Values(values=[*names]) for name in ("targets", "modules_to_save", "exclude")}
    began = time.process_time()
    assert len(examined_first(submission(axes, sample="random", trials=5))) == 64
    assert time.process_time() - began < _SOON_S


def test_grid_of_long_texts_is_refused_before_all_are_looked_at() -> None:
    rates = Values(values=[number / 1e6 for number in range(1, 1000)])
    began = time.process_time()
    with pytest.raises(ValidationError, match="shorter targets"):
        submission({"targets": Values(values=[_LONG]), "lr": rates})
    assert time.process_time() - began < _SOON_S
