"""Trainings: gone on from a checkpoint where there is one, checkpoints sent while they run, the adapter published."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from sdk.errors import NotFound, VerificationFailed, disk_explained
from sdk.pushing.base_folder import ScannedBase
from sdk.pushing.pack import pack_adapter
from sdk.schemas.catalog import Publication
from sdk.schemas.failures import FailureReason
from sdk.schemas.jobs import TrainingRequest
from sdk.schemas.training import DatasetUse, TrainingReport
from sdk.schemas.work import Completion
from workers.child.protocol import FAULT_FILE, OUT_FOLDER, TrainingOrder
from workers.kinds.attempt import PATIENCE_S, Attempt
from workers.kinds.causes import AttemptFailed
from workers.kinds.checkpoints import CheckpointSender
from workers.lease.stopping import Stopped, Why

#: How files of checkpoints end that torch pickled, as earlier releases did.
_PICKLES = (".pt", ".pth")

_log = logging.getLogger(__name__)


def train(attempt: Attempt, request: TrainingRequest) -> None:
    """Carry out a training and publish its adapter. Raises AttemptFailed, Stopped, AdapterctlError."""
    source = attempt.assignment.base
    if source is None:
        raise AttemptFailed(FailureReason.INTERNAL, "the registry gave a training without a base; upgrade both")
    # Known before the training, not after it.
    attempt.client.check_signing_key()
    base = attempt.inputs.base(source)
    eval_data = request.eval_data
    order = TrainingOrder(
        base=str(base.folder),
        base_name=base.registration.id,
        base_revision=base.registration.revision,
        data=str(attempt.inputs.dataset(request.data)),
        eval_data=None if eval_data is None else str(attempt.inputs.dataset(eval_data)),
        spec=request.spec,
        checkpoint=request.checkpoint,
        checkpoints=str(attempt.folder / "checkpoints"),
        resume=_fetch_checkpoint(attempt),
    )
    _publish(attempt, request, base, _run(attempt, order, base))


def _fetch_checkpoint(attempt: Attempt) -> str | None:
    """Fetch the checkpoint to go on from, if there is one; one that is damaged or gone is no reason to fail."""
    source = attempt.assignment.checkpoint
    if source is None:
        return None
    if any(file.path.endswith(_PICKLES) for file in source.manifest.files):
        _start_over(attempt, "an earlier release wrote it, with pickles in it, which are no longer read")
        return None
    folder = attempt.folder / "resume"
    try:
        with disk_explained("fetching a checkpoint"):
            folder.mkdir()
            attempt.client.fetch_manifest(source.manifest, folder)
    except (NotFound, VerificationFailed) as error:
        _start_over(attempt, error.message)
        return None
    attempt.holder.log(f"going on from the checkpoint of step {source.step} of job {source.job}")
    return str(folder)


def _start_over(attempt: Attempt, why: str) -> None:
    step = attempt.assignment.checkpoint.step if attempt.assignment.checkpoint is not None else 0
    said = f"the checkpoint of step {step} can't be gone on from, so the training starts over: {why}"
    _log.warning(said)
    attempt.holder.log(said)


def _run(attempt: Attempt, order: TrainingOrder, base: ScannedBase) -> TrainingReport:
    try:
        return _run_once(attempt, order, base)
    except AttemptFailed as failed:
        if failed.reason is not FailureReason.CHECKPOINT or order.resume is None:
            raise
        _start_over(attempt, str(failed))
    shutil.rmtree(attempt.folder / OUT_FOLDER)
    (attempt.folder / FAULT_FILE).unlink()
    return _run_once(attempt, order.model_copy(update={"resume": None}), base)


def _run_once(attempt: Attempt, order: TrainingOrder, base: ScannedBase) -> TrainingReport:
    with CheckpointSender(attempt, base_fingerprint=base.registration.fingerprint) as sender:
        try:
            report = attempt.run_child(order, sender.written).training
        except (Stopped, AttemptFailed) as error:
            if not (isinstance(error, Stopped) and error.why is Why.LOST):
                # Whoever takes the job up again goes on from here.
                sender.finish(attempt.stopping.patience_s(PATIENCE_S))
            raise
    if report is None:
        raise AttemptFailed(FailureReason.INTERNAL, "the training left no report; the worker's log has the details")
    return report


def _publish(attempt: Attempt, request: TrainingRequest, base: ScannedBase, report: TrainingReport) -> None:
    attempt.finishing("uploading the adapter")
    package = pack_adapter(
        Path(attempt.folder / OUT_FOLDER),
        base_id=base.registration.id,
        base_revision=base.registration.revision,
        base_fingerprint=base.registration.fingerprint,
        staging=attempt.folder,
    )
    publication = Publication(
        adapter=request.adapter,
        upload=attempt.client.upload(package.sources, "uploading adapter", attempt.assignment.namespace),
        manifest=package.manifest,
        lora=report.lora,
        method="lora" if report.quantization is None else "qlora",
        quantization=report.quantization,
        dataset=DatasetUse(digest=request.data, rows=report.rows, supervised_tokens=report.supervised_tokens),
        training=report.training,
        metrics=report.metrics,
        libraries=report.libraries,
        signature=attempt.client.signed(package.manifest),
    )
    attempt.complete(Completion(attempt=attempt.assignment.attempt, version=publication))
