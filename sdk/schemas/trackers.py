"""The experiment trackers to which the points of a training may be forwarded, and their runs.

>>> canonical_trackers("wandb, mlflow,wandb")
'mlflow,wandb'
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from sdk.schemas.option_types import joined
from sdk.schemas.wire import Wire

#: Each is also the name of the module that a worker needs, and of the extra that brings it.
TrackerName = Literal["mlflow", "tensorboard", "trackio", "wandb"]
TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)


def canonical_trackers(text: str) -> str:
    """Return names of trackers, separated by commas, in one order. Raises ValueError for another name."""
    names = {name.strip() for name in text.split(",")}
    if unknown := sorted(names - set(TRACKERS)):
        raise ValueError(f"{unknown[0][:40]!r} is not a tracker; choose from {', '.join(TRACKERS)}")
    return ",".join(sorted(names))


#: "mlflow", or several: "mlflow,wandb".
ReportTo = Annotated[str, Field(max_length=100), BeforeValidator(joined), AfterValidator(canonical_trackers)]

#: What a tracker calls a run. It becomes part of paths.
RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$")]


class TrackedRun(Wire):
    """The run of a tracker to which a job's points are forwarded."""

    run: RunId
    #: All points up to this step were forwarded; -1: none.
    step: Annotated[int, Field(ge=-1, le=10_000_000)] = -1


#: By the tracker's name.
Runs = dict[TrackerName, TrackedRun]


def install_command(names: Iterable[str]) -> str:
    """Return how the libraries of some trackers are installed.

    >>> install_command(["wandb"])
    "pip install 'adapterctl[wandb]'"
    """
    return f"pip install 'adapterctl[{','.join(sorted(names))}]'"
