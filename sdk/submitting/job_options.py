"""The options of a job, as people write them: how long it may run, what it needs, how often it saves a checkpoint.

>>> parse_duration("90s"), parse_duration("1.5h"), parse_duration(30)
(90.0, 5400.0, 30.0)
>>> checkpoint_policy("50steps").every_steps, checkpoint_policy("10m").every_minutes
(50, 10.0)
>>> checkpoint_ref("3f1c2a9b7d20@1200").step
1200
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from sdk.errors import InvalidInput
from sdk.given_values import build
from sdk.names import check_job_id
from sdk.schemas.job_requests import CheckpointPolicy, CheckpointRef
from sdk.schemas.jobs import MOST_MEMORY_BYTES, JobSettings, Needs

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([smhd]?)", re.ASCII)
#: No job runs in less, so a smaller number lacks its unit.
_LEAST_MEMORY_BYTES = 10**6
_STEPS = re.compile(r"([0-9]{1,9}) ?steps?", re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str | float, *, param: str = "timeout") -> float:
    """Return the seconds of "90s", "10m", "1.5h", "2d", or of a plain number of them. Raises InvalidInput."""
    match = _DURATION.fullmatch(str(text).strip())
    seconds = 0.0 if match is None else float(match[1]) * _SECONDS[match[2]]
    if seconds <= 0:
        raise InvalidInput(
            f"{param}: {str(text)[:40]!a} is not a duration; write it as 90s, 10m, 1.5h or 2d", param=param
        )
    return seconds


def checkpoint_policy(every: str | None) -> CheckpointPolicy:
    """The policy for "10m", "90s", "50steps" or "never"; None: the default. Even with "never", a checkpoint is saved
    when the training is stopped.

    Raises InvalidInput.
    """
    if every is None:
        return CheckpointPolicy()
    wanted = str(every).strip()
    if wanted == "never":
        return CheckpointPolicy(every_minutes=None)
    if (match := _STEPS.fullmatch(wanted)) is not None and int(match[1]):
        return build(CheckpointPolicy, every_steps=int(match[1]), every_minutes=None)
    if match is not None or _DURATION.fullmatch(wanted) is None or wanted.isdecimal():
        raise InvalidInput(
            f"checkpoint_every: {wanted[:40]!a} is not an interval between checkpoints; write it as 10m, 90s, 50steps or never",
            param="checkpoint_every",
        )
    return build(CheckpointPolicy, every_minutes=parse_duration(wanted, param="checkpoint_every") / 60)


def checkpoint_ref(text: str | None) -> CheckpointRef | None:
    """The checkpoint "JOB@STEP", or the last one of "JOB". Raises NotFound for what can't be a job, InvalidInput."""
    if text is None:
        return None
    # A configuration file gives an id of only digits as a number.
    job, at, step = str(text).partition("@")
    if at and not re.fullmatch("[1-9][0-9]{0,7}", step):
        raise InvalidInput(
            f"from_checkpoint: {str(text)[:80]!a} is not a checkpoint; write JOB, or JOB@STEP as listed by: adapterctl jobs checkpoints JOB",
            param="from_checkpoint",
        )
    return build(CheckpointRef, job=check_job_id(job), step=int(step) if at else None)


class JobOptions(NamedTuple):
    """The options of a job of any kind."""

    priority: int
    timeout_s: float | None = None
    needs: Needs | None = None
    #: Of one submission, however often it is sent.
    key: str | None = None
    #: Whether it is refused while no worker can run it.
    require_worker: bool = False


def job_options(
    priority: int,
    timeout: float | str | None,
    device: Literal["any", "cuda"] | None,
    memory: int | None,
    key: str | None = None,
) -> JobOptions:
    """The options as people write them: `timeout` as "90s" or in seconds, `memory` in bytes. Raises InvalidInput."""
    timeout_s = None if timeout is None else parse_duration(timeout)
    said = build(JobSettings, priority=priority, timeout_s=timeout_s, needs=needs_of(device, memory))
    return JobOptions(said.priority, said.timeout_s, said.needs, key)


def needs_of(device: Literal["any", "cuda"] | None, memory: int | None) -> Needs | None:
    """What a worker must have, `memory` in bytes; None if nothing was said. Raises InvalidInput."""
    if device is None and memory is None:
        return None
    if memory is not None and memory < _LEAST_MEMORY_BYTES:
        raise InvalidInput(
            f"a memory of {memory} bytes is less than any job takes; give it with its unit, such as 16GB, or leave it out for that of"
            " the forecast",
            param="memory",
        )
    if memory is not None and memory > MOST_MEMORY_BYTES:
        raise InvalidInput("memory is too large; give what a worker must have, such as 80GB", param="memory")
    return build(Needs, device=device or "any", memory_bytes=memory)
