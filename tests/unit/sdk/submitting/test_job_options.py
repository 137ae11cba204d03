"""Durations, checkpoints and needs as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from sdk.errors import InvalidInput, NotFound
from sdk.schemas.job_requests import CheckpointPolicy
from sdk.schemas.jobs import Needs
from sdk.submitting.job_options import checkpoint_policy, checkpoint_ref, needs_of, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("2 d", 172_800), (30, 30), (0.25, 0.25), (" 5m ", 300)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "5 minutes", "1e9", "ten", "5mm", "٣s", "nan", "inf", "9" * 40])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidInput, match="90s, 10m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("every", "policy"),
    [
        (None, CheckpointPolicy()),
        ("10m", CheckpointPolicy(every_minutes=10)),
        ("90s", CheckpointPolicy(every_minutes=1.5)),
        ("50steps", CheckpointPolicy(every_steps=50, every_minutes=None)),
        ("1 step", CheckpointPolicy(every_steps=1, every_minutes=None)),
        ("never", CheckpointPolicy(every_steps=None, every_minutes=None)),
    ],
)
def test_how_often_a_checkpoint_is_written(every: str | None, policy: CheckpointPolicy) -> None:
    assert checkpoint_policy(every) == policy


@pytest.mark.parametrize("every", ["50", "0steps", "0s", "steps", "often", "10 epochs", "30d", "", True])
def test_what_is_no_interval_between_checkpoints(every: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        checkpoint_policy(every)
    assert caught.value.param in ("checkpoint_every", "every_steps", "every_minutes")


def test_checkpoints_by_name() -> None:
    assert checkpoint_ref(None) is None
    last, third = checkpoint_ref("3f1c2a9b7d20"), checkpoint_ref("3f1c2a9b7d20@1200")
    assert (last.job, last.step) == ("3f1c2a9b7d20", None)
    assert (third.job, third.step) == ("3f1c2a9b7d20", 1200)


@pytest.mark.parametrize("text", ["j1@", "j1@0", "j1@x", "j1@-1", "j1@1@2", "j1@99999999"])
def test_what_names_no_checkpoint(text: str) -> None:
    with pytest.raises(InvalidInput):
        checkpoint_ref(text)


def test_what_can_be_no_job() -> None:
    with pytest.raises(NotFound):
        checkpoint_ref("../x")


def test_needs() -> None:
    assert needs_of(None, None) is None
    assert needs_of("cuda", None) == Needs(device="cuda")
    assert needs_of(None, 16_000_000_000) == Needs(memory_bytes=16_000_000_000)
    with pytest.raises(InvalidInput):
        needs_of("tpu", None)  # type: ignore[arg-type]
    for memory in (-1, 0, 999_999):
        with pytest.raises(InvalidInput, match=f"a memory of {memory} bytes is less than any job takes") as refused:
            needs_of(None, memory)
        assert refused.value.param == "memory"
