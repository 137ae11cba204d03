"""Memory running out outside a step's passes, where the ladder doesn't help: what helps there is done, or named."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from sdk.schemas.failures import FailureReason
from sdk.schemas.training import TrainingSpec
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.device import give_back, is_out_of_memory, memory_errors_named

_Found = TypeVar("_Found")

#: What keeps less memory on a card, by the current optimiser.
_SMALLER = {
    "adamw": "choose optim adamw_8bit, which keeps a quarter of that, or paged_adamw_8bit, whose state can move to main memory",
    "paged_adamw": "choose optim paged_adamw_8bit, which keeps a quarter of that",
    "adamw_8bit": "choose optim paged_adamw_8bit, whose state can move to main memory",
    "schedule_free_adamw": "choose optim lion, which keeps half of that, or adafactor, which keeps hardly any",
}
_FEWER = "lower rank, or choose fewer targets"


def looked_twice(look: Callable[[], _Found]) -> _Found:
    """Return the result of `look`, which has no side effects. If memory runs out, it is tried once more after freeing
    caches.
    """
    try:
        return look()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler the error no longer keeps tensors alive.
    give_back()
    return look()


def before_the_first_step(spec: TrainingSpec) -> Any:
    """Name what helps, as a PipelineError ("oom"), where memory runs out in the block before anything of a step was computed."""
    smaller = "method qlora, a smaller base" if spec.method != "qlora" else "a smaller base"
    by_rows = spec.init_lora_weights == "eva"
    return memory_errors_named(
        "this was before the first step, when the base was loaded"
        + (", the adapter began by the rows" if by_rows else "")
        + " or the model was tested on a few tokens"
        + (
            "; leave out init_lora_weights eva, or choose "
            if by_rows
            else ", where shorter or fewer rows don't help; choose "
        )
        + f"{smaller} or a machine with more memory."
    )


def smaller_optimizer(trained: Iterable[Any], spec: TrainingSpec) -> str:
    """Name what takes less if memory runs out in a step of the optimiser of these parameters.

    Some of them have taken the step by then, and others not, so that it can't be taken again.
    """
    shapes, on_card = zip(*((tuple(parameter.shape), parameter.is_cuda) for parameter in trained), strict=True)
    advice = (
        f"{_SMALLER[spec.optimizer.name]}, or {_FEWER}" if any(on_card) and spec.optimizer.name in _SMALLER else _FEWER
    )
    state_bytes = sum(map(spec.optimizer.state_bytes, shapes))
    needs = f"{state_bytes / 2**20:,.1f} MiB for {sum(map(math.prod, shapes)):,} trained numbers"
    return f"this was in a step of the optimiser {spec.optimizer.name}, which keeps {needs}; {advice}."


@contextlib.contextmanager
def after_the_last_step(keep: Callable[[], int]) -> Iterator[None]:
    """Let `keep` write a checkpoint of a training that has all its steps, and return its step, where memory runs out in
    the block. Raises PipelineError ("oom") then.
    """
    try:
        yield
        return
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        failed = PipelineError(FailureReason.OOM, "Memory ran out in the last look at the trained adapter.")
    except PipelineError as error:
        if error.reason is not FailureReason.OOM:
            raise
        failed = PipelineError(error.reason, error.message)
    # Outside the handler the error no longer keeps tensors alive.
    give_back()
    try:
        step = keep()
    except (OSError, PipelineError) as error:
        # What comes after it must not hide it.
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise PipelineError(
            failed.reason, f"{failed.message} No checkpoint could be kept of it either: {said}"
        ) from None
    failed.message += (
        f" All steps are done, and the checkpoint of step {step} is kept: a retry of the job only has the last look left,"
        " so let it go on where more memory is free."
    )
    raise PipelineError(failed.reason, failed.message)
