"""Train one adapter: a base's folder, rows and a spec in; two files and a report out."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.series import PointChunk
from sdk.schemas.training import TrainingSpec
from sdk.schemas.version_records import TrainingRecord, special_tokens_said
from sdk.schemas.wire import digest_of
from workers.pipelines.cpu.arithmetic import in_threads
from workers.pipelines.data.batches import by_length, tokens_of
from workers.pipelines.data.objective import Batch
from workers.pipelines.data.tokenise import Tokenised, write_serving
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import own_tensors, write_adapter, zero_matrices
from workers.pipelines.model.added_rows import start_rows
from workers.pipelines.model.causality import require_causal
from workers.pipelines.model.device import Device, give_back, memory_errors_named
from workers.pipelines.model.loading import LoadedBase, deprecations_silenced, load_base
from workers.pipelines.model.packed import default_recipe
from workers.pipelines.orders import Host, TrainingOrder, TrainingResult
from workers.pipelines.training.adapting import (
    adapted,
    drop_nothing,
    own_dropout,
    reference_of,
    require_equal_to_base,
    require_reference,
)
from workers.pipelines.training.advising import Advising
from workers.pipelines.training.averaging import averaged, result_of
from workers.pipelines.training.callbacks import reporting_to
from workers.pipelines.training.checkpoints import Interrupted, Pace, Record, write_checkpoint
from workers.pipelines.training.choosing import fitting_of
from workers.pipelines.training.continuing import compare_with_parent, load_parent, require_moved
from workers.pipelines.training.eva import resolved_lora
from workers.pipelines.training.fitting import Fitting
from workers.pipelines.training.inputs import Inputs, audit, read_inputs
from workers.pipelines.training.looks.evaluating import HeldOutScores, scored
from workers.pipelines.training.looks.looking import Looks
from workers.pipelines.training.looks.rungs import MemberRungs, member_result
from workers.pipelines.training.loop import AdapterState, Shared, begin, resume, run
from workers.pipelines.training.optimising import diverged
from workers.pipelines.training.probing import probe_saved, require_learnt
from workers.pipelines.training.reports import Before, Setting, ran_with, training_report
from workers.pipelines.training.resuming import threads_of
from workers.pipelines.training.row_means import ROW, RowMeans
from workers.pipelines.training.seen_rows import first_rows, seen_by
from workers.pipelines.training.short_of_memory import after_the_last_step, before_the_first_step, looked_twice
from workers.pipelines.training.states import states_of
from workers.pipelines.training.update_size import largest_update, lost_scale


def carry_out(order: TrainingOrder, host: Host) -> TrainingResult | None:
    """Train; return None if the training was told to stop and has written a checkpoint."""
    try:
        return train(order, host)
    except Interrupted:
        return None


def train(order: TrainingOrder, host: Host, callbacks: Sequence[Any] = ()) -> TrainingResult:
    """Train an adapter over a base and write its two files into the host's `out`; it starts from the parent, if there is
    one.

    The same order gives the same bytes on the same machine and libraries. Each run checks itself: the base sees no token
    that it predicts, before the first step the adapted model equals the base exactly, gradients reach each matrix, the
    loss stays finite, no B is zero at the end, and the saved adapter moves the base's predictions on fixed texts. If
    memory runs out, less is computed at once. A training that is stopped after any step and resumed in another process
    ends with the same bytes as one that never stopped, on a similar machine. `callbacks` are those of transformers'
    Trainer, such as a tracker's. Raises PipelineError, and Interrupted if it was told to stop.
    """
    with in_threads(_threads(order)):
        return _trained(order, host, callbacks)


def _threads(order: TrainingOrder) -> int | None:
    """Return in how many threads a member of a sweep computes: as asked, or as before a checkpoint; None: it may be as many as
    the machine has.
    """
    if order.sweep is None:
        return None
    return order.sweep.threads or (None if order.resume is None else threads_of(order.resume))


def _trained(order: TrainingOrder, host: Host, callbacks: Sequence[Any]) -> TrainingResult:
    host.report(Progress(phase="data", message="reading and tokenising rows"))
    given = read_inputs(order)
    rows = given.rows
    host.report(
        Progress(
            phase="data",
            step=rows.rows,
            total=rows.rows + rows.dropped,
            unit="rows",
            message=(
                _of_data(rows)
                if given.classes is None
                else f"{len(given.classes.names)} labels, {rows.cut} rows truncated"
            )
            + _of_split(given),
        )
    )
    if given.special_tokens == "once" and (said := special_tokens_said(rows.had_special)) is not None:
        _log(host, "data", said)
    given = replace(given, audit=audit(order, host.report))
    advice = "halve batch_size and double grad_accum, shorten max_length, or choose method qlora."
    with memory_errors_named(advice), deprecations_silenced():
        return _train(given, host, callbacks)


def _of_data(rows: Tokenised) -> str:
    said = f"{rows.supervised_tokens} supervised tokens, loss on {rows.loss_on}"
    if rows.cut:
        said += f"; {rows.cut} rows were truncated, so they don't teach where to stop"
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


def _train(given: Inputs, host: Host, callbacks: Sequence[Any]) -> TrainingResult:
    spec, device, resumed, parent = given.spec, given.device, given.resumed, given.order.parent
    traits, rows = given.objective.traits, first_rows(given)
    _stop_if_asked(given, host)
    host.report(Progress(phase="load", message=f"loading the base on {device.name}"))
    with before_the_first_step(spec):
        loaded = _load(given)
        if traits.predicts_tokens:
            looked_twice(lambda: require_causal(loaded.model))
    if traits.drops_dropout:
        # The comparison is with the unchanged base.
        drop_nothing(loaded.model)
    # Later the adapter's own dropout would be included.
    base_dropout = own_dropout(loaded.model)
    if base_dropout:
        host.report(Progress(phase="load", message=f"the base keeps its own dropout, of up to {base_dropout:g}"))
    host.report(Progress(phase="load", message=f"the base is held as {loaded.said}"))
    reference = reference_of(given, loaded.model) if traits.has_reference else None
    with before_the_first_step(spec):
        model = adapted(given, loaded)
        if spec.moves_ranks and resumed is None:
            given = replace(given, lora=resolved_lora(given.lora, model, spec))
        looked_twice(lambda: require_equal_to_base(given, model))
    if reference is not None:
        require_reference(given, model, reference)
        if parent is not None:
            compare_with_parent(model, parent)
    _stop_if_asked(given, host)
    with before_the_first_step(spec):
        fitting = fitting_of(
            given, loaded, model, lambda message: _log(host, "fit", message), base_dropout=base_dropout
        )
    fitting.begin(model)
    before = Before() if resumed is None else Before(resumed.record.eval_loss_base, resumed.record.test_loss_base)
    bare, began = None, time.perf_counter()
    if resumed is None:
        # B is zero, so this is the loss of the bare base, relative to the reference if there is one.
        bare = _scored(given, given.held_out, model, fitting, host)
        test = _scored(given, given.test, model, fitting, host)
        before = Before(*(None if found is None else found.scores["loss"] for found in (bare, test)))
        _stop_if_asked(given, host)
        if parent is not None:
            load_parent(model, parent)
    rungs = MemberRungs(given, host, lambda message: _log(host, "train", message))
    setting = Setting(given, loaded, fitting, before, base_dropout, Looks(given, fitting, host), rungs)
    if bare is not None and parent is None:
        setting.looks.before(bare, time.perf_counter() - began)
    _name_differences(setting, host)
    shared, adapter = begin(
        model, objective=given.objective, fitting=fitting, device=device, spec=spec, schedule=given.schedule
    )
    if resumed is not None:
        resume(shared, adapter, resumed)
    if _counts_rows(given):
        adapter.record.rows = RowMeans(given.training_rows)
    give_back()
    if points := setting.looks.points(adapter.record.points(0)):
        host.measured(PointChunk(after=-1, points=points))
    advising = Advising(setting, host)
    with advising.of_divergence(adapter.record):
        # The one that stopped may have stopped in the middle of it.
        is_over = adapter.step > 0 and _look(setting, host, shared, adapter)
        if not is_over:
            _take_steps(setting, host, shared, adapter, callbacks, advising)
        train_s = adapter.record.train_s()
        if device.kind == "cuda":
            torch.cuda.synchronize()
        last = _last(shared, adapter)
    with after_the_last_step(lambda: _keep_last(setting, host, shared, adapter, last, advising)):
        with advising.of_divergence(adapter.record):
            tensors, held_out, scores = _chosen(setting, host, shared, adapter, last)
        _check_not_zero(tensors)
        if parent is not None:
            require_moved(tensors, parent)
        host.report(Progress(phase="save", message="writing the adapter"))
        _write(given, tensors, host.out)
        report = training_report(setting, adapter.record, tensors, train_s=train_s, scores=scores)
        lost, update = lost_scale(model), largest_update(model, host.out, given.lora)
        found, answers = probe_saved(given, model, host.out, loaded.quantization)
    require_learnt(found, loaded.dtype, why=lost)
    report = report.model_copy(
        update={
            "metrics": {
                **report.metrics,
                **found.metrics(),
                **({} if update is None else {"largest_update": update}),
            },
            "training": {**report.training, **TrainingRecord(probe_texts=found.texts_digest).flat()},
            "served_probe": answers,
        }
    )
    report = advising.at_the_end(report, adapter.record, had_to_end=rungs.pruned_at is not None)
    member = None
    if given.order.sweep is not None and given.held_out is not None and held_out is not None:
        member = member_result(rungs, given.held_out, held_out.rows, steps=adapter.step)
    return TrainingResult(report=report, member=member, rows=seen_by(rows, adapter.step))


def _scored(given: Inputs, rows: Tokenised | None, model: Any, fitting: Fitting, host: Host) -> HeldOutScores | None:
    return None if rows is None else scored(given, rows.examples, model, fitting, host.report)


def _take_steps(
    setting: Setting,
    host: Host,
    shared: Shared,
    adapter: AdapterState,
    callbacks: Sequence[Any],
    advising: Advising,
) -> None:
    """Take the steps that are left, with looks and checkpoints between them."""
    given, pace = setting.given, Pace(setting.given.order.checkpoint)
    with reporting_to(callbacks, shared, adapter, rows=given.training_rows) as report_step:

        def after_step() -> bool:
            # Before the first step there was nothing to keep, and a request to stop ended the process like any other.
            host.stop_in_order()
            host.report(_progress(adapter, given.device))
            host.measured(PointChunk(after=adapter.step - 1, points=adapter.record.points(adapter.step - 1)))
            report_step()
            is_over = _look(setting, host, shared, adapter)
            advising.after_step(adapter.record)
            _keep(setting, host, shared, adapter, pace, advising)
            return is_over

        run(shared, adapter, rows=given.training_rows, collate=_collate(given), after_step=after_step)


def _look(setting: Setting, host: Host, shared: Shared, adapter: AdapterState) -> bool:
    """Look at held-out rows if it is time, or at a rung; return whether the training ends."""
    looks, rungs, step = setting.looks, setting.rungs, adapter.step
    before = len(looks.records)
    is_over = looks.after_step(shared, adapter, for_sweep=rungs.is_at(step))
    if len(looks.records) > before:
        host.measured(PointChunk(after=step - 1, points=looks.points(adapter.record.points(step - 1))[-1:]))
    if is_over:
        return True
    began = time.perf_counter()
    is_over = rungs.after_step(step, looks.loss_at)
    adapter.record.looked_s += time.perf_counter() - began
    return is_over


def _chosen(
    setting: Setting, host: Host, shared: Shared, adapter: AdapterState, last: _Last
) -> tuple[dict[str, Any], HeldOutScores | None, dict[str, float]]:
    """Let the model have the weights that are published; return these, what held-out rows say of them, and all scores by name."""
    given, looks = setting.given, setting.looks
    found = looks.at_the_end(shared, adapter) if given.spec.keeps_best or looks.are_of_some_rows else None
    best = looks.take_best(shared, adapter)
    if best is not None or looks.are_of_some_rows:
        found = None
    with averaged(adapter) if best is None else nullcontext():
        held_out = found or _scored(given, given.held_out, shared.model, setting.fitting, host)
        test = _scored(given, given.test, shared.model, setting.fitting, host)
    if held_out is not None and best is not None:
        looks.require_read_back(best, held_out)
    elif held_out is not None:
        looks.after_all(adapter.step, held_out)
    if looks.records and adapter.step:
        host.measured(
            PointChunk(after=adapter.step - 1, points=looks.points(adapter.record.points(adapter.step - 1))[-1:])
        )
    scores = {"eval": held_out, "test": test}
    named = {f"{which}_{name}": value for which, one in scores.items() if one for name, value in one.scores.items()}
    return last.tensors if best is None else own_tensors(shared.model), held_out, named


@dataclass(frozen=True)
class _Last:
    """What was trained at the end of the steps, also after the model was given other weights."""

    #: The adapter's tensors by PEFT's names.
    tensors: dict[str, Any]
    #: Copies of the parameters, if the model may be given other ones.
    parameters: dict[str, Any]


def _last(shared: Shared, adapter: AdapterState) -> _Last:
    tensors = result_of(shared, adapter)
    _check_finite(tensors, adapter.spec)
    if not adapter.spec.keeps_best:
        return _Last(tensors, {})
    tensors, parameters = (
        {name: tensor.detach().clone() for name, tensor in each.items()} for each in (tensors, adapter.parameters)
    )
    return _Last(tensors, parameters)


def _log(host: Host, phase: str, message: str) -> None:
    """Report what also belongs in the job's log."""
    sys.stderr.write(f"{message}\n")
    host.report(Progress(phase=phase, message=message))


def _name_differences(setting: Setting, host: Host) -> None:
    """If a training is repeated, log what differs from its record."""
    like = setting.given.order.like
    if like is not None:
        found = ", ".join(like.differences(ran_with(setting)))
        said = (
            f"other than {like.ref} had: {found}" if found else f"libraries, device and samples are those of {like.ref}"
        )
        _log(host, "check", said)


def _load(given: Inputs) -> LoadedBase:
    """Load the base, held as when the checkpoint to resume from was written."""
    order, spec, quantization = given.order, given.spec, None
    if spec.method == "qlora":
        quantization = order.quantization or default_recipe(
            given.device, spec.quant_type, double_quant=spec.double_quant
        )
    recorded = None if order.like is None else order.like.ran_with.get("base_weights")
    if given.resumed is not None:
        recorded = given.resumed.record.base_weights
    held: Literal["packed", "wide"] | None = (
        "packed" if recorded == "packed" else "wide" if recorded == "wide" else None
    )
    loaded = load_base(
        order.base, given.device, quantization=quantization, held=held, classes=given.classes, kept=order.kept
    )
    if given.vocabulary is not None:
        start_rows(loaded.model, given.vocabulary.ids)
    return loaded


def _stop_if_asked(given: Inputs, host: Host) -> None:
    """End between two phases before the first step; there is nothing new to keep."""
    if host.told_to_stop:
        raise Interrupted(0 if given.resumed is None else given.resumed.record.step)


def _collate(given: Inputs) -> Callable[[Sequence[int]], Batch]:
    """Return what makes a batch from the numbers of rows, which are read only then."""

    def collate(batch: Sequence[int]) -> Batch:
        some = list(
            itertools.chain.from_iterable(tokens_of(given.rows.examples, row, given.objective) for row in batch)
        )
        made = given.objective.collate(some, given.tokenizer.pad_token_id)
        return {**made, ROW: torch.tensor([batch[at] for at in by_length(some)])} if _counts_rows(given) else made

    return collate


def _counts_rows(given: Inputs) -> bool:
    """Whether the losses of single rows are counted: where each has its own, in the order of one file."""
    return given.objective.name == "sft" and len(given.order.data) == 1


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


def _keep(setting: Setting, host: Host, shared: Shared, adapter: AdapterState, pace: Pace, advising: Advising) -> None:
    """Write a checkpoint after a step if one is due, and end the training if it must stop."""
    # Asked once: the answer may change meanwhile.
    must_stop = host.told_to_stop
    if must_stop or pace.is_due(adapter.step):
        _write_checkpoint(setting, host, shared, adapter, result_of(shared, adapter), advising)
        pace.wrote()
    if must_stop:
        raise Interrupted(adapter.step)


def _keep_last(
    setting: Setting, host: Host, shared: Shared, adapter: AdapterState, last: _Last, advising: Advising
) -> int:
    """Write the checkpoint of the last step, unless the training resumed from it; return its step."""
    if adapter.record.resumed_from != adapter.step:
        with torch.no_grad():
            for name, tensor in last.parameters.items():
                adapter.parameters[name].copy_(tensor)
        _write_checkpoint(setting, host, shared, adapter, last.tensors, advising)
    return adapter.step


def _write_checkpoint(
    setting: Setting,
    host: Host,
    shared: Shared,
    adapter: AdapterState,
    tensors: dict[str, Any],
    advising: Advising,
) -> None:
    given, steps, scaler = setting.given, adapter.record, shared.accelerator.scaler
    # No training could resume from such a checkpoint, and this one can't continue either.
    _check_finite(tensors, given.spec)
    train_s = steps.train_s()
    record = Record(
        step=adapter.step,
        total=given.schedule.total_steps,
        losses=steps.losses,
        rates=steps.rates,
        measured=steps.measured,
        tokens=steps.tokens,
        train_s=train_s,
        eval_loss_base=setting.before.held_out,
        test_loss_base=setting.before.test,
        look_state=setting.looks.state,
        advice=advising.told,
        rungs=setting.rungs.answers,
        base_weights=setting.loaded.held,
        fit=setting.fitting.fit,
        memory_steps=setting.fitting.steps,
        unreached=adapter.unreached,
        scaler=None if scaler is None else scaler.state_dict(),
        configuration=given.configuration,
        digest=digest_of(given.configuration),
    )
    folder = write_checkpoint(
        given.order.checkpoints,
        record=record,
        report=training_report(setting, steps, tensors, train_s=train_s),
        states=states_of(adapter.optimizer, given.spec.optimizer, taken=adapter.taken, rate=adapter.rate),
        write_adapter=lambda out: _write(given, tensors, out),
        write_looks=setting.looks.kept.write,
    )
    host.wrote_checkpoint(record.step, record.total, folder)


def _write(given: Inputs, tensors: dict[str, Any], out: Path) -> None:
    write_adapter(
        out,
        tensors=tensors,
        lora=given.lora,
        base_name=given.order.base_name,
        base_revision=given.order.base_revision,
        fan_in_fan_out=given.lora.fan_in_fan_out,
        labels=() if given.classes is None else given.classes.names,
    )
    own = None if given.vocabulary is None else given.vocabulary.files
    write_serving(out, base=given.order.base, tokenizer=given.tokenizer, rows=given.rows, own=own)


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
