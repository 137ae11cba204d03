"""Read a checkpoint back: nothing in it is executed, and what is broken, or of another training, is refused by name."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file
from transformers import TrainerState

from sdk.schemas.training import JsonScalar, TrainingReport, TrainingSpec
from workers.pipelines.adapters import CONFIG_NAME, WEIGHTS_NAME
from workers.pipelines.checkpoints import (
    FILES,
    GENERATORS_NAME,
    OPTIMIZER_NAME,
    RECORD_NAME,
    REPORT_NAME,
    SCHEDULER_NAME,
    STATE_NAME,
    Record,
    Resumed,
    broken_checkpoint,
)
from workers.pipelines.errors import PipelineError, Reason
from workers.pipelines.trainer import Schedule, optimizer_and_scheduler

#: What a configuration calls things, in words; settings of the spec are their own words.
_WORDS = {
    "base": "the base's name",
    "base_revision": "the base's revision",
    "base_config": "the base's config",
    "data": "the rows",
    "tokens": "the rows' tokens",
    "eval_data": "the held-out rows",
    "target_modules": "the target modules",
}
#: Digests, which tell nobody anything.
_UNREADABLE = frozenset({"base_config", "data", "tokens", "eval_data"})
_MOST_DIFFERENCES = 5
#: Words in the state of numpy's generator, a Mersenne twister.
_TWISTER_WORDS = 624


def read_checkpoint(
    folder: Path, *, configuration: Mapping[str, JsonScalar], spec: TrainingSpec, schedule: Schedule
) -> Resumed:
    """Check a checkpoint whole, and that it is one of the training that `configuration` describes.

    Its pickled files are read by torch's restricted reader, which builds tensors and plain values and runs nothing.
    Raises PipelineError ("checkpoint").
    """
    check_files(folder)
    record = _read_record(folder)
    if record.configuration != configuration:
        raise PipelineError(
            Reason.CHECKPOINT,
            f"The checkpoint of step {record.step} was written by a training that differs in"
            f" {_differences(record.configuration, configuration)}; submit this one again from its beginning.",
        )
    if record.total != schedule.total_steps:
        raise broken_checkpoint(f"{RECORD_NAME} counts {record.total} steps in all, not {schedule.total_steps}")
    _check_states(folder, record, spec, schedule)
    return Resumed(folder, record)


def check_files(folder: Path) -> None:
    """Check that a folder holds a checkpoint's files, all of them plain files, and nothing else."""
    try:
        found = {path.name: path for path in folder.iterdir()}
    except OSError as error:
        raise broken_checkpoint(f"its folder can't be read ({error.strerror})") from error
    odd = sorted(found.keys() ^ FILES)
    if odd:
        raise broken_checkpoint(f"{odd[0]} {'is missing' if odd[0] in FILES else 'does not belong there'}")
    linked = sorted(name for name, path in found.items() if path.is_symlink() or not path.is_file())
    if linked:
        raise broken_checkpoint(f"{linked[0]} is no plain file")


def _read_record(folder: Path) -> Record:
    with _read(RECORD_NAME):
        record = Record.model_validate_json((folder / RECORD_NAME).read_bytes())
    with _read(REPORT_NAME):
        TrainingReport.model_validate_json((folder / REPORT_NAME).read_bytes())
    return record


def _check_states(folder: Path, record: Record, spec: TrainingSpec, schedule: Schedule) -> None:
    with _read(CONFIG_NAME):
        _require(isinstance(json.loads((folder / CONFIG_NAME).read_bytes()), dict), "it is no JSON object")
    with _read(WEIGHTS_NAME):
        adapter = load_file(folder / WEIGHTS_NAME)
        for name, tensor in adapter.items():
            _check_tensor(name, tensor, tensor.shape)
    optimizer, scheduler = optimizer_and_scheduler([torch.nn.Parameter(torch.zeros(1))], spec, schedule)
    # A gradient scaler skips steps; without one each step was taken.
    fewest = record.step if record.scaler is None else 0
    with _read(SCHEDULER_NAME):
        state = _load(folder / SCHEDULER_NAME)
        _check_scheduler(state, scheduler, [spec.lr * schedule.share(state["last_epoch"])])
        _require(fewest <= state["last_epoch"] <= record.step, f"it stands at step {state['last_epoch']}")
    with _read(OPTIMIZER_NAME):
        shapes = sorted(tuple(tensor.shape) for tensor in adapter.values())
        steps = _check_optimizer(_load(folder / OPTIMIZER_NAME), optimizer, shapes, state["_last_lr"][0])
        _require(all(fewest <= step <= record.step for step in steps), f"it stands at other steps than {record.step}")
    with _read(GENERATORS_NAME):
        _check_generators(_load(folder / GENERATORS_NAME))
    with _read(STATE_NAME):
        trainer = TrainerState.load_from_json(str(folder / STATE_NAME))
        _require((trainer.global_step, trainer.max_steps) == (record.step, record.total), "it stands at another step")
        _require(trainer.best_model_checkpoint is None, "it names another checkpoint")


def _check_scheduler(state: Any, fresh: Any, rates: list[float]) -> None:
    """Check a scheduler's state, which becomes its attributes as it is, against that of a fresh one."""
    unknown = sorted(state.keys() - fresh.state_dict().keys())
    _require(not unknown, f"{''.join(unknown[:1])} is no part of it")
    for name in ("base_lrs", "lr_lambdas"):
        _require(state[name] == fresh.state_dict()[name], f"{name} differ")
    _require(type(state["last_epoch"]) is int and state["_last_lr"] == rates, "its rate is another")


def _check_optimizer(state: Any, fresh: Any, shapes: list[tuple[int, ...]], rate: float) -> list[float]:
    """Check the state of AdamW over matrices of `shapes`; return the steps that it counts."""
    _require(state.keys() == {"state", "param_groups"}, "it is no optimiser's")
    (group,) = state["param_groups"]
    (wanted,) = fresh.state_dict()["param_groups"]
    wanted = {**wanted, "params": list(range(len(shapes))), "lr": rate}
    odd = sorted(name for name in group.keys() | wanted.keys() if group.get(name) != wanted.get(name))
    _require(not odd, f"{''.join(odd[:1])} differs")
    moments = state["state"]
    _require(not moments or list(moments) == wanted["params"], f"it is of {len(moments)} matrices")
    for number, kept in moments.items():
        _require(kept.keys() == {"step", "exp_avg", "exp_avg_sq"}, f"matrix {number} has {sorted(kept)}")
        _check_tensor("step", kept["step"], ())
        for name in ("exp_avg", "exp_avg_sq"):
            _check_tensor(name, kept[name], kept["exp_avg"].shape)
    found = sorted(tuple(kept["exp_avg"].shape) for kept in moments.values())
    _require(not moments or found == shapes, "its matrices have other shapes")
    return [float(kept["step"]) for kept in moments.values()]


def _check_generators(states: Any) -> None:
    """Check the states of the random generators by giving them to others of the same kind."""
    _require(states.keys() - {"cuda"} == {"python", "numpy", "cpu"}, "it names other generators")
    random.Random().setstate(states["python"])  # noqa: S311  # nothing is drawn
    numpy.random.RandomState().set_state(states["numpy"])
    # numpy itself would read on past the end.
    _require(0 <= states["numpy"][2] <= _TWISTER_WORDS, "numpy's stands outside of its state")
    torch.Generator().set_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.Generator("cuda").set_state(states["cuda"])


def _check_tensor(name: str, tensor: Any, shape: tuple[int, ...]) -> None:
    kind = (tensor.dtype, tensor.layout, tuple(tensor.shape))
    _require(kind == (torch.float32, torch.strided, tuple(shape)), f"{name} has another type or shape")
    _require(bool(tensor.isfinite().all()), f"{name} is not finite")


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _differences(theirs: Mapping[str, JsonScalar], ours: Mapping[str, JsonScalar]) -> str:
    parts = []
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) == ours.get(name):
            continue
        word = _WORDS.get(name, name)
        parts.append(word if name in _UNREADABLE else f"{word} ({theirs.get(name)} → {ours.get(name)})")
    more = len(parts) - _MOST_DIFFERENCES
    return ", ".join(parts[:_MOST_DIFFERENCES]) + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def _read(name: str) -> Iterator[None]:
    """Name the file in whatever reading it raises: a crafted one can make its reader raise anything."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise broken_checkpoint(f"{name} can't be read back ({said or type(error).__name__})") from error
