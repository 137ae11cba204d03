"""Train one adapter: a base's folder, rows and a spec in; two files and a report out."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from transformers import set_seed

from sdk.schemas.events import Progress
from sdk.schemas.training import JsonScalar, LoraConfig, LossPoint, TrainingReport, TrainingSpec
from workers.pipelines.adapters import write_adapter, zero_matrices
from workers.pipelines.batches import Collator, example_batches, mean_loss
from workers.pipelines.data import Example, Tokenised, load_tokenizer, longest_row, tokenise
from workers.pipelines.device import DTYPES, Device, choose_device, memory_errors_named
from workers.pipelines.dropout import SixteenBitDropout
from workers.pipelines.errors import PipelineError, Reason
from workers.pipelines.families import matches, resolve_targets
from workers.pipelines.libraries import library_versions
from workers.pipelines.loading import LoadedBase, default_recipe, deprecations_silenced, load_base, read_blueprint
from workers.pipelines.rows import read_rows
from workers.pipelines.trainer import (
    BETAS,
    EPSILON,
    MAX_GRAD_NORM,
    WEIGHT_DECAY,
    AdapterTrainer,
    Schedule,
    diverged,
    training_arguments,
)

#: Activations may take this share of the memory that is available once the base is loaded.
_ACTIVATION_SHARE = 0.5
#: Points of the loss curve that a report keeps.
_CURVE_POINTS = 500


def train(
    *,
    base: Path,
    base_name: str,
    base_revision: str | None,
    data: Path,
    eval_data: Path | None,
    out: Path,
    spec: TrainingSpec,
    on_progress: Callable[[Progress], None],
) -> TrainingReport:
    """Train an adapter over the base in the folder `base` and write its two files into `out`.

    `base_name` and `base_revision` are what the adapter says of its base; no local path is written. The same
    arguments give the same bytes on the same machine and libraries. Each run checks itself: before the first step the
    adapted model equals the base exactly, gradients reach each matrix, the loss stays finite, and no B is zero at
    the end. Raises PipelineError.
    """
    on_progress(Progress(phase="data", message="reading and tokenising rows"))
    blueprint = read_blueprint(base)
    targets = resolve_targets(spec.targets, blueprint.config.model_type, blueprint.linear_names)
    tokenizer = load_tokenizer(base)
    max_length = longest_row(base, spec.max_length)
    rows = tokenise(read_rows(data), tokenizer, loss_on=spec.loss_on, max_length=max_length)
    held_out = None
    if eval_data is not None:
        held_out = tokenise(read_rows(eval_data), tokenizer, loss_on=spec.loss_on, max_length=max_length)
    on_progress(
        Progress(
            phase="data",
            step=len(rows.examples),
            total=len(rows.examples) + rows.dropped,
            unit="rows",
            message=f"{rows.supervised_tokens} supervised tokens, loss on {rows.loss_on}",
        )
    )
    device = choose_device()
    given = _Inputs(
        base=base,
        base_name=base_name,
        base_revision=base_revision,
        rows=rows,
        held_out=held_out,
        tokenizer=tokenizer,
        spec=spec,
        device=device,
        lora=_lora_config(spec, targets, blueprint.conv1d_names),
        schedule=_schedule(spec, len(rows.examples)),
    )
    advice = "halve batch_size and double grad_accum, shorten max_length, or choose method qlora."
    with memory_errors_named(advice), deprecations_silenced():
        return _train(given, out, on_progress)


@dataclass(frozen=True)
class _Inputs:
    """What is known before any weights are loaded."""

    base: Path
    base_name: str
    base_revision: str | None
    rows: Tokenised
    held_out: Tokenised | None
    tokenizer: Any
    spec: TrainingSpec
    device: Device
    lora: LoraConfig
    schedule: Schedule


def _schedule(spec: TrainingSpec, rows: int) -> Schedule:
    steps_an_epoch = math.ceil(rows / spec.effective_batch)
    total = spec.max_steps or max(1, math.ceil(steps_an_epoch * spec.epochs))
    # All steps but one may be warm-up, so that the peak is reached.
    return Schedule(spec.schedule, min(math.ceil(spec.warmup_ratio * total), total - 1), total)


def _lora_config(spec: TrainingSpec, targets: list[str], conv1d_names: frozenset[str]) -> LoraConfig:
    return LoraConfig(
        rank=spec.rank,
        alpha=float(spec.alpha if spec.alpha is not None else 2 * spec.rank),
        dropout=spec.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        # GPT-2 holds its weights transposed, which PEFT has to be told.
        fan_in_fan_out=any(matches(name, target) for name in conv1d_names for target in targets),
    )


def _train(given: _Inputs, out: Path, on_progress: Callable[[Progress], None]) -> TrainingReport:
    spec, device = given.spec, given.device
    on_progress(Progress(phase="load", message=f"loading the base on {device.name}"))
    quantization = default_recipe(device) if spec.method == "qlora" else None
    loaded = load_base(given.base, device, quantization=quantization)
    model = _adapt(given, loaded)
    _check_equals_base(model, given.rows.examples, given.tokenizer.pad_token_id, device)
    metrics: dict[str, float] = {}
    if given.held_out is not None:
        # B is zero, so this is the loss of the bare base.
        metrics["eval_loss_base"] = _evaluate(given, model, on_progress)
    checkpointing = _needs_checkpointing(given, loaded)
    with tempfile.TemporaryDirectory(prefix="adapterctl-train-") as scratch:
        trainer = _trainer(given, model, checkpointing, scratch, on_progress)
        started = trainer.record.started = time.perf_counter()
        trainer.train()
        train_s = time.perf_counter() - started
    if device.kind == "cuda":
        torch.cuda.synchronize()
    tensors = get_peft_model_state_dict(model)
    _check_trained(tensors, spec)
    if given.held_out is not None:
        metrics["eval_loss"] = _evaluate(given, model, on_progress)
    on_progress(Progress(phase="save", message="writing the adapter"))
    write_adapter(
        out,
        tensors=tensors,
        lora=given.lora,
        base_name=given.base_name,
        base_revision=given.base_revision,
        fan_in_fan_out=given.lora.fan_in_fan_out,
    )
    record = trainer.record
    last = record.losses[-max(1, len(record.losses) // 10) :]
    metrics.update(
        # The mean over the last tenth of the steps; a single step's loss is mostly its rows.
        loss=sum(last) / len(last),
        train_s=train_s,
        tokens=float(record.tokens),
        tokens_per_s=record.tokens / train_s,
        steps=float(len(record.losses)),
        trainable_parameters=float(sum(tensor.numel() for tensor in tensors.values())),
        base_parameters=float(loaded.parameters),
        peak_memory_bytes=float(device.peak_memory_bytes()),
    )
    return TrainingReport(
        lora=given.lora,
        quantization=loaded.quantization,
        rows=len(given.rows.examples),
        supervised_tokens=given.rows.supervised_tokens,
        training=_hyperparameters(given, loaded, checkpointing),
        metrics=metrics,
        libraries=library_versions(),
        curve=_curve(record.losses, record.rates),
    )


def _adapt(given: _Inputs, loaded: LoadedBase) -> Any:
    """Put fresh matrices, A random and B zero, beside the target modules. They are in float32 on every base."""
    lora, spec = given.lora, given.spec
    set_seed(spec.seed)
    config = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        fan_in_fan_out=lora.fan_in_fan_out and loaded.quantization is None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(loaded.model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if given.device.kind == "cpu" and spec.dropout > 0:
        for module in model.modules():
            if isinstance(module, LoraLayer):
                for name in module.lora_dropout:
                    module.lora_dropout[name] = SixteenBitDropout(spec.dropout)
    return model


def _trainer(
    given: _Inputs, model: Any, checkpointing: bool, scratch: str, on_progress: Callable[[Progress], None]
) -> AdapterTrainer:
    spec = given.spec
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    fresh = {name: parameter.detach().clone() for name, parameter in trainable.items()}
    optimizer = torch.optim.AdamW(trainable.values(), lr=spec.lr, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY)
    dataset = Dataset.from_dict(
        {
            "input_ids": [example.input_ids for example in given.rows.examples],
            "labels": [example.labels for example in given.rows.examples],
        }
    )
    trainer = AdapterTrainer(
        micro_rows=spec.batch_size,
        schedule=given.schedule,
        spec=spec,
        device=given.device,
        report=on_progress,
        model=model,
        args=training_arguments(
            scratch,
            spec=spec,
            device=given.device,
            total_steps=given.schedule.total_steps,
            checkpointing=checkpointing,
        ),
        train_dataset=dataset,
        processing_class=given.tokenizer,
        data_collator=Collator(given.tokenizer.pad_token_id),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, given.schedule.share)),
    )
    # TRL rounds the matrices of a quantised base to bfloat16. Full-precision adapters are the point of QLoRA.
    for name, parameter in trainable.items():
        parameter.data = fresh[name]
    return trainer


def _check_equals_base(model: Any, examples: list[Example], pad_id: int, device: Device) -> None:
    """Check that y = W·x + s·B·(A·x) with B = 0 gives the base's logits exactly, on a batch of rows."""
    model.eval()
    shortest = sorted(examples, key=lambda example: len(example.input_ids))[:2]
    batch = next(example_batches(shortest, pad_id, 2, device.torch_device))
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
    with torch.no_grad():
        adapted = model(**inputs).logits
        with model.disable_adapter():
            bare = model(**inputs).logits
    if not torch.equal(adapted, bare):
        raise PipelineError(
            Reason.UNTRAINED,
            f"The fresh adapter changes the base's logits by up to {float((adapted - bare).abs().max()):g} before any"
            " training; report this base and these library versions.",
        )


def _check_trained(tensors: dict[str, Any], spec: TrainingSpec) -> None:
    infinite = sorted(name for name, tensor in tensors.items() if not bool(tensor.isfinite().all()))
    if infinite:
        raise diverged(spec, f"{len(infinite)} adapter matrices are not finite (first: {infinite[0]})")
    zero = zero_matrices(tensors)
    if zero:
        raise PipelineError(
            Reason.UNTRAINED,
            f"{len(zero)} matrices B of the trained adapter are all zero (first: {zero[0]}), so it changes nothing;"
            " raise lr or the number of steps.",
        )


def _evaluate(given: _Inputs, model: Any, on_progress: Callable[[Progress], None]) -> float:
    """Return the held-out loss in nats a supervised token."""
    assert given.held_out is not None
    examples, rows, loss = given.held_out.examples, given.spec.batch_size, math.nan
    model.eval()
    pad_id = given.tokenizer.pad_token_id
    running = mean_loss(model, examples, pad_id, rows, given.device.torch_device)
    for batch, loss in enumerate(running, start=1):  # noqa: B007  # the last running mean is the result
        done = min(batch * rows, len(examples))
        on_progress(Progress(phase="evaluate", step=done, total=len(examples), unit="rows"))
    if not math.isfinite(loss):
        raise diverged(given.spec, f"the held-out loss is {loss}")
    return loss


def _needs_checkpointing(given: _Inputs, loaded: LoadedBase) -> bool:
    """Say whether the activations of the longest forward pass would not fit, so that they are computed twice.

    Per token and layer some 18 vectors of the hidden size and 6 of the MLP's are kept for the backward pass, and the
    adapters' float32 inputs, 4 more in 16 bit; attention keeps no (seq, seq) matrix. The logits count in 16 bit once
    and in float32 twice. This is an upper estimate for Llama's kin, and only chooses between speed and memory.
    """
    config = loaded.model.config.get_text_config()
    lengths = sorted((len(example.input_ids) for example in given.rows.examples), reverse=True)
    tokens = lengths[0] * min(given.spec.batch_size, len(lengths))
    width = torch.finfo(DTYPES[loaded.dtype]).bits // 8
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    layers = config.num_hidden_layers
    activations = tokens * layers * (18 * hidden + 6 * inner + 8 * hidden) * width
    logits = tokens * config.vocab_size * (width + 8)
    return bool(activations + logits > _ACTIVATION_SHARE * given.device.available_memory_bytes())


def _hyperparameters(given: _Inputs, loaded: LoadedBase, checkpointing: bool) -> dict[str, JsonScalar]:
    """Return every number that the result depends on, flat."""
    spec, lora = given.spec, given.lora
    return {
        "method": spec.method,
        "rank": lora.rank,
        "alpha": lora.alpha,
        "dropout": lora.dropout,
        "targets": spec.targets,
        "loss_on": given.rows.loss_on,
        "epochs": None if spec.max_steps else spec.epochs,
        "max_steps": spec.max_steps,
        "total_steps": given.schedule.total_steps,
        "warmup_steps": given.schedule.warmup_steps,
        "warmup_ratio": spec.warmup_ratio,
        "schedule": spec.schedule,
        "lr": spec.lr,
        "batch_size": spec.batch_size,
        "grad_accum": spec.grad_accum,
        "effective_batch": spec.effective_batch,
        "max_length": longest_row(given.base, spec.max_length),
        "rows_cut": given.rows.cut,
        "rows_dropped": given.rows.dropped,
        "seed": spec.seed,
        "optimizer": "adamw",
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON,
        "weight_decay": WEIGHT_DECAY,
        "max_grad_norm": MAX_GRAD_NORM,
        "gradient_checkpointing": checkpointing,
        "base_weights": loaded.held,
        "device": given.device.kind,
        "device_name": given.device.name,
        "dtype": loaded.dtype,
        "adapter_dtype": "float32",
        "threads": torch.get_num_threads() if given.device.kind == "cpu" else None,
    }


def _curve(losses: list[float], rates: list[float]) -> list[LossPoint]:
    """Return the loss of each step, thinned to `_CURVE_POINTS` points, the last step always among them."""
    every = math.ceil(len(losses) / _CURVE_POINTS)
    kept = sorted({*range(0, len(losses), every), len(losses) - 1})
    return [LossPoint(step=index + 1, loss=losses[index], lr=rates[index]) for index in kept]
