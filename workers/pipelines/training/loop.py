"""The loop of a training. Each step computes an effective batch in parts, and then changes one adapter.

`Shared` belongs to all adapters over a base, `AdapterState` to one. Rows are taken in the same order on every machine:

>>> [rows for _, rows in zip(range(3), shuffled(3, batch=2, seed=0))]
[[2, 0], [1], [0, 2]]
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from safetensors.torch import load_file
from transformers import set_seed

from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.schemas.failures import FailureReason
from sdk.schemas.series import OF_STEPS, Point
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.objective import Batch, Objective, Passes
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import fill, own_tensors
from workers.pipelines.model.device import Device, is_out_of_memory, memory_errors_named
from workers.pipelines.training.checkpoints import GENERATORS_NAME, OPTIMIZER_NAME, Resumed, broken_checkpoint
from workers.pipelines.training.fitting import Fitting
from workers.pipelines.training.optimising import Schedule, diverged, optimizer_of
from workers.pipelines.training.row_means import ROW, RowMeans, StepLosses, StepRowLosses
from workers.pipelines.training.short_of_memory import smaller_optimizer
from workers.pipelines.training.states import generator_states, restore_generators, restore_optimizer, set_generators
from workers.pipelines.training.update_size import lost_scale

#: The number of this loop: raised with each change after which the same training gives other bytes.
LOOP = 1


@dataclass
class StepRecord:
    """What the steps so far have measured."""

    #: Mean loss of each step, in what its objective says.
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    #: What else each step measured, by the name of its series; None where it is not a number.
    measured: dict[str, list[float | None]] = field(default_factory=dict)
    #: Number of tokens without padding.
    tokens: int = 0
    #: The losses of single rows, if they are counted.
    rows: RowMeans | None = None
    #: The peak of memory before the last look, the peak of looks, and their seconds in this process.
    peak_bytes: int = 0
    look_peak_bytes: int = 0
    looked_s: float = 0.0
    #: The step of the checkpoint from which this process resumed.
    resumed_from: int | None = None
    #: Seconds of the previous processes.
    earlier_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def points(self, after: int) -> list[Point]:
        """Return the points of the steps after one of them."""
        series: dict[str, Sequence[float | None]] = {"loss": self.losses, "lr": self.rates, **self.measured}
        return [
            Point(
                step=number + 1,
                values={name: value for name, column in series.items() if (value := column[number]) is not None},
            )
            for number in range(after, len(self.losses))
        ]

    def train_s(self) -> float:
        """Return the seconds of training until now, over all processes that took part, without looks at held-out rows."""
        return self.earlier_s + time.perf_counter() - self.started - self.looked_s


@dataclass(frozen=True)
class Shared:
    """What all adapters over one base are trained with."""

    #: The PeftModel, on the device.
    model: Any
    #: Has the gradient scaler, and knows of other processes.
    accelerator: Any
    objective: Objective
    fitting: Fitting
    device: Device


@dataclass
class AdapterState:
    """All that the steps of one adapter change."""

    spec: TrainingSpec
    schedule: Schedule
    #: The trained parameters by name.
    parameters: dict[str, Any]
    optimizer: Any
    #: Names of the parameters that no gradient has reached yet.
    unreached: list[str]
    record: StepRecord = field(default_factory=StepRecord)
    #: Steps of the optimiser, which the learning rate follows; a gradient scaler skips some.
    taken: int = 0

    @property
    def step(self) -> int:
        """The number of steps so far."""
        return len(self.record.losses)

    @property
    def rate(self) -> float:
        """The learning rate of the next step, for the first group of parameters."""
        return self.spec.lr * self.schedule.share(self.taken)


def begin(
    model: Any, *, objective: Objective, fitting: Fitting, device: Device, spec: TrainingSpec, schedule: Schedule
) -> tuple[Shared, AdapterState]:
    """Prepare a PeftModel with fresh matrices for its first step, and all random generators by the seed."""
    config = model.config.get_text_config()
    config.use_cache = False
    if hasattr(config, "output_router_logits"):
        # Experts' routers aren't part of the loss here. Their logits would keep everything alive that is computed twice.
        config.output_router_logits = False
    # Without autocast the adapters are computed in float32; the base brings its own 16-bit weights. Only float16, whose
    # gradients vanish below 6e-8, needs it and a gradient scaler.
    scaled = device.kind == "cuda" and device.compute_dtype == "float16"
    accelerator = Accelerator(
        cpu=device.kind == "cpu",
        mixed_precision="fp16" if scaled else "no",
        # Without it, a variable of the environment could divide the loss.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    model, optimizer = accelerator.prepare(model, optimizer_of(parameters, spec))
    set_seed(spec.seed)
    return (
        Shared(model, accelerator, objective, fitting, device),
        AdapterState(spec, schedule, parameters, optimizer, unreached=list(parameters)),
    )


def resume(shared: Shared, adapter: AdapterState, resumed: Resumed) -> None:
    """Put an adapter, and all random generators, where they were at a checkpoint. Raises PipelineError ("checkpoint")."""
    folder, was, scaler = resumed.folder, resumed.record, shared.accelerator.scaler
    stored = load_file(folder / WEIGHTS_FILE)
    matrices = own_tensors(shared.model)
    if {name: each.shape for name, each in stored.items()} != {name: each.shape for name, each in matrices.items()}:
        raise broken_checkpoint(f"the matrices in {WEIGHTS_FILE} are not those of this adapter")
    fill(shared.model, stored)
    try:
        restore_optimizer(load_file(folder / OPTIMIZER_NAME), resumed.standing.numbers, adapter.optimizer)
    except ValueError as error:
        raise broken_checkpoint(f"{OPTIMIZER_NAME} is of another optimiser ({error})") from error
    if was.scaler and scaler is not None:
        scaler.load_state_dict(was.scaler)
    columns = {name: list(was.measured.get(name) or [None] * was.step) for name in OF_STEPS[2:]}
    adapter.record = StepRecord(
        list(was.losses), list(was.rates), columns, was.tokens, resumed_from=was.step, earlier_s=was.train_s
    )
    adapter.unreached = [name for name in adapter.parameters if name in was.unreached]
    adapter.taken = resumed.standing.last_epoch
    restore_generators(resumed.standing, load_file(folder / GENERATORS_NAME))


def run(
    shared: Shared,
    adapter: AdapterState,
    *,
    rows: int,
    collate: Callable[[Sequence[int]], Batch],
    after_step: Callable[[], bool],
) -> None:
    """Take the steps that are left, until `after_step` returns that the training ends; `collate` makes an effective batch of
    rows, of which an epoch has `rows`.
    """
    spec, left = adapter.spec, adapter.schedule.total_steps - adapter.step
    order = shuffled(rows, batch=spec.effective_batch, seed=spec.seed, start=adapter.step)
    with noise(shared.model, spec.neftune_noise_alpha):
        for batch in itertools.islice(order, left):
            take_step(shared, adapter, collate(batch))
            if after_step():
                break


def shuffled(rows: int, *, batch: int, seed: int, start: int = 0) -> Iterator[list[int]]:
    """Yield the rows of each step from step `start` on, without end. The last step of an epoch may have fewer.

    An order takes 4 bytes per row; it is that of accelerate's SeedableRandomSampler.
    """
    steps = math.ceil(rows / batch)
    for epoch in itertools.count(start // steps):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch), dtype=torch.int32)
        for step in range(max(0, start - epoch * steps), steps):
            yield order[step * batch : (step + 1) * batch].tolist()


@contextlib.contextmanager
def noise(model: Any, alpha: float | None) -> Iterator[None]:
    """NEFTune (arXiv:2310.05914): in training, add noise to embeddings, uniform within ±α/√(length · dimension)."""
    if alpha is None:
        yield
        return

    def add(module: Any, _inputs: Any, embedded: Any) -> Any:
        if not module.training:
            return embedded
        most = alpha / math.sqrt(embedded.shape[1] * embedded.shape[2])
        return embedded + torch.empty_like(embedded).uniform_(-most, most)

    hook = model.get_base_model().get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def take_step(shared: Shared, adapter: AdapterState, batch: Batch) -> None:
    """Change an adapter by one effective batch; its tensors are (batch, seq), the longest row first.

    It is computed in parts of rows of similar length, as large as `fitting` says, and the sum of their gradients is
    normalised once by what its objective counts in the whole step, so the split affects memory and speed but not what is
    learnt. If memory runs out, the step is repeated in smaller parts. Raises PipelineError ("diverged",
    "untrained", "oom").
    """
    model, spec, record, number = shared.model, adapter.spec, adapter.record, adapter.step + 1
    began = time.perf_counter()
    model.train()
    numbers = sorted(batch[ROW].tolist()) if ROW in batch else []
    batch = {name: tensor.to(shared.device.torch_device) for name, tensor in batch.items()}
    generators = generator_states()
    while (found := _add_gradients(shared, batch, spec.seed + number)) is None:
        shared.fitting.lower(model, f"step {number}")
        adapter.optimizer.zero_grad()
        set_generators(generators)
    if not math.isfinite(found.mean):
        raise diverged(spec, f"the loss is {found.mean} at step {number}")
    _watch_gradients(adapter, model)
    # Without an end to which it is clipped, it is only measured.
    norm = float(shared.accelerator.clip_grad_norm_(adapter.parameters.values(), spec.max_grad_norm or math.inf))
    rate = adapter.rate
    for group in adapter.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * adapter.schedule.share(adapter.taken)
    with memory_errors_named(smaller_optimizer(adapter.parameters.values(), spec)):
        adapter.optimizer.step()
    adapter.taken += not adapter.optimizer.step_was_skipped
    adapter.optimizer.zero_grad()
    record.losses.append(found.mean)
    if record.rows is not None and found.rows:
        record.rows.add(numbers, found.rows)
    record.rates.append(rate)
    tokens = int(batch["attention_mask"].sum())
    record.tokens += tokens
    measured = {
        "grad_norm": norm if math.isfinite(norm) else None,
        "tokens": tokens,
        "seconds": time.perf_counter() - began,
        "memory_bytes": max(record.peak_bytes, shared.device.peak_memory_bytes()),
    }
    for name, value in measured.items():
        record.measured.setdefault(name, []).append(value)


def _add_gradients(shared: Shared, batch: Batch, seed: int) -> StepLosses | None:
    """Add the gradients of one effective batch; return its losses, or None if memory ran out, with nothing kept alive."""
    loss = torch.zeros((), device=shared.device.torch_device)
    objective, fitting = shared.objective, shared.fitting
    try:
        sums = StepRowLosses(batch)
        step = objective.of_step(shared.model, batch, Passes(fitting.parts, fitting.losses, seed))
        for part in fitting.parts(batch, objective.sequences):
            with fitting.saving():
                share = objective.loss(shared.model, part, step, sums.of(fitting.losses))
            shared.accelerator.backward(share)
            loss += share.detach()
        return sums.found(loss)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _watch_gradients(adapter: AdapterState, model: Any) -> None:
    """Check that gradients reach each matrix: each B on the first step, each A as soon as its B is not zero.

    dL/dA = s·Bᵀ·(dL/dy)·xᵀ is zero by construction while B is. Trained tokens may occur only in later rows.
    """
    trained = adapter.parameters
    adapter.unreached = [
        name for name in adapter.unreached if (gradient := trained[name].grad) is None or not bool(gradient.any())
    ]
    missed = [
        name
        for name in adapter.unreached
        if "trainable_tokens" not in name
        and ("lora_A" not in name or bool(trained[name.replace("lora_A", "lora_B")].any()))
    ]
    if missed:
        why = lost_scale(model)
        what_to_do = "leave these modules out of the targets, or report this base and these library versions"
        raise PipelineError(
            FailureReason.UNTRAINED,
            f"No gradient reaches {len(missed)} of {len(trained)} adapter matrices (first: {missed[0]})"
            + (f"; {what_to_do}." if why is None else f", since {why}."),
        )
