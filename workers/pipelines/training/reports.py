"""A training's report: at its end, or as if it had ended at a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from sdk.advice.rules import advice_of
from sdk.schemas.schedules import SCHEDULES
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.version_records import TrainingRecord
from sdk.schemas.wire import JsonScalar
from workers.pipelines.data.tokenizer import longest_row
from workers.pipelines.libraries import library_versions, other_releases, versions_of
from workers.pipelines.model.loading import LoadedBase
from workers.pipelines.model.precision import measured
from workers.pipelines.training.fitting import Fitting
from workers.pipelines.training.forecasting import forecast_bytes
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.looks.looking import Looks
from workers.pipelines.training.looks.rungs import MemberRungs
from workers.pipelines.training.loop import LOOP, StepRecord
from workers.pipelines.training.optimising import EPSILON


class Before(NamedTuple):
    """Losses of the bare base before the first step: of held-out rows, and of those by which nothing is chosen. None: there are
    none.
    """

    held_out: float | None = None
    test: float | None = None


@dataclass(frozen=True)
class Setting:
    """What is known about a training once its base is loaded and scored."""

    given: Inputs
    loaded: LoadedBase
    #: How much is computed at once.
    fitting: Fitting
    #: Losses of the bare base in what the objective says.
    before: Before
    #: The largest dropout probability of the base itself in training.
    base_dropout: float
    looks: Looks
    rungs: MemberRungs


def training_report(
    setting: Setting,
    steps: StepRecord,
    tensors: Mapping[str, Any],
    *,
    train_s: float,
    scores: Mapping[str, float] | None = None,
) -> TrainingReport:
    """Return the report of the steps so far, which made the matrices `tensors`; at the end of a training `scores` are those of
    held-out rows.
    """
    given, loaded = setting.given, setting.loaded
    last = steps.losses[-max(1, len(steps.losses) // 10) :]
    began = _beginning_and_end(steps.losses, an_epoch=math.ceil(given.training_rows / given.spec.effective_batch))
    metrics = {
        "eval_loss_base": setting.before.held_out,
        "test_loss_base": setting.before.test,
        **(scores or {}),
        **({} if scores is None else setting.looks.metrics()),
        # The mean over the last tenth of the steps; a single step's loss is mostly its rows.
        "loss": sum(last) / len(last),
        **began,
        "train_s": train_s,
        "tokens": float(steps.tokens),
        "tokens_per_s": steps.tokens / train_s,
        "steps": float(len(steps.losses)),
        "resumed_from_step": None if steps.resumed_from is None else float(steps.resumed_from),
        "trainable_parameters": float(sum(tensor.numel() for tensor in tensors.values())),
        "base_parameters": float(loaded.parameters),
        **measured(loaded.shares),
        "peak_memory_bytes": float(max(steps.peak_bytes, given.device.peak_memory_bytes())),
        "look_peak_bytes": float(steps.look_peak_bytes) if steps.look_peak_bytes else None,
        "forecast_bytes": forecast_bytes(given, loaded, setting.fitting),
    }
    return TrainingReport(
        lora=given.lora,
        quantization=loaded.quantization,
        rows=given.rows.rows,
        supervised_tokens=given.rows.supervised_tokens,
        training=(_record(setting) if scores is None else _with_looks(setting, steps)).flat(),
        metrics={name: float(value) for name, value in metrics.items() if value is not None},
        libraries=_libraries(given.spec),
        looks=[] if scores is None else setting.looks.records,
        rendering=given.rows.rendering,
        sources=given.sources,
        labels=None if given.classes is None else list(given.classes.names),
    )


def advised(report: TrainingReport, steps: StepRecord) -> TrainingReport:
    """Return the report of a training that has ended, with what its steps and looks advise."""
    update = report.metrics.get("largest_update")
    advice = advice_of(report.record, steps.points(0), report.looks, labels=len(report.labels or ()), update=update)
    if not advice:
        return report
    rules = TrainingRecord(advice=",".join(one.rule for one in advice))
    return report.model_copy(update={"advice": advice, "training": {**report.training, **rules.flat()}})


def ran_with(setting: Setting) -> dict[str, JsonScalar]:
    """Return the environment of a training, for a `RecordedTraining`."""
    return {
        "base": setting.given.order.base_name,
        "base_revision": setting.given.order.base_revision,
        **_libraries(setting.given.spec),
        **_record(setting).ran_with(),
    }


def _libraries(spec: TrainingSpec) -> dict[str, str]:
    extra = spec.optimizer.extra
    return {**library_versions(), **({} if extra is None else versions_of(extra[1]))}


def _record(setting: Setting) -> TrainingRecord:
    """Return the record: every number that the result depends on."""
    given, loaded = setting.given, setting.loaded
    spec, lora, fit = given.spec, given.lora, setting.fitting.fit
    traits = given.objective.traits
    own = TrainingRecord(
        objective=given.objective.name,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        reference="parent" if traits.has_reference and given.order.parent is not None else None,
        loss_on=given.rows.loss_on,
        total_steps=given.schedule.total_steps,
        warmup_steps=given.schedule.warmup_steps,
        max_length=longest_row(given.order.base, spec.max_length),
        # Nothing else depends on it.
        look_interval=setting.looks.state.interval if spec.chooses else None,
        samples=given.training_rows,
        rows_cut=given.rows.cut,
        special_tokens=given.special_tokens,
        rows_with_special_tokens=max(given.rows.had_special.values(), default=0),
        rows_dropped=given.rows.dropped,
        rows_split=given.rows.split,
        held_out_split=None if given.held_out is None else given.held_out.split,
        held_out_rows_in_training=given.held_out_seen,
        pad_token_id=None if given.classes is None else given.classes.pad_token_id,
        loop=LOOP,
        optimizer=spec.optimizer.name,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        micro_batch=fit.micro_rows,
        gradient_checkpointing=fit.checkpointing,
        logit_chunk_tokens=fit.chunk_tokens,
        activation_offloading=fit.offloading,
        packed=fit.packed,
        row_attention=fit.row_attention,
        memory_steps=setting.fitting.record(),
        base_dropout=setting.base_dropout,
        base_weights=loaded.held,
        device=given.device.kind,
        device_name=given.device.name,
        dtype=loaded.dtype,
        adapter_dtype="float32",
        threads=torch.get_num_threads() if given.device.kind == "cpu" else None,
    )
    audit = {f"audit_{kind}": rows for kind, rows in given.audit.items()}
    own_options = {name: getattr(spec, name) for name in traits.options}
    releases = other_releases(on_card=given.device.kind == "cuda")
    return TrainingRecord.model_validate(
        {**spec.recorded(), **own_options, **_steps(spec), **given.split.flat(), **audit, **releases, **own.flat()}
    )


def _with_looks(setting: Setting, steps: StepRecord) -> TrainingRecord:
    """Return the record of a training that has ended."""
    looks, spec, step = setting.looks, setting.given.spec, len(steps.losses)
    best = looks.best
    found = TrainingRecord(
        looks=sum(look.step > 0 for look in looks.records) or None,
        best_step=best.step if best is not None and spec.keeps_best else None,
        stopped_step=step if step < setting.given.schedule.total_steps else None,
    )
    return _record(setting).model_copy(
        update={name: value for name, value in found if value is not None and name in found.model_fields_set}
    )


def _steps(spec: TrainingSpec) -> dict[str, float]:
    """Return what optimiser and schedule depend on, also where it is the default."""
    found = {"decay_share": spec.decay_share} if "decay_share" in SCHEDULES[spec.schedule] else {}
    if spec.optimizer.is_adam:
        found |= {"adam_beta1": spec.adam_beta1, "adam_beta2": spec.adam_beta2, "adam_epsilon": EPSILON}
    return found


#: With fewer steps, losses over other rows say nothing about what was learnt in between.
_LEAST_STEPS = 20


def _beginning_and_end(losses: list[float], *, an_epoch: int) -> dict[str, float]:
    """Return the mean loss of the first and of the last epoch, which have the same rows; before a second one ends, of
    both halves of the steps, if these are enough.
    """
    if len(losses) >= 2 * an_epoch:
        steps = an_epoch
    elif len(losses) >= _LEAST_STEPS:
        steps = len(losses) // 2
    else:
        return {}
    return {"first_loss": sum(losses[:steps]) / steps, "last_loss": sum(losses[-steps:]) / steps}
