"""The common script as far as its first step: prints `step 1` once that is taken, and may then be ended.

python benchmarks/first_step_script.py BASE TRAIN.jsonl OUT STEPS LR
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from transformers import TrainerCallback, TrainingArguments, trainer


class _SaySo(TrainerCallback):  # type: ignore[misc]  # transformers' types are not followed
    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Called by the trainer after each optimiser step."""
        if state.global_step == 1:
            print("step 1", flush=True)


def _of_one_row(**given: Any) -> TrainingArguments:
    return TrainingArguments(**{**given, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1})


if __name__ == "__main__":
    script: Any = importlib.import_module("common_script")
    # It makes its trainer by itself; each trainer has these.
    trainer.DEFAULT_CALLBACKS.append(_SaySo)
    script.TrainingArguments = _of_one_row
    base, train, out, steps, lr = sys.argv[1:]
    script.main(base, train, out, int(steps), float(lr))
