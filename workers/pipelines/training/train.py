"""Train one adapter: a base's folder, rows and a spec in; two files and a report out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
from peft import get_peft_model_state_dict

from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.version_records import TrainingRecord
from sdk.schemas.wire import digest_of
from workers.pipelines.data.batches import Batch, tokens_of
from workers.pipelines.data.classify import CLASSIFY
from workers.pipelines.data.mixing import Mixture
from workers.pipelines.data.tokenise import Tokenised, write_serving
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import write_adapter, zero_matrices
from workers.pipelines.model.causality import require_causal
from workers.pipelines.model.device import Device, give_back, memory_errors_named
from workers.pipelines.model.dropout import drop_nothing, own_dropout
from workers.pipelines.model.loading import LoadedBase, deprecations_silenced, load_base
from workers.pipelines.model.packed import default_recipe
from workers.pipelines.orders import Rung
from workers.pipelines.training.adapting import adapted, reference_of, require_equal_to_base, require_reference
from workers.pipelines.training.auditing import audit
from workers.pipelines.training.callbacks import reporting_to
from workers.pipelines.training.checkpoints import Checkpoints, Interrupted, Pace, Record, write_checkpoint
from workers.pipelines.training.choosing import fitting_of
from workers.pipelines.training.continuing import Continued, compare_with_parent, load_parent, require_moved
from workers.pipelines.training.eva import resolved_lora
from workers.pipelines.training.evaluating import held_out_scores
from workers.pipelines.training.inputs import Inputs, read_inputs
from workers.pipelines.training.loop import AdapterState, Shared, begin, resume, run
from workers.pipelines.training.optimising import diverged
from workers.pipelines.training.probing import probe_saved, require_learnt
from workers.pipelines.training.reports import Setting, ran_with, training_report
from workers.pipelines.training.short_of_memory import after_the_last_step, before_the_first_step, looked_twice
from workers.pipelines.training.states import states_of


def train(
    *,
    base: Path,
    base_name: str,
    base_revision: str | None,
    data: Path | Mixture,
    eval_data: Path | None,
    out: Path,
    spec: TrainingSpec,
    on_progress: Callable[[Progress], None],
    checkpoints: Checkpoints | None = None,
    day: date | None = None,
    parent: Continued | None = None,
    like: RecordedTraining | None = None,
    killed_on: Rung | None = None,
    rung_file: Path | None = None,
    kept: Path | None = None,
    callbacks: Sequence[Any] = (),
) -> TrainingReport:
    """Train an adapter over the base in the folder `base` and write its two files into `out`; it starts from `parent`,
    if there is one.

    `base_name` and `base_revision` are the adapter's description of its base; no local path is written. `day` is the
    date given to chat templates; without it, a template that asks for the date is refused. The same arguments give the
    same bytes on the same machine and libraries. Each run checks itself: the base sees no token that it predicts,
    before the first step the adapted model equals the base exactly, gradients reach each matrix, the loss stays finite,
    no B is zero at the end, and the saved adapter moves the base's predictions on fixed texts. If memory runs out, less
    is computed at once; `rung_file` gets the current rung, and `killed_on` is the rung on which the previous process
    was killed for lack of memory. `kept` is the folder in which weights of the base in 4 bits are kept between
    attempts. `callbacks` are those of transformers' Trainer, such as a tracker's. With `checkpoints` a training that is
    stopped after any step and resumed in another process ends with the same bytes as one that never stopped, on a
    similar machine. Raises PipelineError, and Interrupted if it was told to stop.
    """
    on_progress(Progress(phase="data", message="reading and tokenising rows"))
    given = read_inputs(
        base=base,
        base_name=base_name,
        base_revision=base_revision,
        data=data,
        eval_data=eval_data,
        spec=spec,
        checkpoints=checkpoints,
        day=day,
        parent=parent,
        like=like,
    )
    rows = given.rows
    on_progress(
        Progress(
            phase="data",
            step=rows.rows,
            total=rows.rows + rows.dropped,
            unit="rows",
            message=(
                _of_data(rows) if given.classes is None else f"{len(given.classes.names)} labels, {rows.cut} rows cut"
            )
            + _of_split(given),
        )
    )
    given = replace(given, audit=audit(data, eval_data, spec, on_progress), kept=kept)
    advice = "halve batch_size and double grad_accum, shorten max_length, or choose method qlora."
    with memory_errors_named(advice), deprecations_silenced():
        return _train(given, out, on_progress, killed_on, rung_file, callbacks)


def _of_data(rows: Tokenised) -> str:
    said = f"{rows.supervised_tokens} supervised tokens, loss on {rows.loss_on}"
    if rows.cut:
        said += f"; {rows.cut} rows were cut, so they don't teach where to stop"
    if rows.split:
        said += (
            f"; {rows.split} texts were longer than a row may be, and were split: {len(rows.examples)} pieces in all"
        )
    if rows.rendering.methods.get("turns"):
        said += "; each answer of a conversation is a separate text, since the chat template renders earlier answers differently"
    if rows.rendering.methods.get("changed"):
        said += "; some conversations are not rendered as the base's chat template does it"
    return said


def _of_split(given: Inputs) -> str:
    rows = given.split.held_out_rows
    return "" if rows is None else f"; {rows} rows are held out"


def _train(
    given: Inputs,
    out: Path,
    on_progress: Callable[[Progress], None],
    killed_on: Rung | None,
    rung_file: Path | None,
    callbacks: Sequence[Any],
) -> TrainingReport:
    spec, device, resumed = given.spec, given.device, given.resumed
    _stop_if_asked(given)
    on_progress(Progress(phase="load", message=f"loading the base on {device.name}"))
    with before_the_first_step(spec):
        loaded = _load(given)
        if given.objective is not CLASSIFY:
            looked_twice(lambda: require_causal(loaded.model))
    prefers = given.objective.name == "dpo"
    if prefers:
        # The comparison is with the unchanged base.
        drop_nothing(loaded.model)
    # Later the adapter's own dropout would be included.
    base_dropout = own_dropout(loaded.model)
    if base_dropout:
        on_progress(Progress(phase="load", message=f"the base keeps its own dropout, of up to {base_dropout:g}"))
    on_progress(Progress(phase="load", message=f"the base is held as {loaded.said}"))
    reference = reference_of(given, loaded.model) if prefers else None
    with before_the_first_step(spec):
        model = adapted(given, loaded)
        if spec.moves_ranks and resumed is None:
            given = replace(given, lora=resolved_lora(given.lora, model, spec))
        looked_twice(lambda: require_equal_to_base(given, model))
    if reference is not None:
        require_reference(given, model, reference)
        if given.parent is not None:
            compare_with_parent(model, given.parent)
    _stop_if_asked(given)
    with before_the_first_step(spec):
        fitting = fitting_of(
            given, loaded, model, on_progress, killed_on=killed_on, rung_file=rung_file, base_dropout=base_dropout
        )
    fitting.begin(model)
    if resumed is not None:
        bare = resumed.record.eval_loss_base
    else:
        # B is zero, so this is the loss of the bare base; for preferences, relative to their reference.
        bare = held_out_scores(given, model, fitting, on_progress).get("loss")
        _stop_if_asked(given)
        if given.parent is not None:
            load_parent(model, given.parent)
    setting = Setting(given, loaded, fitting, bare, base_dropout)
    _name_differences(setting, on_progress)
    shared, adapter = begin(
        model, objective=given.objective, fitting=fitting, device=device, spec=spec, schedule=given.schedule
    )
    if resumed is not None:
        resume(shared, adapter, resumed)
    give_back()
    keep = _keeper(setting, shared, adapter)

    with reporting_to(callbacks, shared, adapter, rows=given.training_rows) as report_step:

        def after_step() -> None:
            on_progress(_progress(adapter, device))
            report_step()
            keep()

        run(shared, adapter, rows=given.training_rows, collate=_collate(given), after_step=after_step)
    train_s = adapter.record.train_s()
    if device.kind == "cuda":
        torch.cuda.synchronize()
    tensors = get_peft_model_state_dict(model)
    _check_finite(tensors, spec)
    _check_not_zero(tensors)
    if given.parent is not None:
        require_moved(tensors, given.parent)
    with after_the_last_step(lambda: _keep_last(setting, shared, adapter, tensors)):
        held_out = held_out_scores(given, model, fitting, on_progress)
        on_progress(Progress(phase="save", message="writing the adapter"))
        _write(given, tensors, out)
        report = training_report(setting, adapter.record, tensors, train_s=train_s, held_out=held_out)
        found = probe_saved(given, model, out)
    require_learnt(found, loaded.dtype)
    return report.model_copy(
        update={
            "metrics": {**report.metrics, **found.metrics()},
            "training": {**report.training, **TrainingRecord(probe_texts=found.texts_digest).flat()},
        }
    )


def _name_differences(setting: Setting, on_progress: Callable[[Progress], None]) -> None:
    """If a training is repeated, log what differs from its record."""
    like = setting.given.like
    if like is not None:
        found = ", ".join(like.differences(ran_with(setting)))
        said = (
            f"other than {like.ref} had: {found}" if found else f"libraries, device and samples are those of {like.ref}"
        )
        on_progress(Progress(phase="check", message=said))


def _load(given: Inputs) -> LoadedBase:
    """Load the base, held as when the checkpoint to resume from was written."""
    spec, quantization = given.spec, None
    if spec.method == "qlora":
        quantization = default_recipe(given.device, spec.quant_type, double_quant=spec.double_quant)
        if given.parent is not None and given.parent.quantization is not None:
            quantization = given.parent.quantization
    recorded = None if given.like is None else given.like.ran_with.get("base_weights")
    if given.resumed is not None:
        recorded = given.resumed.record.base_weights
    held: Literal["packed", "wide"] | None = (
        "packed" if recorded == "packed" else "wide" if recorded == "wide" else None
    )
    return load_base(
        given.base, given.device, quantization=quantization, held=held, classes=given.classes, kept=given.kept
    )


def _stop_if_asked(given: Inputs) -> None:
    """End between two phases before the first step; there is nothing new to keep."""
    if given.checkpoints is not None and given.checkpoints.must_stop():
        raise Interrupted(0 if given.resumed is None else given.resumed.record.step)


def _collate(given: Inputs) -> Callable[[Sequence[int]], Batch]:
    """Return what makes a batch from the numbers of rows, which are read only then."""

    def collate(batch: Sequence[int]) -> Batch:
        some = [tokens_of(given.rows.examples, row, given.objective) for row in batch]
        return given.objective.collate(list(itertools.chain.from_iterable(some)), given.tokenizer.pad_token_id)

    return collate


def _progress(adapter: AdapterState, device: Device) -> Progress:
    record, step, total = adapter.record, adapter.step, adapter.schedule.total_steps
    elapsed = record.train_s()
    return Progress(
        phase="train",
        step=step,
        total=total,
        loss=record.losses[-1],
        lr=record.rates[-1],
        tokens_per_s=record.tokens / elapsed,
        memory_bytes=device.peak_memory_bytes(),
        eta_s=elapsed / step * (total - step),
    )


def _keeper(setting: Setting, shared: Shared, adapter: AdapterState) -> Callable[[], None]:
    """Return the callback for each step: it writes a checkpoint if one is due, and ends the training if it must stop."""
    given, checkpoints = setting.given, setting.given.checkpoints
    if checkpoints is None:
        return lambda: None
    pace = Pace(checkpoints)

    def keep() -> None:
        step, total = adapter.step, given.schedule.total_steps
        must_stop = checkpoints.must_stop()
        if not must_stop and not pace.is_due(step):
            return
        tensors = get_peft_model_state_dict(shared.model)
        folder = _write_checkpoint(setting, checkpoints.folder, shared, adapter, tensors)
        pace.wrote()
        checkpoints.written(step, total, folder)
        if must_stop:
            raise Interrupted(step)

    return keep


def _keep_last(setting: Setting, shared: Shared, adapter: AdapterState, tensors: dict[str, Any]) -> int | None:
    """Write the checkpoint of the last step, unless the training resumed from it; return its step."""
    checkpoints, last = setting.given.checkpoints, setting.given.schedule.total_steps
    if adapter.record.resumed_from == last:
        return last
    if checkpoints is None:
        return None
    checkpoints.written(last, last, _write_checkpoint(setting, checkpoints.folder, shared, adapter, tensors))
    return last


def _write_checkpoint(
    setting: Setting, folder: Path, shared: Shared, adapter: AdapterState, tensors: dict[str, Any]
) -> Path:
    given, steps, scaler = setting.given, adapter.record, shared.accelerator.scaler
    # No training could resume from such a checkpoint, and this one can't continue either.
    _check_finite(tensors, given.spec)
    train_s = steps.train_s()
    record = Record(
        step=adapter.step,
        total=given.schedule.total_steps,
        losses=steps.losses,
        rates=steps.rates,
        tokens=steps.tokens,
        train_s=train_s,
        eval_loss_base=setting.eval_loss_base,
        base_weights=setting.loaded.held,
        fit=setting.fitting.fit,
        memory_steps=setting.fitting.steps,
        unreached=adapter.unreached,
        scaler=None if scaler is None else scaler.state_dict(),
        configuration=given.configuration,
        digest=digest_of(given.configuration),
    )
    return write_checkpoint(
        folder,
        record=record,
        report=training_report(setting, steps, tensors, train_s=train_s),
        states=states_of(adapter.optimizer, taken=adapter.taken, rate=adapter.rate),
        write_adapter=lambda out: _write(given, tensors, out),
    )


def _write(given: Inputs, tensors: dict[str, Any], out: Path) -> None:
    write_adapter(
        out,
        tensors=tensors,
        lora=given.lora,
        base_name=given.base_name,
        base_revision=given.base_revision,
        fan_in_fan_out=given.lora.fan_in_fan_out,
        labels=() if given.classes is None else given.classes.names,
    )
    write_serving(out, base=given.base, tokenizer=given.tokenizer, rows=given.rows)


def _check_finite(tensors: dict[str, Any], spec: TrainingSpec) -> None:
    infinite = sorted(name for name, tensor in tensors.items() if not bool(tensor.isfinite().all()))
    if infinite:
        raise diverged(spec, f"{len(infinite)} adapter matrices are not finite (first: {infinite[0]})")


def _check_not_zero(tensors: dict[str, Any]) -> None:
    zero = zero_matrices(tensors)
    if zero:
        raise PipelineError(
            FailureReason.UNTRAINED,
            f"{len(zero)} matrices B of the trained adapter are all zero (first: {zero[0]}), so it changes nothing;"
            " raise lr or the number of steps.",
        )
