"""What options are called elsewhere: by PEFT, transformers, TRL, Axolotl and the model hub's tools."""

from __future__ import annotations

from collections.abc import Collection

#: By the name that somebody may know, ours.
OTHER_NAMES = {
    "--base-model": "--base",
    "--batch": "--batch-size",
    "--bs": "--batch-size",
    "--dataset": "--data",
    "--dataset-path": "--data",
    "--eval-dataset": "--eval-data",
    "--eval-file": "--eval-data",
    "--eval-steps": "--eval-every",
    "--force": "--yes",
    "--gradient-accumulation": "--grad-accum",
    "--gradient-accumulation-steps": "--grad-accum",
    "--json": "--format json",
    "--learning-rate": "--lr",
    "--lora-alpha": "--alpha",
    "--lora-dropout": "--dropout",
    "--lora-r": "--rank",
    "--lora-rank": "--rank",
    "--lora-target-modules": "--targets",
    "--lr-scheduler-type": "--schedule",
    "--max-seq-len": "--max-length",
    "--max-seq-length": "--max-length",
    "--max-tokens": "--max-new-tokens",
    "--micro-batch-size": "--batch-size",
    "--model": "--base",
    "--model-name-or-path": "--base",
    "--num-epochs": "--epochs",
    "--num-train-epochs": "--epochs",
    "--optimizer": "--optim",
    "--out": "--output",
    "--output-dir": "--output",
    "--per-device-train-batch-size": "--batch-size",
    "--quiet": "--format quiet",
    "--r": "--rank",
    "--resume-from-checkpoint": "--from-checkpoint",
    "--save-steps": "--checkpoint-every",
    "--sequence-len": "--max-length",
    "--steps": "--max-steps",
    "--target-modules": "--targets",
    "--test-dataset": "--test-data",
    "--train-data": "--data",
    "--train-file": "--data",
    "--val-data": "--eval-data",
    "--val-set-size": "--holdout",
    "--warmup": "--warmup-ratio",
}


def ours(option: str, known: Collection[str]) -> str | None:
    """Return what an option is called here, if a command that knows some options has it.

    >>> ours("--learning_rate", ["--lr"]), ours("--learning-rate", ["--rank"])
    ('--lr', None)
    """
    name = OTHER_NAMES.get(option.partition("=")[0].replace("_", "-"))
    return name if name is not None and name.split()[0] in known else None
