"""The callbacks of transformers' Trainer, such as a tracker's, beside a training that has its own loop.

They are called for its steps. What they request in return, such as a stop, is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from workers.pipelines.training.loop import AdapterState, Shared


@contextmanager
def reporting_to(
    callbacks: Sequence[TrainerCallback], shared: Shared, adapter: AdapterState, *, rows: int
) -> Iterator[Callable[[], None]]:
    """Call callbacks at the beginning and the end of a training; yield a function that calls them after each step.

    An epoch has `rows` rows. After an error there is no `on_train_end`, as in the Trainer.
    """
    if not callbacks:
        yield lambda: None
        return
    spec, record = adapter.spec, adapter.record
    arguments = TrainingArguments(
        per_device_train_batch_size=spec.effective_batch,
        max_steps=adapter.schedule.total_steps,
        learning_rate=spec.lr,
        seed=spec.seed,
        report_to="none",
        disable_tqdm=True,
        # Otherwise it would take the accelerator's state away.
        accelerator_config={"use_configured_state": True},
        use_cpu=shared.device.kind == "cpu",
    )
    control = TrainerControl()
    state = TrainerState(global_step=adapter.step, max_steps=adapter.schedule.total_steps)

    def call(event: str, **details: Any) -> None:
        for callback in callbacks:
            getattr(callback, event)(arguments, state, control, model=shared.model, **details)

    def step() -> None:
        state.global_step, state.epoch = adapter.step, adapter.step / math.ceil(rows / spec.effective_batch)
        call("on_step_end")
        logs = {"loss": record.losses[-1], "learning_rate": record.rates[-1], "epoch": state.epoch}
        state.log_history.append({**logs, "step": adapter.step})
        call("on_log", logs=logs)

    call("on_train_begin")
    yield step
    call("on_train_end")
