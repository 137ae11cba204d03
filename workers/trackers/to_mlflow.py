"""MLflow: runs of an experiment at the server of `MLFLOW_TRACKING_URI`.

A metric keeps every value that it was given: of a step that was replaced, the one with the later time counts.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from sdk.schemas.series import Point
from workers.trackers.tracker import BegunRun, RunEnd, Training, shown

_DEFAULT_EXPERIMENT = "adapterctl"
_JOB, _ADAPTER, _SWEEP, _MEMBER = "adapterctl.job", "adapterctl.adapter", "adapterctl.sweep", "adapterctl.member"
#: The most metrics, and parameters, that its servers take at once.
_MOST_METRICS, _MOST_PARAMS = 1000, 100
_ENDS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
#: Settings of the library, unless already set. What failed is tried again here, and not in the middle of a call.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class ToMlflow:
    """A run of an experiment."""

    def __init__(self) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        self._client = MlflowClient()
        self._run = ""

    def begin(self, training: Training, run: str | None) -> BegunRun:
        """Go on with a run, or with that of the job, or make one. Raises MlflowException."""
        experiment = self._experiment()
        there = self._there(run) or self._of_job(experiment, training.job)
        tags = {_JOB: training.job, _ADAPTER: training.adapter}
        if training.sweep is not None:
            tags |= {_SWEEP: training.sweep.sweep, _MEMBER: str(training.sweep.number)}
        known: Collection[str] = ()
        if there is None:
            self._run = self._client.create_run(experiment, tags=tags, run_name=training.title).info.run_id
        else:
            self._run, known = there.info.run_id, there.data.params
            self._client.update_run(self._run, status="RUNNING")
            self._client.set_tag(self._run, _JOB, training.job)
        # They can't be changed.
        params = [Param(name, shown(value)) for name, value in training.params.items() if name not in known]
        for some in _batches(params, _MOST_PARAMS):
            self._client.log_batch(self._run, params=some)
        return BegunRun(self._run, continues=self._run == run)

    def log(self, points: Sequence[Point], at_s: float) -> None:
        """Log points as metrics. Raises MlflowException."""
        at_ms = int(at_s * 1000)
        metrics = [Metric(name, value, at_ms, point.step) for point in points for name, value in point.values.items()]
        for some in _batches(metrics, _MOST_METRICS):
            self._client.log_batch(self._run, metrics=some)

    def end(self, end: RunEnd | None) -> None:
        """Set how the run ended. Raises MlflowException."""
        if end is not None:
            self._client.set_terminated(self._run, _ENDS[end])

    def _there(self, run: str | None) -> Any:
        """Return a run, unless it is gone."""
        if run is None:
            return None
        try:
            found = self._client.get_run(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return found if found.info.lifecycle_stage == "active" else None

    def _of_job(self, experiment: str, job: str) -> Any:
        """Return the run of an attempt that was lost before it could say what it had made."""
        found = self._client.search_runs([experiment], f"tags.`{_JOB}` = '{job}'", max_results=1)
        return found[0] if found else None

    def _experiment(self) -> str:
        if ident := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return ident
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _DEFAULT_EXPERIMENT
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException:
            # Another worker has made it meanwhile.
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)


def _batches(values: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(values), most):
        yield values[begin : begin + most]


TRACKER = ToMlflow
