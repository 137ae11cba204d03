"""Which options of optimiser and schedule go together, and what is said of those that don't."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from sdk.errors import InvalidInput
from sdk.schemas.job_requests import TrainingRequest, known_fields, used_fields
from sdk.schemas.optimizers import OPTIMIZERS, OptimizerName
from sdk.schemas.training import TrainingSpec
from sdk.validation import build


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schedule": "linear", "lr_floor": 0.1}, "lr_floor belongs to the schedules cosine, cosine_restarts, wsd, inverse_sqrt, and the schedule is linear; leave it out, or choose one of these"),
        ({"schedule": "constant", "lr_floor": 0.1}, "and the schedule is constant; leave it out"),
        ({"cycles": 3}, "cycles belongs to the schedule cosine_restarts, and the schedule is cosine; leave it out, or choose cosine_restarts"),
        ({"decay_share": 0.5}, "decay_share belongs to the schedule wsd, and the schedule is cosine; leave it out, or choose wsd"),
        # A default that somebody wrote is no less said.
        ({"schedule": "linear", "decay_share": 0.2}, "decay_share belongs to the schedule wsd"),
        ({"schedule": "cosine_restarts"}, "cosine_restarts needs to know how often the rate falls; give cycles, such as 3"),
        ({"schedule": "cosine_restarts", "cycles": 0}, "cycles"),
        ({"schedule": "cosine_restarts", "cycles": 98, "max_steps": 100}, "98 cycles need 98 steps after the warm-up, and there are 97; give at most 97 cycles"),
        ({"schedule": "wsd", "decay_share": 0.5, "warmup_ratio": 0.6}, "the warm-up has 0.6 of the steps and the decay 0.5, together more than all; lower warmup_ratio or decay_share"),
        ({"schedule": "wsd", "decay_share": 0.0}, "decay_share"),
        ({"schedule": "inverse_sqrt", "warmup_ratio": 0.0}, "inverse_sqrt falls in units of the warm-up, and there is none; give warmup_ratio above 0"),
        ({"lr_floor": 1.0}, "lr_floor"),
        ({"lr_floor": -0.1}, "lr_floor"),
        ({"optim": "lion", "adam_beta2": 0.99}, "adam_beta2 is an option of AdamW, and optim is lion; leave it out, or choose adamw"),
        ({"optim": "adafactor", "adam_beta1": 0.9}, "adam_beta1 is an option of AdamW, and optim is adafactor"),
        ({"optim": "schedule_free_adamw"}, "schedule_free_adamw averages weights in place of a schedule, and the schedule is cosine; give schedule constant"),
        ({"optim": "schedule_free_adamw", "schedule": "constant", "adam_beta1": 0.0}, "finds its average by dividing by adam_beta1; give one above 0"),
        ({"optim": "sgd"}, "adafactor.*lion.*schedule_free_adamw"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_a_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        build(TrainingSpec, **options)
    assert caught.value.code == "invalid"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "cosine_restarts", "cycles": 97, "max_steps": 100, "lr_floor": 0.1},
        {"schedule": "wsd", "decay_share": 1.0, "warmup_ratio": 0.0, "lr_floor": 0.1},
        {"schedule": "inverse_sqrt", "lr_floor": 0.1},
        {"optim": "schedule_free_adamw", "schedule": "constant", "adam_beta1": 0.95, "warmup_ratio": 0.1},
        {"optim": "lion", "schedule": "wsd"},
    ],
)
def test_what_goes_together_is_taken_and_only_workers_that_know_it_get_it(options: dict[str, Any]) -> None:
    spec = build(TrainingSpec, **options)
    assert TrainingSpec.model_validate_json(spec.model_dump_json()) == spec
    request = TrainingRequest.model_validate({"adapter": "a", "base": {"id": "b"}, "data": "0" * 64, "spec": options})
    assert {f"training.spec.{name}" for name in options.keys() & {"cycles", "optim", "lr_floor"}} <= used_fields(
        request
    )
    assert used_fields(request) <= known_fields()


@pytest.mark.parametrize("optim", get_args(OptimizerName))
def test_the_sizes_of_a_state_are_those_of_its_tensors(optim: OptimizerName) -> None:
    table = OPTIMIZERS[optim]
    for shape in ((4, 16), (128, 64), (16,), (2, 4, 8), (5000,)):
        kept = table.state(shape)
        own = [each for name, each in kept.items() if name != "step" and not name.startswith("qmap")]
        assert table.state_bytes(shape) == sum(each.size_bytes for each in own)
        assert table.stored_state(shape).items() >= kept.items()
        assert all(name in table.about for name in table.tensors)
