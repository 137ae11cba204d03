"""Running a training from its order, with checkpoints."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

from sdk.rows.data_files import DataFile
from sdk.schemas.events import Progress
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.data.mixing import Mixture
from workers.pipelines.orders import Host, TrainingOrder
from workers.pipelines.training.checkpoints import Checkpoints, Interrupted
from workers.pipelines.training.continuing import Continued
from workers.pipelines.training.train import train


def carry_out(order: TrainingOrder, host: Host) -> TrainingReport | None:
    """Train; return None if the training was told to stop and has written a checkpoint."""

    def report(progress: Progress) -> None:
        # Before the first step there is nothing to keep, and a request to stop ends the process like any other.
        if progress.phase == "train":
            host.stop_in_order()
        if progress.phase == "fit" or (progress.phase == "check" and order.like is not None):
            # This also goes to the job's log.
            sys.stderr.write(f"{progress.message}\n")
        host.report(progress)

    minutes = order.checkpoint.every_minutes
    checkpoints = Checkpoints(
        folder=order.checkpoints,
        every_steps=order.checkpoint.every_steps,
        every_s=None if minutes is None else minutes * 60,
        written=host.wrote_checkpoint,
        must_stop=lambda: host.told_to_stop,
        resume=order.resume,
    )
    try:
        return train(
            base=order.base,
            base_name=order.base_name,
            base_revision=order.base_revision,
            data=_data_of(order),
            eval_data=order.eval_data,
            out=host.out,
            spec=order.spec,
            parent=None if order.parent is None else Continued(order.parent, order.quantization),
            like=order.like,
            day=date.fromisoformat(order.template_date),
            on_progress=report,
            checkpoints=checkpoints,
            killed_on=order.killed_on,
            rung_file=order.rung_file,
            kept=order.kept,
        )
    except Interrupted:
        return None


def _data_of(order: TrainingOrder) -> Path | Mixture:
    if order.sources is None:
        return order.data
    weights = [source.weight for source in order.sources if source.weight is not None]
    files = tuple(DataFile(source.path, source.name) for source in order.sources)
    return Mixture(files, tuple(weights) or None)
