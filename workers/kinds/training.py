"""Trainings: resumed from a checkpoint if there is one; checkpoints are sent while they run, and the adapter is published."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from sdk.errors import NotFound, VerificationFailed, disk_explained
from sdk.pushing.base_folder import ScannedBase
from sdk.pushing.signatures import check_signing_key, sign_manifest
from sdk.schemas.catalog import Publication
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import EvaluationTarget, TrainingRequest
from sdk.schemas.looks import some_looks
from sdk.schemas.work import Assignment, Completion
from sdk.statistics.row_sums import is_mean, unpacked_rows
from workers.child.protocol import FAULT_FILE, OUT_FOLDER
from workers.kinds.attempt import HAND_IN_S, Attempt, KindOfWork
from workers.kinds.causes import AttemptFailed, KilledForMemory
from workers.kinds.checkpoints import CheckpointSender
from workers.kinds.pins import day_of, of_base, of_manifest, of_targets
from workers.kinds.reports import Reports
from workers.kinds.rungs import RungAnswers, wait_s
from workers.lease.stop_signal import Stopped, StopReason
from workers.pipelines.orders import OrderedSource, Rung, TrainingOrder, TrainingResult

#: The file in which a child records how much it computes at once.
_RUNG_FILE = "rung.json"

_log = logging.getLogger(__name__)


def _differences(given: Assignment, request: TrainingRequest) -> Iterator[str]:
    if given.base is not None:
        yield from of_base(request.base, given.base)
    parents = [] if request.parent is None else [EvaluationTarget(ref=request.parent.ref)]
    yield from of_targets(parents, given.targets)
    for target in given.targets:
        if request.parent is not None and request.parent.digest not in (None, target.digest):
            yield f"other files of {request.parent.ref}"
        if given.base is not None and target.base.fingerprint != given.base.fingerprint:
            yield "a version over another base"
    if given.checkpoint is not None:
        earlier = request.from_checkpoint
        if given.checkpoint.job not in (given.job, None if earlier is None else earlier.job):
            yield "a checkpoint of another job"
        yield from of_manifest(given.checkpoint.manifest, "checkpoint", request.base.fingerprint)


def _train(attempt: Attempt, request: TrainingRequest) -> None:
    """Carry out a training and publish its adapter. Raises AttemptFailed, Stopped, AdapterctlError."""
    source = attempt.assignment.base
    if source is None:
        raise AttemptFailed(FailureReason.INTERNAL, "the registry gave a training without a base; upgrade both")
    # Checked before the training, not after it.
    check_signing_key()
    base = attempt.inputs.base(source)
    eval_data, test_data = request.eval_data, request.test_data
    parent = next(iter(attempt.assignment.targets), None)
    order = TrainingOrder(
        base=base.folder,
        base_name=base.registration.id,
        base_revision=base.registration.revision,
        data=_files(attempt, request),
        eval_data=None if eval_data is None else attempt.inputs.dataset(eval_data),
        test_data=None if test_data is None else attempt.inputs.dataset(test_data),
        spec=request.spec,
        template_date=day_of(request.template_date),
        parent=None if parent is None or parent.manifest is None else attempt.inputs.adapter(parent.manifest),
        quantization=None if parent is None else parent.quantization,
        like=request.like,
        checkpoint=request.checkpoint,
        checkpoints=attempt.folder / "checkpoints",
        resume=_fetch_checkpoint(attempt),
        kept=attempt.inputs.kept(base),
        rung_file=attempt.folder / _RUNG_FILE,
        sweep=request.sweep,
        wait_s=wait_s(attempt.assignment.lease_s),
    )
    with Reports(attempt, request) as reports, RungAnswers(attempt) as rungs:
        try:
            result = _run(attempt, order, base, reports, rungs)
        except (Stopped, AttemptFailed):
            reports.flush()
            raise
        # The training itself has logged its advice, each rule once.
        advised = {one.message for one in result.report.advice}
        for said in result.report.warnings:
            if said not in advised:
                attempt.lease.log(f"warning: {said}")
        _publish(attempt, request, base, result, reports)


def _files(attempt: Attempt, request: TrainingRequest) -> list[OrderedSource]:
    """Fetch all datasets."""
    if request.sources is None:
        path = attempt.inputs.dataset(request.data)
        return [OrderedSource(path=path, name=path.name)]
    return [
        OrderedSource(
            path=attempt.inputs.dataset(source.data),
            name=source.data_name or source.data[:12],
            weight=source.weight,
        )
        for source in request.sources
    ]


def _fetch_checkpoint(attempt: Attempt) -> Path | None:
    """Fetch the checkpoint to resume from, if there is one; one that is damaged or gone is no reason to fail."""
    source = attempt.assignment.checkpoint
    if source is None:
        return None
    folder = attempt.folder / "resume"
    try:
        with disk_explained("fetching a checkpoint"):
            folder.mkdir()
            attempt.client.puller.fetch(source.manifest, folder)
    except (NotFound, VerificationFailed) as error:
        _start_over(attempt, error.message)
        return None
    attempt.lease.log(f"resuming from the checkpoint of step {source.step} of job {source.job}")
    return folder


def _start_over(attempt: Attempt, reason: str) -> None:
    step = attempt.assignment.checkpoint.step if attempt.assignment.checkpoint is not None else 0
    said = f"the checkpoint of step {step} can't be used, so the training starts over: {reason}"
    _log.warning(said)
    attempt.lease.log(said)


def _run(
    attempt: Attempt, order: TrainingOrder, base: ScannedBase, reports: Reports, rungs: RungAnswers
) -> TrainingResult:
    """Run children until one ends the training: from the beginning after one that can't use its checkpoint, and with
    less computed at once after one that the system killed for lack of memory.
    """
    while True:
        try:
            return _run_once(attempt, order, base, reports, rungs)
        except KilledForMemory as failed:
            order = _with_less(attempt, order, failed)
        except AttemptFailed as failed:
            if failed.reason is not FailureReason.CHECKPOINT or order.resume is None:
                raise
            _start_over(attempt, str(failed))
            order = order.model_copy(update={"resume": None})
        shutil.rmtree(attempt.folder / OUT_FOLDER, ignore_errors=True)
        for name in (FAULT_FILE, _RUNG_FILE):
            (attempt.folder / name).unlink(missing_ok=True)


def _with_less(attempt: Attempt, order: TrainingOrder, failed: KilledForMemory) -> TrainingOrder:
    """Return the order for the child after a killed one, from the newest checkpoint on. Raises `failed` if nothing
    takes less memory.
    """
    try:
        rung = Rung.model_validate_json((attempt.folder / _RUNG_FILE).read_bytes())
    except (OSError, ValueError):
        # It was not training yet.
        raise failed from None
    if rung.below is None and rung.look_rows is None:
        tried = f" (tried: {'; '.join(rung.steps)})" if rung.steps else ""
        raise AttemptFailed(failed.reason, f"{failed}{tried}") from failed
    resume = max(order.checkpoints.glob("step-*"), default=order.resume)
    said = f"memory ran out and the system killed the process; another one goes on from {'the beginning' if resume is None else 'the last checkpoint'}"
    _log.warning(said)
    attempt.lease.log(said)
    return order.model_copy(update={"resume": resume, "killed_on": rung})


def _run_once(
    attempt: Attempt, order: TrainingOrder, base: ScannedBase, reports: Reports, rungs: RungAnswers
) -> TrainingResult:
    with CheckpointSender(attempt, base_fingerprint=base.registration.fingerprint) as sender:
        try:
            return attempt.run_child(order, TrainingResult, sender.written, reports.measured, rungs.reached)
        except (Stopped, AttemptFailed) as error:
            if not (isinstance(error, Stopped) and error.reason is StopReason.LOST):
                # The next attempt resumes from here.
                sender.finish(attempt.stop_signal.remaining_s(HAND_IN_S))
            raise


def _publish(
    attempt: Attempt, request: TrainingRequest, base: ScannedBase, result: TrainingResult, reports: Reports
) -> None:
    report = result.report
    if request.sweep is not None:
        _require_sums(result)
    attempt.finishing("uploading the adapter")
    package = attempt.pack_adapter(base.registration, base.registration.fingerprint)
    publication = Publication(
        adapter=request.adapter,
        upload=attempt.client.uploader.upload(package.sources, "uploading adapter", attempt.assignment.namespace),
        manifest=package.manifest,
        lora=report.lora,
        method="lora" if report.quantization is None else "qlora",
        quantization=report.quantization,
        dataset=report.dataset_use(request.data),
        training=report.training,
        metrics=report.metrics,
        libraries=report.libraries,
        signature=sign_manifest(package.manifest),
    )
    looks = some_looks(report.looks, report.record.best_step)
    # The version keeps them.
    reports.finish()
    attempt.complete(
        Completion(
            attempt=attempt.assignment.attempt,
            version=publication,
            looks=looks,
            advice=report.advice,
            member=result.member,
            served_probe=report.served_probe,
            training_rows=result.rows,
        )
    )


def _require_sums(result: TrainingResult) -> None:
    """Raise AttemptFailed ("internal") if the sums of a member's held-out rows don't give the loss that is recorded."""
    member, recorded = result.member, result.report.metrics.get("eval_loss")
    if member is None or recorded is None:
        raise AttemptFailed(FailureReason.INTERNAL, "a member of a sweep was trained without held-out rows")
    losses, weights = unpacked_rows(member.row_losses), unpacked_rows(member.row_weights)
    if not is_mean(recorded, losses.tolist(), weights.tolist()):
        found = float(losses.sum() / weights.sum())
        raise AttemptFailed(
            FailureReason.INTERNAL,
            f"the losses of held-out rows give {found:.6g} in all, and {recorded:.6g} was recorded; report this base and these"
            " options",
        )


TRAINING = KindOfWork(request=TrainingRequest, differences=_differences, carry_out=_train)
