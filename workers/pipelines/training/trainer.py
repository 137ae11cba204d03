"""TRL's SFT trainer, with the whole optimiser step in one batch and its checks made while it runs."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import Batch, Objective
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.device import Device, give_pages_back, is_out_of_memory
from workers.pipelines.training.checkpoints import GENERATORS_NAME, OPTIMIZER_NAME, Resumed, broken_checkpoint
from workers.pipelines.training.fitting import Fitting
from workers.pipelines.training.optimising import Schedule, diverged
from workers.pipelines.training.states import (
    States,
    generator_states,
    restore_generators,
    restore_optimizer,
    restore_schedule,
    set_generators,
    states_of,
)

_PART_ROWS = 1 << 16


class ShuffledRows(torch.utils.data.Sampler[int]):  # type: ignore[misc]  # torch's types are not followed
    """The numbers of all rows, shuffled as by accelerate's SeedableRandomSampler.

    That one makes a list of Python integers for each order, 40 bytes per row; here a row takes 4.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; called before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[int]:
        seeded = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(self._rows, generator=seeded, dtype=torch.int32)
        for part in order.split(_PART_ROWS):
            yield from part.tolist()
        self._epoch += 1


@dataclass
class StepRecord:
    """What the steps so far have measured."""

    #: Mean loss of each step in nats per supervised token, label or preference.
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    #: Number of tokens without padding.
    tokens: int = 0
    #: The step of the checkpoint from which this process resumed.
    resumed_from: int | None = None
    #: Seconds of the previous processes.
    earlier_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def train_s(self) -> float:
        """Return the seconds of training until now, over all processes that took part."""
        return self.earlier_s + time.perf_counter() - self.started


class AdapterTrainer(SFTTrainer):  # type: ignore[misc]  # TRL ships no types
    """Trains an adapter over already tokenised rows; the `data_collator` gets their numbers.

    The trainer's batch is the effective batch. `training_step` computes it in parts of rows of similar length, as large
    as `fitting` says, and sums their gradients, normalised once by the supervised tokens, or the labels, of the whole
    step, so the split affects memory and speed but not what is learnt. If memory runs out in a step, the step is
    repeated in smaller parts.
    """

    def __init__(
        self,
        *,
        rows: int,
        objective: Objective,
        fitting: Fitting,
        schedule: Schedule,
        spec: TrainingSpec,
        device: Device,
        report: Any,
        after_step: Any,
        **options: Any,
    ) -> None:
        # It accepts only a table, and makes two more of it: 24 bytes per row.
        super().__init__(train_dataset=Dataset.from_dict({"row": [0]}), **options)
        self.train_dataset = range(rows)
        self._objective = objective
        self._fitting = fitting
        self._schedule = schedule
        self._spec = spec
        self._device = device
        self._report: Callable[[Progress], None] = report
        self._after_step: Callable[[AdapterTrainer], None] = after_step
        self._resumed: Resumed | None = None
        self._reached: dict[str, bool] = {
            name: False for name, parameter in self.model.named_parameters() if parameter.requires_grad
        }
        self.record = StepRecord()
        # Otherwise its table of losses would go to stdout.
        self.remove_callback(PrinterCallback)
        self.add_callback(_StepEnd(self))

    def _send_telemetry(self) -> None:
        """Send nothing: trainings don't report to anybody outside."""

    def _get_train_sampler(self, train_dataset: Any = None) -> ShuffledRows:
        """Called by the trainer once: its own sampler would keep the numbers of all rows in a list."""
        return ShuffledRows(len(self.train_dataset), self._spec.seed)

    def run(self, resumed: Resumed | None) -> None:
        """Take all steps, or those left when the checkpoint `resumed` was written."""
        self._resumed = resumed
        self.record = StepRecord()
        if resumed is None:
            self.train()
            return
        was = resumed.record
        self.record = StepRecord(list(was.losses), list(was.rates), was.tokens, was.step, was.train_s)
        self._reached = {name: name not in was.unreached for name in self._reached}
        if was.step < was.total:
            self.train(resume_from_checkpoint=str(resumed.folder))
        else:
            # The trainer doesn't support a training without steps, and would take one more.
            self._load_from_checkpoint(str(resumed.folder))

    def states(self) -> States:
        """Return what a checkpoint keeps of the optimiser, the schedule and the random generators."""
        return states_of(self.optimizer, self.lr_scheduler)

    def unreached(self) -> list[str]:
        """Return the names of the adapter matrices that no gradient has reached yet."""
        return sorted(name for name, reached in self._reached.items() if not reached)

    def scaler_state(self) -> dict[str, int | float] | None:
        """Return the state of the gradient scaler, if there is one."""
        return self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Called by the trainer before the first step: fill each matrix, in float32, from a checkpoint's adapter."""
        stored = load_file(Path(resume_from_checkpoint) / WEIGHTS_FILE)
        matrices = get_peft_model_state_dict(self.model)
        if _shapes(stored) != _shapes(matrices):
            raise broken_checkpoint(f"the matrices in {WEIGHTS_FILE} are not those of this adapter")
        for name, matrix in matrices.items():
            matrix.copy_(stored[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called by the trainer before the first step: its own reader would accept pickles."""
        if checkpoint is not None and self._resumed is not None:
            restore_optimizer(load_file(Path(checkpoint) / OPTIMIZER_NAME), self.optimizer)
            restore_schedule(self._resumed.standing, self.lr_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called by the trainer after skipping the rows that were trained on."""
        if checkpoint is not None and self._resumed is not None:
            restore_generators(self._resumed.standing, load_file(Path(checkpoint) / GENERATORS_NAME))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Called by the trainer before the first step: our own record keeps the gradient scaler."""
        if self._resumed and self._resumed.record.scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(self._resumed.record.scaler)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Add the gradients of one effective batch; return its mean loss, a float32 scalar.

        `inputs` are (batch, seq), the longest row first. Raises PipelineError ("diverged", "untrained").
        """
        model.train()
        # Passes have many lengths, so memory freed by one has gaps that the next one doesn't fill.
        if self._device.kind == "cpu":
            give_pages_back()
        inputs = self._prepare_inputs(inputs)
        counted = self._objective.counted(inputs)
        generators = generator_states()
        while (loss := self._add_gradients(model, inputs, counted)) is None:
            self._fitting.lower(model, f"step {self.state.global_step + 1}")
            model.zero_grad(set_to_none=True)
            set_generators(generators)
        value = float(loss)
        if not math.isfinite(value):
            raise diverged(self._spec, f"the loss is {value} at step {self.state.global_step + 1}")
        self._watch_gradients(model)
        self.record.losses.append(value)
        self.record.rates.append(self._spec.lr * self._schedule.share(self.state.global_step))
        self.record.tokens += int(inputs["attention_mask"].sum())
        return loss

    def _add_gradients(self, model: Any, inputs: Batch, counted: int) -> Any | None:
        """Add the gradients of one effective batch; return its mean loss, or None if memory ran out, with nothing kept
        alive.
        """
        loss = torch.zeros((), device=self._device.torch_device)
        try:
            for part in self._fitting.parts(inputs, self._objective.sequences):
                with self._fitting.saving():
                    share = self._objective.loss_sum(model, part, self._fitting.losses) / counted
                self.accelerator.backward(share)
                loss += share.detach()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        return loss

    def end_step(self) -> None:
        """Report progress after a step, and call the callback for each step."""
        step, total = self.state.global_step, self._schedule.total_steps
        elapsed = self.record.train_s()
        self._report(
            Progress(
                phase="train",
                step=step,
                total=total,
                loss=self.record.losses[-1],
                lr=self.record.rates[-1],
                tokens_per_s=self.record.tokens / elapsed,
                memory_bytes=self._device.peak_memory_bytes(),
                eta_s=elapsed / step * (total - step),
            )
        )
        self._after_step(self)

    def _watch_gradients(self, model: Any) -> None:
        """Check that gradients reach each matrix: each B on the first step, each A as soon as its B is not zero.

        dL/dA = s·Bᵀ·(dL/dy)·xᵀ is zero by construction while B is. Trained tokens may occur only in later rows.
        """
        if all(self._reached.values()):
            return
        parameters = dict(model.named_parameters())
        for name, reached in self._reached.items():
            gradient = parameters[name].grad
            self._reached[name] = reached or (gradient is not None and bool(gradient.any()))
        missed = [
            name
            for name, reached in self._reached.items()
            if not reached
            and "trainable_tokens" not in name
            and ("lora_A" not in name or bool(parameters[name.replace("lora_A", "lora_B")].any()))
        ]
        if missed:
            raise PipelineError(
                FailureReason.UNTRAINED,
                f"No gradient reaches {len(missed)} of {len(self._reached)} adapter matrices (first: {missed[0]});"
                " leave these modules out of the targets, or report this base and these library versions.",
            )


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


class _StepEnd(TrainerCallback):  # type: ignore[misc]  # transformers' types are not followed
    """Ends each step once the optimiser has taken it."""

    def __init__(self, trainer: AdapterTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Called by the trainer after each optimiser step."""
        self._trainer.end_step()


def training_arguments(scratch: str, *, spec: TrainingSpec, device: Device, total_steps: int) -> Any:
    """Return the SFTConfig of a run: nothing is saved, logged, reported or sent by the trainer itself."""
    arguments = SFTConfig(
        output_dir=scratch,
        per_device_train_batch_size=spec.effective_batch,
        gradient_accumulation_steps=1,
        max_steps=total_steps,
        max_length=None,
        learning_rate=spec.lr,
        max_grad_norm=spec.max_grad_norm,
        neftune_noise_alpha=spec.neftune_noise_alpha,
        # Experts' routers aren't part of the loss here. Their logits, which would be returned, would keep everything
        # alive that is computed twice.
        router_aux_loss_coef=0.0,
        # The model itself is told when it is needed.
        gradient_checkpointing=False,
        # Without autocast the adapters are computed in float32; the base brings its own 16-bit weights. Only
        # float16, whose gradients vanish below 6e-8, needs the scaler that comes with its flag.
        bf16=False,
        fp16=device.kind == "cuda" and device.compute_dtype == "float16",
        use_cpu=device.kind == "cpu",
        seed=spec.seed,
        data_seed=spec.seed,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        # The dataset is the numbers of rows.
        remove_unused_columns=False,
    )
    # Reading the device fixes the number of GPUs; otherwise the trainer would wrap all of them in DataParallel.
    with contextlib.suppress(AttributeError):
        assert arguments.device is not None
        arguments._n_gpu = min(arguments._n_gpu, 1)
    return arguments
